"""One display of progress: a bar that rewrites itself, or plain lines in a log file."""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from tqdm import TqdmExperimentalWarning, TqdmWarning
from tqdm.std import tqdm as tqdm_of_terminals

with warnings.catch_warnings():
    # A notebook without ipywidgets gets plain lines, and need not be told.
    warnings.simplefilter("ignore", TqdmWarning)
    warnings.simplefilter("ignore", TqdmExperimentalWarning)
    from tqdm.autonotebook import tqdm

from iwae_tf import terminal

_silent = False


class Progress:
    """Shows how far a long piece of work is and when it will end.

    A terminal or a notebook gets one line that is rewritten, cut to its width; a file
    or a pipe gets a whole line every ten seconds, less often the longer it takes, and
    at the end.
    """

    def __init__(self, total: int, unit: str, done: int = 0):
        """Starts the clock.

        Args:
          total: amount of work.
          unit: what is counted, in the plural.
          done: amount that an earlier start has done already.
        """
        self.total, self.unit = total, unit
        self._first = (time.monotonic(), done)
        self._bar = None
        self._is_live = sys.stdout.isatty() or tqdm is not tqdm_of_terminals
        self._last_shown = float("-inf") if self._is_live else time.monotonic()

    def restart_clock(self, done: int) -> None:
        """Forgets the time so far, in which the work was compiled and not done."""
        self._first = (time.monotonic(), done)

    def compiling(self, done: int, text: str = "") -> None:
        """Says at once that the next piece of work is being compiled.

        Args:
          done: amount of work done.
          text: what else to say.
        """
        self._show(done, [text, "compiling"])

    def update(self, done: float, text: str = "", left: float | None = None) -> None:
        """Shows the state of the work.

        Args:
          done: amount of work done.
          text: what else to say.
          left: the time to go in units of the present work, where not all units take
            the same time; by default as many as there are.
        """
        now = time.monotonic()
        start, done_before = self._first
        # Longer work gets fewer lines: at most some 50 for each doubling of its time.
        pause = 0.1 if self._is_live else max(10, 0.02 * (now - start))
        if now - self._last_shown < pause and done < self.total:
            return
        self._last_shown = now
        rate = (done - done_before) / max(now - start, 1e-9)
        parts = [text]
        if rate > 0:
            left = self.total - done if left is None else left
            speed = f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s"
            parts = [f"ETA {clock(left / rate)}", text, speed]
        self._show(done, parts)

    def _show(self, done, parts):
        if _silent:
            return
        text = "  ".join(part for part in parts if part)
        if not self._is_live:
            print(f"{100 * done / self.total:3.0f}%  {text}".rstrip(), flush=True)
            return
        if self._bar is None:
            self._bar = tqdm(
                total=self.total,
                file=sys.stdout,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%  {desc}  {bar}",
            )
        self._bar.n = done
        self._bar.set_description_str(text)

    def close(self) -> None:
        """Ends the line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def shown(what: str, n: int, is_kept: bool = True) -> Iterator[Callable[[float], None]]:
    """Says what is computed, and shows the progress over n observations.

    Args:
      what: what is computed.
      n: number of observations.
      is_kept: whether the same command goes on where it was stopped.

    Yields:
      on_progress: takes the number of observations done.
    """
    say(what)
    progress = Progress(n, "images")
    progress.compiling(0)
    is_compiled = False

    def on_progress(done):
        nonlocal is_compiled
        if not is_compiled:
            is_compiled = True
            progress.restart_clock(done)
        progress.update(done)

    try:
        yield on_progress
    except KeyboardInterrupt:
        if is_kept:
            say("\nstopped; the same command goes on after the last batch")
        raise
    finally:
        progress.close()


def clock(seconds: float | None) -> str:
    """Seconds as hours:minutes:seconds, with days before them where there are any."""
    if seconds is None:
        return "unknown"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}d ' if days else ''}{hours}:{minutes:02}:{seconds:02}"


def say(text: str, score: str = "") -> None:
    """Prints at once, also into a file.

    A terminal gets lines that are wrapped at words to its width.

    Args:
      text: one or more lines.
      score: a part of the text that a terminal shows in colour.
    """
    if _silent:
        return
    text = terminal.wrapped(text, sys.stdout, score)
    if score:
        bright = terminal.colored(score, terminal.GREEN, sys.stdout)
        text = text.replace(score, bright, 1)
    print(text, flush=True)


def say_as_it_is(text: str) -> None:
    """Prints commands and paths at once, which must be copied in one piece."""
    if not _silent:
        print(text, flush=True)


def silence() -> None:
    """Has this process show nothing more, because another one does."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether `silence` has been called."""
    return _silent
