"""What ends a run early, each told in one line."""


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


class Diverged(ArithmeticError):
    """A loss was not finite; the message says where, and what is left."""
