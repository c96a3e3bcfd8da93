import signal
import sys
import time
import weakref

import pytest

from iwae_tf import signals

KINDS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, signals.Interrupted)]


@pytest.fixture(autouse=True)
def handlers():
    """Handlers of Python outside of `handled_by`; by default SIGTERM ends a process."""
    before = {signum: signal.getsignal(signum) for signum, _ in KINDS}
    for signum in before:
        signal.signal(signum, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


class Thing:
    pass


def function_of(package, source):
    """A function as if a module of the package had it, and what it has done."""
    own = {"__name__": f"{package}.module", "done": []}
    exec(source, own)
    return own["run"], own["done"]


LOOP = "def run(call, *args):\n    for _ in range(9):\n        call(*args)\n"
RUN = "def run(call, *args):\n    call(*args)\n    done.append(1)\n"


@pytest.mark.parametrize("signum, kind", KINDS)
@pytest.mark.parametrize("between", ["keras", "abc", "tensorflow"])
def test_signal_waits_until_tensorflow_returns(signum, kind, between):
    outer, done = function_of("tensorflow", RUN)
    inner, done_inside = function_of(between, RUN)
    with pytest.raises(kind), signals.handled_by(signals.interrupt):
        outer(inner, signal.raise_signal, signum)
        done.append("its caller went on")
    assert (done_inside, done) == ([1], [1])
    assert sys.gettrace() is None


@pytest.mark.parametrize("signum, kind", KINDS)
def test_signal_does_not_wait_for_the_loops_of_keras(signum, kind):
    step, steps = function_of("tensorflow", RUN)
    fit, _ = function_of("keras", LOOP)
    with pytest.raises(kind), signals.handled_by(signals.interrupt):
        fit(step, signal.raise_signal, signum)
    assert steps == [1]


def test_signal_does_not_wait_where_something_else_traces(monkeypatch):
    run, done = function_of("tensorflow", RUN)
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    with (
        pytest.raises(signals.Interrupted),
        signals.handled_by(signals.interrupt),
    ):
        run(signal.raise_signal, signal.SIGTERM)
    assert done == []


@pytest.mark.parametrize("signum, kind", KINDS)
def test_signal_within_the_callback_of_a_weak_reference_is_not_lost(
    signum, kind, capsys
):
    thing = Thing()
    with pytest.raises(kind), signals.handled_by(signals.interrupt):
        _ = weakref.ref(thing, lambda _: signal.raise_signal(signum))
        del thing  # Python drops what the callback raises,
        for _ in range(100):  # and the signal comes again.
            time.sleep(0.01)
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

    with signals.handled_by(signals.interrupt):
        with pytest.raises(kind), signals.none_lost():
            library()
        with pytest.raises(ValueError), signals.none_lost():
            raise ValueError  # which no signal has caused


def test_other_errors_that_python_drops_are_shown(monkeypatch):
    seen, thing = [], Thing()
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with signals.handled_by(signals.interrupt):
        reference = weakref.ref(thing, lambda _: 1 / 0)
        del thing
    assert reference() is None
    assert [error.exc_type for error in seen] == [ZeroDivisionError]
