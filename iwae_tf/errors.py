"""What ends a run early, each told in one line."""


class UsageError(ValueError):
    """What a person can put right: names the argument, the rule and the value.

    The command line prints it without a traceback and exits with status 2.
    """


class Diverged(ArithmeticError):
    """A loss was not finite; the message says where, and what is left."""
