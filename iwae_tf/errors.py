"""Errors that the user sees as one line, and the checks that raise them."""

import contextlib
import difflib
import numbers
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from iwae_tf.terminal import print_error


class UsageError(ValueError):
    """An error that the user can correct: it names argument, rule and received value.

    The command line prints it without a traceback and exits with status 2.
    """

    _keras_call_info_injected = True  # so that Keras adds no lines about arguments


def check_at_least(least: float, /, **values: float) -> None:
    """Checks that every named number is large enough.

    Raises:
      UsageError: for the first value that is less than `least`, or is no number.
    """
    for name, value in values.items():
        if not (isinstance(value, numbers.Real) and value >= least):
            raise UsageError(f"{name}: must be at least {least}, got {value}")


def listed(names: Sequence[str]) -> str:
    """Two names or more as text: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


def check_one_of(choices: Sequence[str], /, **values: str) -> None:
    """Checks that every named value is one of the choices.

    Raises:
      UsageError: for the first value that is not; it suggests the most similar choice.
    """
    for name, value in values.items():
        if value not in choices:
            raise UsageError(
                f"{name}: must be one of {', '.join(choices)}, got {value!r}"
                f"{closest(value, choices)}"
            )


def check_utf8(**paths: str) -> None:
    """Checks that every named path can be written in UTF-8.

    Raises:
      UsageError: for the first path that cannot.
    """
    for name, path in paths.items():
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{name}: must be a path in UTF-8, got {ascii(path)}"
            ) from None


def closest(value: str, choices: Sequence[str]) -> str:
    """A question that suggests the choice most similar to a wrong value, or ""."""
    alike = [choice for choice in choices if value and choice.startswith(str(value))]
    alike += difflib.get_close_matches(str(value), choices, 1)
    return f"; did you mean {alike[0]}?" if alike else ""


def brief(error: Exception) -> str:
    """Type and first line of an error, for a message of one line."""
    text = f"{type(error).__name__}: {error}".strip()
    return text.splitlines()[0][:200]


@contextlib.contextmanager
def place_for_directory(name: str, path: Path) -> Iterator[None]:
    """The context in which a directory is made or first used.

    Raises:
      UsageError: in place of an OSError; it names the argument.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{name}: must be a directory or a place for one, got {str(path)!r}: "
            f"{error.strerror}"
        ) from None


def check_place_for_directory(name: str, path: Path) -> None:
    """Checks that a path is a directory, or that one can be made there.

    Raises:
      UsageError: if it, or a parent of it, is a file or cannot be entered.
    """
    with place_for_directory(name, path), contextlib.suppress(FileNotFoundError):
        os.stat(os.path.join(path, "."))  # "." is found in directories only


@contextlib.contextmanager
def told_in_one_line() -> Iterator[None]:
    """Around a small command: prints a `UsageError` and exits with status 2."""
    try:
        yield
    except UsageError as error:
        print_error(str(error))
        sys.exit(2)


class WorkerLost(RuntimeError):
    """Another worker of the team has ended, so that this one cannot go on."""


class Diverged(ArithmeticError):
    """A loss was not finite; the message names the step and the last checkpoint."""
