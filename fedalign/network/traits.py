"""What is known of a module: what its outputs depend on, and which batches it can train on."""

from __future__ import annotations

import traceback
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedalign.errors import code_at
from fedalign.network.constants import copied
from fedalign.network.device import without_cudnn
from fedalign.network.inputs import Inputs
from fedalign.network.state import State
from fedalign.network.twins import place_of
from fedalign.seeding import seeded, watched

LAYERS = str(Path(nn.__file__).parent)  # where PyTorch's own are


class Reads(TorchFunctionMode):
    """Finds the first place at which code reads a number out of a tensor, such as by `if x > 0`."""

    NAMES: ClassVar = {
        *("item", "tolist", "numpy", "equal", "allclose", "__array__"),
        *("__bool__", "__float__", "__int__", "__index__"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.place = ""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return what the function does, after a look at its name."""
        if getattr(function, "__name__", "") in self.NAMES and not self.place:
            frames = traceback.extract_stack()[:-1]
            if not frames[-1].filename.startswith(LAYERS):  # stacked layers know what these do
                self.place = code_at(frames)
        return function(*args, **(kwargs or {}))


class Traits:
    """Finds out, on copies of a module, what its layers do not say; each thing when first asked.

    Args:
        module: a copy that nothing else runs.
        inputs: makes its inputs.
    """

    def __init__(self, module: nn.Module, inputs: Inputs):
        self._module, self._inputs = module, inputs

    @cached_property
    def depends(self) -> dict[bool, str]:
        """On what else than weights and inputs outputs depend, in training or not; "": nothing."""
        return {training: depends for training, (depends, _) in self._probed.items()}

    @cached_property
    def reads(self) -> dict[bool, str]:
        """Where the network's code decides by numbers in tensors, in training or not; "": nowhere.

        Such code sees one model and one batch at a time, and must not see several at once.
        """
        return {training: reads for training, (_, reads) in self._probed.items()}

    @cached_property
    def needs_two(self) -> str:
        """The layer that cannot train on a batch of one example, by name; "" if all can."""
        one = self._flaw(1)
        return one if one and not self._flaw(2) else ""

    def check_logits(self, classes: int) -> None:
        """Raise `TypeError` unless the module makes a row of numbers for each example."""
        probe = copied(self._module).eval()
        with seeded(0, "probe"), torch.no_grad():
            found = probe(self._inputs.random(2))
        if not isinstance(found, Tensor):
            raise TypeError(f"it returns a {type(found).__name__}, not a tensor of logits")
        if found.ndim != 2 or len(found) != 2 or found.shape[1] < classes:
            shape = f"{tuple(found.shape)} for two examples of {classes} classes"
            raise TypeError(f"it returns logits of shape {shape}, not (2, {classes})")

    @cached_property
    def _probed(self) -> dict[bool, tuple[str, str]]:
        return {training: self._probe(training) for training in (True, False)}

    def _probe(self, training: bool) -> tuple[str, str]:
        """Return what `depends` and `reads` have of the network in training or not."""
        probe, reads = copied(self._module).train(training), Reads()
        state = State(probe)
        # cuDNN would hide the draws of recurrent layers.
        with watched(0, "probe") as drawn, without_cudnn(), reads:
            probe(self._inputs.random(2))
        changed, depends = state.changed(), ""
        if drawn.names:
            depends = f"the network draws from the global generator of {' and '.join(drawn.names)}"
        elif changed:
            depends = f"the network changes its {changed!r} when it runs"
        place = f"the network's code reads numbers out of tensors ({reads.place})"
        return depends, place if reads.place else ""

    def _flaw(self, count: int) -> str:
        """Return the layer that fails on so many examples, or makes numbers that are not finite."""
        probe, entered, flawed = copied(self._module).train(), list[str](), list[str]()
        for name, layer in probe.named_modules():
            place = place_of(name, layer)

            def enter(_layer: nn.Module, _inputs: object, place: str = place) -> None:
                entered.append(place)

            def leave(_layer: nn.Module, _inputs: object, out: object, place: str = place) -> None:
                entered.pop()
                if isinstance(out, Tensor) and not out.isfinite().all():
                    flawed.append(place)

            layer.register_forward_pre_hook(enter)
            layer.register_forward_hook(leave)
        with seeded(0, "probe"):
            try:
                probe(self._inputs.random(count)).sum().backward()
            except Exception:  # PyTorch's layers raise a ValueError, a user's own code anything
                return entered[-1] if entered else ""
        gradients = [p.grad for p in probe.parameters() if p.grad is not None]
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        return flawed[0] if flawed else "" if finite else place_of("", probe)
