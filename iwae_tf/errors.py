"""Errors that a person is told in one line, and checks that raise them."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path


class UsageError(ValueError):
    """What a person can put right: names the argument, the rule and the value.

    The command line prints it without a traceback and exits with status 2.
    """


def check_at_least(least: float, /, **values: float) -> None:
    """Checks named numbers.

    Raises:
      UsageError: for the first that is less.
    """
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name}: must be at least {least}, got {value}")


def check_one_of(choices: Sequence[str], /, **values: str) -> None:
    """Checks named values against a list of choices.

    Raises:
      UsageError: for the first that is not in the list, with the choice most like it.
    """
    for name, value in values.items():
        if value not in choices:
            raise UsageError(
                f"{name}: must be one of {', '.join(choices)}, got {value!r}"
                f"{closest(value, choices)}"
            )


def closest(value: str, choices: Sequence[str]) -> str:
    """A question that offers the choice most like a wrong value; "" if none is."""
    alike = [choice for choice in choices if value and choice.startswith(str(value))]
    alike += difflib.get_close_matches(str(value), choices, 1)
    return f"; did you mean {alike[0]}?" if alike else ""


@contextlib.contextmanager
def place_for_directory(name: str, path: Path) -> Iterator[None]:
    """Where a directory is made or first used.

    Raises:
      UsageError: for an error of the system, by the name of the argument.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{name}: must be a directory or a place for one, got {str(path)!r}: "
            f"{error.strerror}"
        ) from None


class Diverged(ArithmeticError):
    """A loss was not finite; the message says where, and what is left."""
