"""A partition that is written down: which client owns which examples, from a file."""

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
    """The indices in a file, as they stand there: somebody else's partition, exactly.

    JSON holds a list of lists, or a table `{"0": [...], "1": [...]}` by client number; `.npz` holds
    arrays named `0`, `1` and so on. Indices count the training examples from 0, in the order of the
    data set. No randomness.
    """

    file: Annotated[str, Field(description="JSON or .npz; must be given")] = ""
    overlap: Annotated[bool, Field(description="an example may belong to several clients")] = False
    partial: Annotated[bool, Field(description="an example may belong to nobody")] = False

    def split(
        self,
        labels: Indices,
        num_clients: int,
        rng: np.random.Generator,  # noqa: ARG002
    ) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: The file is no partition of these examples to so many clients.
        """
        shares = [_sorted(self.file, k, share) for k, share in enumerate(_read(self.file))]
        if len(shares) != num_clients:
            told = f"has {len(shares)} clients, not num_clients={num_clients}"
            raise InputError(f"{self.file}: {told}")
        every = np.concatenate(shares)
        wrong = every[(every < 0) | (every >= len(labels))]
        if len(wrong):
            raise InputError(f"{self.file}: index {wrong[0]} is outside 0..{len(labels) - 1}")
        counts = np.bincount(every, minlength=len(labels))
        if counts.max() > 1 and not self.overlap:
            told = f"index {counts.argmax()} belongs to {counts.max()} clients"
            raise InputError(f"{self.file}: {told}, which needs partition.overlap=true")
        if counts.min() < 1 and not self.partial:
            told = f"{(counts < 1).sum()} of {len(labels)} examples, such as {counts.argmin()}"
            raise InputError(f"{self.file}: {told}, belong to nobody: needs partition.partial=true")
        return shares


def _sorted(file: str, client: int, share: npt.NDArray[Any]) -> Indices:
    if share.ndim != 1 or not len(share) or share.dtype.kind not in "iu":
        raise InputError(f"{file}: client {client} has no flat list of whole numbers, or an empty")
    unique = np.unique(share).astype(np.int64)
    if len(unique) < len(share):
        raise InputError(f"{file}: client {client} has an index twice")
    return unique


def _read(file: str) -> list[npt.NDArray[Any]]:
    """Return the clients' indices as they stand in a file."""
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
        raise InputError(f"{file}: no lists of indices by client number 0, 1, …: {error}") from None


def _in_order(told: Mapping[str, Any] | Sequence[Any]) -> list[npt.NDArray[Any]]:
    lists = [told[str(k)] for k in range(len(told))] if isinstance(told, Mapping) else list(told)
    return [np.asarray(share) for share in lists]
