"""Random numbers that depend on the client and the step alone, on any device, in any stack.

PyTorch's layers draw from a global generator: their numbers depend on everything that drew before.
Here a dropout mask is a hash of the client's key, the layer's place in the forward pass, and the
position in the client's own batch. That takes a few int32 operations, exact on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ALPHA = -1.7580993408473766  # SELU of minus infinity (Klambauer et al. 2017, section 3)
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: its multiples differ in all bits


class Draws:
    """The keys of the clients in a step, which the random layers of a network share.

    Copies of the module share them too.

    Attributes:
        used: the module has random layers.
        keys: `(K, 2)` int32, one row for each client and step; None stands for zeros.
    """

    def __init__(self) -> None:
        self.used = False
        self.keys: Tensor | None = None
        self._rows, self._calls = slice(0, 1), 0
        self._only: Tensor | None = None

    def __deepcopy__(self, _: object) -> Draws:
        return self

    def begin(self, rows: slice) -> None:
        """Announce a forward pass of these rows of the stack."""
        self._rows, self._calls = rows, 0

    @contextmanager
    def only(self, keys: Tensor) -> Iterator[None]:
        """Draw by these keys alone in a part of the forward pass that sees no other clients."""
        self._only, self._calls = keys, 0
        try:
            yield
        finally:
            self._only = None

    def of(self, device: torch.device) -> Tensor:
        """Return the keys `(k, 2)` of the clients in this forward pass."""
        if self._only is not None:
            return self._only
        if self.keys is None:
            count = self._rows.stop - self._rows.start
            return torch.zeros(count, 2, dtype=torch.int32, device=device)
        return self.keys[self._rows]

    def kept(self, shape: torch.Size, share: float, device: torch.device) -> Tensor:
        """Return which entries of a layer's input are kept, each with probability `share` < 1.

        The shape is `(k * B, …)`; each call in a forward pass gets another mask.
        """
        self._calls += 1
        keys = _hash(self.of(device) ^ _int32(GOLDEN * self._calls))
        count, width = shape[0] // len(keys), shape[1:].numel()
        of_rows = _positions(keys[:, 0], count)[:, :, None]
        of_columns = _positions(keys[:, 1], width)[:, None]
        limit = min(int(share * 2**32) - 2**31, 2**31 - 1)
        return (_hash(of_rows ^ of_columns) < limit).view(shape)


def uniform(keys: Tensor, number: int, count: int) -> Tensor:
    """Return a random number in [0, 1) for each place in clients' batches, `(k, count)` float32.

    Args:
        keys: `(k, 2)` int32, see `Draws`.
        number: tells one draw from another, from 1; no mask of a layer is like one of them.
        count: the number of places.
    """
    own = _hash(keys ^ _int32(-GOLDEN * number))
    bits = _hash(_positions(own[:, 0], count) ^ own[:, 1:])
    return _shifted(bits, 8).to(torch.float32) * 2.0**-24


def _positions(keys: Tensor, count: int) -> Tensor:
    """Return a number for each position below `count`, `(k, count)`."""
    positions = torch.arange(count, dtype=torch.int32, device=keys.device)
    return _hash(_hash(positions) ^ keys[:, None])


def _hash(x: Tensor) -> Tensor:
    """Return int32 numbers whose bits each depend on all bits of x: `lowbias32` (Wellons 2018)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ _shifted(x, shift)).mul_(_int32(factor))
    return x ^ _shifted(x, 16)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Return `x >> by` of unsigned numbers; PyTorch would fill in the sign."""
    return (x >> by).bitwise_and_((1 << (32 - by)) - 1)


def _int32(number: int) -> int:
    """Return what is left of a number in 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


class _Counted(nn.Module):
    """What a layer of one of `KINDS` becomes; in evaluation it returns its input."""

    p: float
    draws: Draws

    def forward(self, x: Tensor) -> Tensor:
        """Return `(k * B, …)` with a share `p` of its entries, or channels, dropped."""
        if not self.training or not self.p:
            return x
        lead = x.shape[: self._axes(x)]
        shape = torch.Size([*lead, *[1] * (x.ndim - len(lead))])
        kept = self.draws.kept(shape, 1 - self.p, x.device).to(x.dtype)
        if not isinstance(self, nn.AlphaDropout | nn.FeatureAlphaDropout):
            return x * (kept * (1 / (1 - self.p) if self.p < 1 else 0.0))
        variance = (1 - self.p) * (1 + self.p * ALPHA**2)
        scale = variance**-0.5 if variance else 0.0
        return x * (kept * scale) + (1 - kept - self.p) * (ALPHA * scale)

    def _axes(self, x: Tensor) -> int:
        """Return how many leading axes of the input tell what is dropped on its own."""
        if isinstance(self, nn.Dropout | nn.AlphaDropout):
            return x.ndim
        if isinstance(self, nn.Dropout1d | nn.Dropout3d):  # without a batch, by PyTorch's reading
            return 1 if x.ndim == (2 if isinstance(self, nn.Dropout1d) else 4) else 2
        return 2


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(f"Counted{kind.__name__}", (_Counted, kind), {})
    for kind in (
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        *(nn.AlphaDropout, nn.FeatureAlphaDropout),
    )
}


def count_draws(module: nn.Module) -> Draws:
    """Make a module's random layers take their masks from the `Draws` that this returns."""
    draws = Draws()
    for layer in module.modules():
        if type(layer) in KINDS:
            layer.__class__ = KINDS[type(layer)]  # wherever the module holds it, with its hooks
            layer.draws = draws  # type: ignore[assignment]
            draws.used = True
    return draws
