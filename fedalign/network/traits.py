"""What is known of a module: what its outputs depend on, and which batches it can train on."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property

from torch import Tensor, nn

from fedalign.network.device import without_cudnn
from fedalign.network.inputs import Inputs
from fedalign.network.state import State
from fedalign.network.twins import place_of
from fedalign.seeding import seeded, watched


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
        return {training: self._dependence(training) for training in (True, False)}

    @cached_property
    def needs_two(self) -> str:
        """The layer that cannot train on a batch of one example, by name; "" if all can."""
        one = self._flaw(1)
        return one if one and not self._flaw(2) else ""

    def _dependence(self, training: bool) -> str:
        probe = deepcopy(self._module).train(training)
        state = State(probe)
        # cuDNN would hide the draws of recurrent layers.
        with watched(0, "probe") as drawn, without_cudnn():
            probe(self._inputs.random(2))
        if drawn.names:
            return f"the network draws from the global generator of {' and '.join(drawn.names)}"
        changed = state.changed()
        return f"the network changes its {changed!r} when it runs" if changed else ""

    def _flaw(self, count: int) -> str:
        """Return the layer that fails on so many examples, or makes numbers that are not finite."""
        probe, entered, flawed = deepcopy(self._module).train(), list[str](), list[str]()
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
