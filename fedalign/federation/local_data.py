"""The federation as seen by a node that holds its own data, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, UserConfigValue

from fedalign.data import Dataset, Spec
from fedalign.data.folder import read_folder
from fedalign.data.forms import FORMS
from fedalign.errors import InputError
from fedalign.federation.examples import Held, hold_out
from fedalign.federation.federation import Federation, federation_of
from fedalign.network.device import device_of
from fedalign.rng import rng
from fedalign.settings.config import Config, from_run_config

DATA_DIR = "data-dir"  # in a node's config
CONSTANTS = "constants"  # in a message's config: the digest of what never trains


@dataclass(frozen=True, eq=False)
class LocalExamples:
    """The examples of a node that holds its own data: all of them belong to its one client.

    Attributes:
        data: the training part of the node's folder, followed by its test part.
        tests: the number of examples in the test part; where it is 0, the client holds out a share
            of the others.
        holdout: that share, see `evaluation.holdout`.
        seed: the run's.
    """

    data: Dataset
    tests: int
    holdout: float
    seed: int

    def held(self, partition: int, num_clients: int) -> Held:  # noqa: ARG002
        """Return the rows that the node trains on and those that it tests on."""
        rows = np.arange(len(self.data))
        if self.tests:
            return Held(rows[: -self.tests], rows[-self.tests :])
        if not self.holdout:
            return Held(rows)
        return Held(*hold_out(rows, self.holdout, rng(self.seed, "holdout", partition)))

    def seen(
        self,
        num_clients: int,  # noqa: ARG002
        partitions: Sequence[int],  # noqa: ARG002
        rows: Sequence[np.ndarray],
    ) -> tuple[Dataset, list[np.ndarray]]:
        """Return the data as they are, and the same rows: no partitioner has changed them."""
        return self.data, list(rows)


def federation_at(context: Context, message: Message) -> Federation:
    """Return the federation as seen by the node of a context.

    A node that holds its own data learns from the message what examples look like.

    Raises:
        InputError: what never trains is not the same here as at the server.
    """
    told = message.content.config_records.get("config", ConfigRecord())
    found = _federation_at(context, told)
    wanted = told.get(CONSTANTS)
    if wanted and wanted != found.constants:
        raise InputError(
            f"what never trains is not the same at the server ({wanted!s}) and here "
            f"({found.constants or 'nothing'}): model.weights must be the same file on all machines"
        )
    return found


def _federation_at(context: Context, told: ConfigRecord) -> Federation:
    folder = context.node_config.get(DATA_DIR)
    if folder is None:
        return federation_of(context.run_config)
    spec = Spec.from_config(told)
    return _local(tuple(sorted(context.run_config.items())), str(folder), spec)


@lru_cache(maxsize=1)
def _local(items: tuple[tuple[str, UserConfigValue], ...], folder: str, spec: Spec) -> Federation:
    return local_federation(from_run_config(dict(items)), Path(folder).expanduser(), spec)


def local_federation(config: Config, folder: Path, spec: Spec) -> Federation:
    """Return the federation as seen by a node whose data are in `folder`.

    Args:
        config: the run's.
        folder: see `fedalign.data.folder`.
        spec: what every example in the folder must look like.

    Raises:
        InputError: the folder is missing, has no training part, or holds other examples.
    """
    if not folder.is_dir():
        raise InputError(f"{DATA_DIR}: {str(folder)!r} is no folder")
    data = read_folder(folder, "train", spec)
    if data is None:
        forms = FORMS.format(part="train")
        raise InputError(f"{DATA_DIR}: {folder} has no training part ({forms})")
    if (tests := read_folder(folder, "test", spec)) is not None:
        images = torch.cat([data.images, tests.images])
        data = replace(data, images=images, labels=torch.cat([data.labels, tests.labels]))
    data = data.to(device_of(config))
    holdout, seed = config.evaluation.holdout, config.seed
    return Federation(config, LocalExamples(data, len(tests or ()), holdout, seed))


def description(folder: Path, federation: Federation) -> str:
    """Return a line on what a node would bring into a federation; `InputError` if it cannot."""
    local = local_federation(federation.config, folder, federation.spec)
    held = local.held(0, 0)
    classes = len(torch.unique(local.train.labels[torch.from_numpy(held.trained)]))
    return (
        f"{folder}: {len(held.trained):,} examples to train on, of {classes} of the "
        f"{local.spec.classes} classes; {len(held.tested):,} to test on"
    )
