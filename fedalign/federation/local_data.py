"""A federation as a node sees it that has data of its own, in a folder."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, UserConfigValue

from fedalign.data import Dataset, Spec
from fedalign.data.folder import read_folder
from fedalign.data.forms import FORMS
from fedalign.errors import InputError
from fedalign.federation.examples import hold_out
from fedalign.federation.federation import Federation, Held, federation_of
from fedalign.network.device import pick_device
from fedalign.rng import rng
from fedalign.settings.config import Config, from_run_config

DATA_DIR = "data-dir"  # in a node's config


class Site(Federation):
    """The federation of a node whose data are all that there is in its folder.

    It trains on the folder's training part. What it tests on is the folder's test part; where there
    is none it keeps back a share of the rest, as `evaluation.holdout` says.

    Args:
        config: the run's.
        folder: see `fedalign.data.folder`.
        spec: what the server says that examples look like; everything in the folder must.
    """

    def __init__(self, config: Config, folder: Path, spec: Spec):
        super().__init__(config)
        self._folder = folder
        self.spec = spec
        self._tests = 0

    @cached_property
    def train(self) -> Dataset:
        """All data of the node, those that it only tests on at the end."""
        if not self._folder.is_dir():
            raise InputError(f"{DATA_DIR}: {str(self._folder)!r} is no folder")
        found = read_folder(self._folder, "train", self.spec)
        if found is None:
            forms = FORMS.format(part="train")
            raise InputError(f"{DATA_DIR}: {self._folder} has no training part ({forms})")
        tests = read_folder(self._folder, "test", self.spec)
        if tests is not None:
            self._tests = len(tests)
            images = torch.cat([found.images, tests.images])
            found = replace(found, images=images, labels=torch.cat([found.labels, tests.labels]))
        return found.to(pick_device(self.config.device))

    def held(self, partition: int, count: int) -> Held:  # noqa: ARG002
        """Return which of its examples the node trains on, and which it tests on."""
        rows = np.arange(len(self.train))
        if self._tests:
            return Held(rows[: -self._tests], rows[-self._tests :])
        share = self.config.evaluation.holdout
        if not share:
            return Held(rows, rows)
        return Held(*hold_out(rows, share, rng(self.config.seed, "holdout", partition)))


def federation_at(context: Context, message: Message) -> Federation:
    """Return the federation as the node of a context sees it that was sent a message."""
    folder = context.node_config.get(DATA_DIR)
    if folder is None:
        return federation_of(context.run_config)
    told = message.content.config_records.get("config", ConfigRecord())
    return _site(tuple(sorted(context.run_config.items())), str(folder), Spec.from_config(told))


@lru_cache(maxsize=1)
def _site(items: tuple[tuple[str, UserConfigValue], ...], folder: str, spec: Spec) -> Site:
    return Site(from_run_config(dict(items)), Path(folder).expanduser(), spec)


def told(folder: Path, federation: Federation) -> str:
    """Return what a node would bring into a federation, in a line; `InputError` if it cannot."""
    site = Site(federation.config, folder, federation.spec)
    held = site.held(0, 0)
    labels = site.train.labels[torch.from_numpy(held.trained)]
    classes = len(torch.unique(labels))
    return (
        f"{folder}: {len(held.trained):,} examples to train on, of {classes} of the "
        f"{site.spec.classes} classes; {len(held.tested):,} to test on"
    )
