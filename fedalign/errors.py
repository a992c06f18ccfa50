"""Exceptions for errors that fedalign can explain; the command line prints each as one line."""


class FedalignError(Exception):
    """A run failed for a reason that the message explains; exit code 1."""

    exit_code = 1


class InputError(FedalignError):
    """The user's input is wrong; the message names value, place and allowed values; exit code 2."""

    exit_code = 2
