import signal
import sys
import time
import weakref

import pytest

from iwae_tf import signals


class Thing:
    pass


@pytest.mark.parametrize(
    "signum, kind",
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Interrupted)],
)
def test_signal_within_the_callback_of_a_weak_reference_is_not_lost(
    signum, kind, capsys
):
    former, thing = signal.signal(signum, signal.default_int_handler), Thing()
    try:
        with pytest.raises(kind), signals.handled_by(signals.interrupt):
            _ = weakref.ref(thing, lambda _: signal.raise_signal(signum))
            del thing  # Python drops what the callback raises,
            for _ in range(100):  # and the signal comes again.
                time.sleep(0.01)
    finally:
        signal.signal(signum, former)
    assert capsys.readouterr().err == ""


def test_other_errors_that_python_drops_are_shown(monkeypatch):
    seen, thing = [], Thing()
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with signals.handled_by(signals.interrupt):
        reference = weakref.ref(thing, lambda _: 1 / 0)
        del thing
    assert reference() is None
    assert [error.exc_type for error in seen] == [ZeroDivisionError]
