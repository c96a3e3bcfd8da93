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


@pytest.mark.parametrize(
    "signum, kind",
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Interrupted)],
)
@pytest.mark.parametrize("other", [SystemError, None])
def test_signal_whose_error_a_library_drops_or_replaces_is_not_lost(
    signum, kind, other
):
    def library():
        try:
            signal.raise_signal(signum)
        except KeyboardInterrupt:
            if other:
                raise other from None

    former = signal.signal(signum, signal.default_int_handler)
    try:
        with signals.handled_by(signals.interrupt):
            with pytest.raises(kind), signals.none_lost():
                library()
            with pytest.raises(ValueError), signals.none_lost():
                raise ValueError  # which no signal has caused
    finally:
        signal.signal(signum, former)


def test_other_errors_that_python_drops_are_shown(monkeypatch):
    seen, thing = [], Thing()
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with signals.handled_by(signals.interrupt):
        reference = weakref.ref(thing, lambda _: 1 / 0)
        del thing
    assert reference() is None
    assert [error.exc_type for error in seen] == [ZeroDivisionError]
