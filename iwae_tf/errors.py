"""What a person can put right: a bad flag, file or value."""


class UsageError(ValueError):
    """One line that names the argument, the rule and the value received.

    The command line prints it without a traceback and exits with status 2.
    """
