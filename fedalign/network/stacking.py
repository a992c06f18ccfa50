"""How a network runs several models at once, and why it does not."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import nn

from fedalign.network.agreement import Trial
from fedalign.network.constants import constants, trained
from fedalign.network.layout import Layout
from fedalign.network.mixtures import Mixtures
from fedalign.network.random_layers import Draws
from fedalign.network.stacked import Stacked
from fedalign.network.twins import place_of

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
log = logging.getLogger("fedalign")


class Stacking(NamedTuple):
    """What runs many models at once, and how.

    Attributes:
        runner: None where models run one by one.
        reason: why the module's own layers were not stacked; "" where they are.
    """

    runner: Stacked | None
    reason: str = ""

    @property
    def line(self) -> str:
        """A sentence on what is unusual; "" where the module's own layers are stacked."""
        how = "together by vmap" if self.runner else "one by one"
        return f"clients train {how}, since {self.reason}" if self.reason else ""


def stacking(
    module: nn.Module,
    layout: Layout,
    draws: Draws,
    trial: Trial,
    device: torch.device,
    bf16: bool = False,
) -> Stacking:
    """Return how a module runs with several sets of weights: the first way that is right.

    Its layers are stacked, or else it is vmapped. On a CPU PyTorch's own LSTM layers are several
    times as fast as stacked ones, and convolutions one by one are faster than by `vmap`. Nothing is
    timed, so that results do not depend on it.
    """
    if device.type == "cpu" and (place := _first(module, nn.LSTM)):
        return alone(f"on a CPU LSTM layers are faster so ({place})", logging.INFO)
    reason = ""
    for vmapped in (False, True):
        if vmapped and device.type == "cpu" and _first(module, *CONVOLUTIONS):
            break
        try:
            runner = Stacked(module, layout, draws=draws, vmapped=vmapped)
            differs = trial.of_training(runner)
            why = f"stacked, {differs}"
        except TypeError as error:
            differs = why = str(error)
        if not differs:
            runner.bf16 = bf16  # only now: its rounding would hide a difference
            return _logged(Stacking(runner, reason), logging.INFO)
        reason = reason or why
    return alone(reason)


def alone(reason: str, level: int = logging.WARNING) -> Stacking:
    """Return that models run one by one, and log why."""
    return _logged(Stacking(None, reason), level)


def _logged(found: Stacking, level: int) -> Stacking:
    if found.line:
        log.log(level, found.line)
    return found


class Mixing(NamedTuple):
    """What evaluates many mixtures of models at once.

    Attributes:
        runner: None where mixtures are evaluated one by one.
        reason: why they are; "" if they are evaluated at once.
    """

    runner: Mixtures | None
    reason: str = ""


def mixing(
    module: nn.Module, layout: Layout, trial: Trial, device: torch.device, bf16: bool = False
) -> Mixing:
    """Return how mixtures of models are evaluated: at once, if that is right and gains anything.

    On a CPU convolutions run one after the other anyway. A network with constants may begin with
    what all mixtures share.
    """
    if device.type == "cpu" and (place := _first(module, *CONVOLUTIONS)):
        return Mixing(None, f"on a CPU nothing is gained with convolutions ({place})")
    for spread in (False, True) if constants(module) else (False,):
        try:
            found = Mixtures(module, layout, spread=spread)
            differs = trial.of_mixtures(found)
            why = f"together {differs}"
        except TypeError as error:
            differs = why = str(error)
        if not differs:
            found.bf16 = bf16
            return Mixing(found)
    log.warning("mixes of models are evaluated one by one, since %s", why)
    return Mixing(None, why)


def _first(module: nn.Module, *kinds: type[nn.Module]) -> str:
    """Return the first layer of these kinds that trains by name; "" if there is none."""
    found = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds))
    return next((place_of(*own) for own in found if trained(own[1])), "")
