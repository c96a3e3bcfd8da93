"""One progress display: a line that rewrites itself, or plain lines in a log file."""

import sys
import time


class Progress:
    """Shows how far a long piece of work is and when it will end.

    A terminal gets one line that is rewritten; a file or a pipe gets a whole line
    every ten seconds, less often the longer it takes, and at the end.
    """

    def __init__(self, total: int, unit: str, done: int = 0):
        """Starts the clock.

        Args:
          total: amount of work.
          unit: what is counted, in the plural.
          done: what an earlier start has done already.
        """
        self.total, self.unit = total, unit
        self._is_terminal = sys.stdout.isatty()
        self._first = (time.monotonic(), done)
        self._last_shown = float("-inf") if self._is_terminal else time.monotonic()
        self._width = 0

    def restart_clock(self, done: int) -> None:
        """Forgets the time so far, which compiled and did not work."""
        self._first = (time.monotonic(), done)

    def update(self, done: int, text: str = "", left: float | None = None) -> None:
        """Shows the state of the work.

        Args:
          done: amount of work done.
          text: what else to say.
          left: how many units of those at hand the rest takes as long as, where not
            all take the same.
        """
        now = time.monotonic()
        start, done_before = self._first
        # Longer work gets fewer lines: at most some 50 for each doubling of its time.
        pause = 0.1 if self._is_terminal else max(10, 0.02 * (now - start))
        if now - self._last_shown < pause and done < self.total:
            return
        self._last_shown = now
        rate = (done - done_before) / max(now - start, 1e-9)
        parts = [f"{100 * done / self.total:3.0f}%", text]
        if rate > 0:
            parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s")
            left = self.total - done if left is None else left
            parts.append(f"ETA {clock(left / rate)}")
        line = "  ".join(part for part in parts if part)
        if self._is_terminal:
            print("\r" + line.ljust(self._width), end="", flush=True)
            self._width = len(line)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._is_terminal and self._width:
            print(flush=True)
            self._width = 0


def clock(seconds: float) -> str:
    """Seconds as hours:minutes:seconds, with days before them where there are any."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}d ' if days else ''}{hours}:{minutes:02}:{seconds:02}"


def say(line: str) -> None:
    """Prints at once, also into a file."""
    print(line, flush=True)
