"""The signals that ask a process to stop."""

import _thread
import contextlib
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator


class Interrupted(KeyboardInterrupt):
    """Another signal than that of Ctrl-C asked the process to stop, as clusters do.

    Attributes:
      signum: the number of the signal.
    """

    def __init__(self, signum: int):
        """Takes the number of the signal."""
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


_raised: list[int] = []  # the signals for which `interrupt` has raised an error


def interrupt(signum: int, frame: types.FrameType | None = None) -> None:
    """A handler that raises an error for the signal.

    While TensorFlow runs, the error is raised when it returns to its caller. It calls
    Python from C++, where an error that nothing expects ends the process by a
    segmentation fault, or becomes another error.

    Args:
      signum: the number of the signal.
      frame: what the signal has stopped; None raises the error at once.

    Raises:
      KeyboardInterrupt: for Ctrl-C.
      Interrupted: for another signal.
    """
    caller = _caller_of_tensorflow(frame)
    if caller is not None and sys.gettrace() is None:

        def stop(*event):
            sys.settrace(None)
            caller.f_trace = None
            interrupt(signum)

        caller.f_trace = stop
        sys.settrace(lambda *event: None)
        return
    _raised.append(signum)
    raise KeyboardInterrupt if signum == signal.SIGINT else Interrupted(signum)


def _caller_of_tensorflow(frame):
    """The frame to which TensorFlow returns; None if it does not run.

    It may have called Keras, as where it converts a variable.
    """
    runs = False
    while frame is not None:
        package = (frame.f_globals.get("__name__") or "").partition(".")[0]
        if package == "tensorflow":
            runs = True
        elif package not in sys.stdlib_module_names and (runs or package != "keras"):
            return frame if runs else None
        frame = frame.f_back
    return None


@contextlib.contextmanager
def none_lost() -> Iterator[None]:
    """The context of code that may drop or replace the error of `interrupt`.

    Libraries in C do so where they call Python and take an error of it for an answer.

    Raises:
      KeyboardInterrupt: if the context ends otherwise after a signal.
    """
    before = len(_raised)
    try:
        yield
    except Exception:
        if len(_raised) > before:
            interrupt(_raised[-1])
        raise
    if len(_raised) > before:
        interrupt(_raised[-1])


@contextlib.contextmanager
def handled_by(handler: Callable) -> Iterator[None]:
    """The context in which a handler gets the signals that ask a process to stop.

    These are those of Ctrl-C (SIGINT), of a cluster or `kill` (SIGTERM), and of a
    terminal that closes (SIGHUP). One that is ignored, as in a shell's background job,
    remains so. Only the main thread gets signals; elsewhere nothing is changed.

    A signal can arrive while Python runs the callback of a weak reference or a
    finaliser, where it drops every error. The signal is then sent again, so that none
    is lost.

    Args:
      handler: function (signum, frame).
    """
    before, show = {}, sys.unraisablehook

    def send_again_or_show(unraisable):
        error = unraisable.exc_value
        if isinstance(error, KeyboardInterrupt):
            signum = getattr(error, "signum", signal.SIGINT)
            with contextlib.suppress(ValueError):
                _raised.remove(signum)  # It is raised anew.
            # A `threading.Thread` takes locks that the main thread may hold here.
            _thread.start_new_thread(_send_later, (signum,))
        else:
            show(unraisable)

    if threading.current_thread() is threading.main_thread():
        sys.unraisablehook = send_again_or_show
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signum = getattr(signal, name, None)  # Windows has no SIGHUP
            if signum and signal.getsignal(signum) not in (signal.SIG_IGN, None):
                before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)
        if sys.unraisablehook is send_again_or_show:
            sys.unraisablehook = show


def _send_later(signum):
    time.sleep(0.01)
    _thread.interrupt_main(signum)


def keep_ctrl_c_quiet() -> None:
    """Lets Ctrl-C end the process without a traceback where nothing handles it."""
    show = sys.excepthook

    def show_others(kind, error, traceback):
        if not issubclass(kind, KeyboardInterrupt):
            show(kind, error, traceback)

    sys.excepthook = show_others
