import signal
import sys
import time
import weakref

import pytest

from iwae_tf import signals

KINDS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Interrupted)]


class Thing:
    pass


@pytest.mark.parametrize("package", ["tensorflow", "keras"])
@pytest.mark.parametrize("signum, kind", KINDS)
def test_signal_waits_until_tensorflow_returns(signum, kind, package):
    own = {"__name__": f"{package}.python.ops", "signal": signal, "done": []}
    exec(
        "def run(signum, between):\n"
        "    between(signum)\n"  # as where C++ calls Python
        "    done.append(signum)\n",
        own,
    )
    former = signal.signal(signum, signal.default_int_handler)
    try:
        with pytest.raises(kind), signals.handled_by(signals.interrupt):
            own["run"](signum, signal.raise_signal)
            own["done"].append("its caller went on")
    finally:
        signal.signal(signum, former)
    assert own["done"] == [signum]
    assert sys.gettrace() is None


def test_signal_does_not_wait_where_something_else_traces(monkeypatch):
    own = {"__name__": "tensorflow", "signal": signal, "done": []}
    exec("def run(signum):\n    signal.raise_signal(signum)\n    done.append(1)\n", own)
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            pytest.raises(signals.Interrupted),
            signals.handled_by(signals.interrupt),
        ):
            own["run"](signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert own["done"] == []


@pytest.mark.parametrize("signum, kind", KINDS)
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


@pytest.mark.parametrize("signum, kind", KINDS)
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
