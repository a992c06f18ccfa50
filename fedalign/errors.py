"""What fedalign raises when the run cannot go on; the command line turns each into one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedalignError(Exception):
    """A run that failed for a reason the message explains; exit code 1."""

    exit_code = 1


class InputError(FedalignError):
    """Something the user gave is wrong: the value, the place and what is allowed; exit code 2."""

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
