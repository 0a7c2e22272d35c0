"""The base of errors that a user can mend: commands print their message in one line and exit with status 2."""


class UserError(ValueError):
    """A bad argument, key, file or checkpoint; the message names it, the place and what was expected."""
