"""What ends a run early, each told in one line."""

import contextlib
from collections.abc import Iterator
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
