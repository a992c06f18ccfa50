"""Exceptions for errors that fedalign can explain; the command line prints each as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedalignError(Exception):
    """A run failed for a reason that the message explains; exit code 1."""

    exit_code = 1


class InputError(FedalignError):
    """The user's input is wrong; the message names value, place and allowed values; exit code 2."""

    exit_code = 2


class BadValueError(InputError):
    """A setting that is not allowed, and the dotted place where it stands."""

    def __init__(self, place: str, message: str):
        super().__init__(f"{place}: {message}")
        self.place, self.message = place, message


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the likeliest name, then all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} ({', '.join(known) or 'none'})"
