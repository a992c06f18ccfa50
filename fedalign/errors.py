"""What fedalign raises when the run cannot go on; the command line turns each into one line."""


class FedalignError(Exception):
    """A run that failed for a reason the message explains; exit code 1."""

    exit_code = 1


class InputError(FedalignError):
    """Something the user gave is wrong: the value, the place and what is allowed; exit code 2."""

    exit_code = 2
