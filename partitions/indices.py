"""A partition from a file that lists which client owns which examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices


@dataclass(frozen=True)
class FixedIndices:
    """Exactly the indices in a file, for instance the partition of another study.

    A JSON file holds a list of lists, or a table `{"0": [...], "1": [...]}` by client number; an
    `.npz` file holds arrays named `0`, `1` and so on. Indices count the training examples from 0,
    in the order of the data set. There is no randomness.
    """

    names_rows = True

    file: Annotated[
        str,
        Field(
            description="JSON or .npz file, such as fedalign partition --save writes; must be given"
        ),
    ] = ""
    overlap: Annotated[bool, Field(description="allow an example to belong to several clients")] = (
        False
    )
    partial: Annotated[bool, Field(description="allow an example to belong to no client")] = False

    def split(
        self,
        labels: Indices,
        num_clients: int,
        rng: np.random.Generator,  # noqa: ARG002
    ) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: The file does not divide these examples among `num_clients` clients.
        """
        shares = [_sorted(self.file, k, share) for k, share in enumerate(_read(self.file))]
        if len(shares) != num_clients:
            found = f"has {len(shares)} clients, not num_clients={num_clients}"
            raise InputError(f"{self.file}: {found}")
        every = np.concatenate(shares)
        wrong = every[(every < 0) | (every >= len(labels))]
        if len(wrong):
            raise InputError(f"{self.file}: index {wrong[0]} is outside 0..{len(labels) - 1}")
        counts = np.bincount(every, minlength=len(labels))
        if counts.max() > 1 and not self.overlap:
            found = f"index {counts.argmax()} belongs to {counts.max()} clients"
            raise InputError(f"{self.file}: {found}, which needs partition.overlap=true")
        if counts.min() < 1 and not self.partial:
            found = f"{(counts < 1).sum()} of {len(labels)} examples, such as {counts.argmin()}"
            raise InputError(f"{self.file}: {found}, have no owner: needs partition.partial=true")
        return shares


def _sorted(file: str, client: int, share: npt.NDArray[Any]) -> Indices:
    if share.ndim != 1 or not len(share) or share.dtype.kind not in "iu":
        raise InputError(f"{file}: client {client} needs a flat, non-empty list of whole numbers")
    unique = np.unique(share).astype(np.int64)
    if len(unique) < len(share):
        raise InputError(f"{file}: client {client} has an index twice")
    return unique


def _read(file: str) -> list[npt.NDArray[Any]]:
    """Return the indices of each client, unchecked."""
    if not file:
        raise InputError("partition.file: must be given: JSON or .npz, with indices by client")
    try:
        if Path(file).suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return _in_order(dict(archive))
        return _in_order(json.loads(Path(file).read_text("utf-8")))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(f"{file}: needs lists of indices by client 0, 1, …: {error}") from None


def _in_order(content: Mapping[str, Any] | Sequence[Any]) -> list[npt.NDArray[Any]]:
    if isinstance(content, Mapping):
        content = [content[str(client)] for client in range(len(content))]
    return [np.asarray(share) for share in content]
