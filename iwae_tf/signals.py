"""The signals that ask a process to stop."""

import contextlib
import signal
import sys
import threading
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


def interrupt(signum: int, frame=None) -> None:
    """A handler that raises an error for the signal.

    Raises:
      KeyboardInterrupt: for Ctrl-C.
      Interrupted: for another signal.
    """
    raise KeyboardInterrupt if signum == signal.SIGINT else Interrupted(signum)


@contextlib.contextmanager
def handled_by(handler: Callable) -> Iterator[None]:
    """The context in which a handler gets the signals that ask a process to stop.

    These are those of Ctrl-C (SIGINT), of a cluster or `kill` (SIGTERM), and of a
    terminal that closes (SIGHUP). One that is ignored, as in a shell's background job,
    remains so. Only the main thread gets signals; elsewhere nothing is changed.

    Args:
      handler: function (signum, frame).
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signum = getattr(signal, name, None)  # Windows has no SIGHUP
            if signum and signal.getsignal(signum) not in (signal.SIG_IGN, None):
                before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)


def keep_ctrl_c_quiet() -> None:
    """Lets Ctrl-C end the process without a traceback where nothing handles it."""
    show = sys.excepthook

    def show_others(kind, error, traceback):
        if not issubclass(kind, KeyboardInterrupt):
            show(kind, error, traceback)

    sys.excepthook = show_others
