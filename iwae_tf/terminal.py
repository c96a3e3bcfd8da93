"""What a terminal can show and a file or a pipe cannot: colours, lines of its width."""

import os
import sys
import textwrap
from typing import TextIO

GREEN, RED = "1;32", "1;31"
_TIED = "\N{NO-BREAK SPACE}"  # a space at which no line is wrapped


def has_color(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, and the user wants them.

    Reference: https://no-color.org
    """
    is_unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not is_unwanted


def colored(text: str, color: str, stream: TextIO) -> str:
    """A text in a colour where the stream shows colours, and the text itself elsewhere.

    Args:
      text: the text.
      color: the parameters of the escape code, such as `GREEN`.
      stream: where the text is printed.
    """
    return f"\033[{color}m{text}\033[0m" if has_color(stream) else text


def wrapped(text: str, stream: TextIO, together: str = "") -> str:
    """Lines that are wrapped at words to the width of a terminal, and not elsewhere.

    Args:
      text: one or more lines.
      stream: where the lines are printed.
      together: a part of the text that stays on one line.
    """
    if not stream.isatty():
        return text
    width = os.get_terminal_size(stream.fileno()).columns
    tied = together.replace(" ", _TIED)
    if together:
        text = text.replace(together, tied)
    lines = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(
            line,
            width or 80,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        or [""]
    ]
    text = "\n".join(lines)
    return text.replace(tied, together) if together else text


def print_error(text: str) -> None:
    """Prints an error to standard error, in one line."""
    head = colored("error:", RED, sys.stderr)
    print(f"{head} {text}", file=sys.stderr, flush=True)
