"""Whether the nodes of a cluster have the folders and the code of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from fedalign.errors import InputError
from fedalign.runs.sources import code_of


@dataclass(frozen=True)
class Ground:
    """What each node must have.

    Attributes:
        folder: in which the command was given.
        marks: by folder `out`, a file in it that nobody but the command can have made.
        tops: top-level modules of the user's parts.
        code: `code_of` these, where the command was given.
    """

    folder: str
    marks: Mapping[str, str]
    tops: frozenset[str]
    code: Mapping[str, str]

    def unseen(self) -> str | None:
        """Return which folder this machine does not have, as a predicate; None if it has all."""
        if not Path(self.folder).is_dir():
            return f"has no folder {self.folder}, in which the command was given"
        for out, mark in self.marks.items():
            if not Path(mark).is_file():
                cure = "give --out a folder that all nodes share"
                return f"does not see {out} as it is here, and runs are to be written there: {cure}"
            if not os.access(out, os.W_OK):
                return f"may not write to {out}"
        return None

    def fault(self) -> str | None:
        """Return what is wrong with this machine, as a predicate; None if nothing is."""
        if told := self.unseen():
            return told
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        own = code_of(self.tops)
        differing = [
            f"{name} ({own.get(name, 'none')}, here {self.code.get(name, 'none')})"
            for name in sorted(own.keys() | self.code.keys())
            if own.get(name) != self.code.get(name)
        ]
        return f"has other code than there is here: {', '.join(differing)}" if differing else None


@contextmanager
def ground_of(folder: str, outs: Collection[Path], tops: frozenset[str]) -> Iterator[Ground]:
    """Yield what each node must have; marks stay for the context.

    Raises:
        InputError: a folder cannot be written to.
    """
    with ExitStack() as marked:
        marks = {}
        for out in sorted(set(outs)):
            try:
                out.mkdir(parents=True, exist_ok=True)
                mark = marked.enter_context(NamedTemporaryFile(prefix=".fedalign-", dir=out))
            except OSError as error:
                raise InputError(f"out: cannot write to '{out}': {error.strerror}") from None
            marks[str(out)] = mark.name
        yield Ground(folder, marks, tops, code_of(tops))
