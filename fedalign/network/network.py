"""The one place that runs a network forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy, deepcopy
from functools import cached_property, partial
from operator import is_not
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.nn import functional

from fedalign.data import Dataset, Spec
from fedalign.models.symmetry import Group, symmetry
from fedalign.network.device import pool
from fedalign.network.layout import Layout
from fedalign.network.mixtures import Mixes
from fedalign.network.stacked import Stacked, Tap, losses_of

WORTH_A_THREAD = 0.003  # seconds
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

Hook = Callable[[Tensor], Tensor | None]
"""Of what a module puts out: what it puts out instead; None leaves it."""
Loss = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""Of logits `(k, B, classes)`, labels `(k, B)` with -1 for what does not count, the features
`(k, B, D)` that `Network.features` means, and which of the clients these are: the loss of each
example `(k, B)`, 0 for what does not count."""


class Network:
    """A module whose weights come from outside, as rows of stacked flat vectors.

    Args:
        module: the network; its own weights are kept as `initial` and never used again.
        spec: says how images are normalised; text goes to the module as codes, int64. A data set
            says it too.
        device: where forward and backward run.
        precision: `bf16` runs them under autocast; weights and updates stay float32.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: Spec | Dataset,
        device: torch.device,
        precision: str = "float32",
    ):
        self.layout = Layout.of(module)
        self.initial = self.layout.initial_record(module)
        self.device = device
        self._module = module.to(device)
        self._bound: tuple[int, int] | None = None
        self._received: tuple[list[bytes], Tensor] | None = None
        self._shape, self._autocast = spec.shape, precision == "bf16"
        self._is_text, self._codes = spec.is_text, spec.classes if spec.is_text else 256
        scale = 255.0  # images are kept as uint8 and normalised here, on the device
        self._mean = torch.tensor(spec.mean, device=device)[None, :, None, None] * scale
        self._std = torch.tensor(spec.std, device=device)[None, :, None, None] * scale

    def receive(self, arrays: ArrayRecord) -> Tensor:
        """Return the model `(F,)` in a message, on the device; not to be changed.

        Clients of one round get the same bytes, which are decoded for the first of them only.
        """
        data = [array.data for array in arrays.values()]
        if self._received is None or any(map(is_not, data, self._received[0])):
            vector = self.layout.to_vector(arrays)
            vector = vector.pin_memory() if self.device.type == "cuda" else vector
            self._received = data, vector.to(self.device, non_blocking=True)
        return self._received[1]

    def twin(self) -> Network:
        """Return the same network once more, for a thread that works beside this one's."""
        other = copy(self)
        for key, member in vars(type(self)).items():
            if isinstance(member, cached_property):
                other.__dict__.pop(key, None)
        other._module, other._bound = deepcopy(self._module), None
        return other

    @cached_property
    def _tap(self) -> Tap:
        return Tap(self._module)

    @cached_property
    def symmetry(self) -> tuple[Group, ...]:
        """The groups of neurons that may be exchanged; none where nothing is known of a module."""
        return symmetry(self._module)

    @cached_property
    def stacked(self) -> Stacked | None:
        """The network for many models at once; None if it cannot be had, or is not the same."""
        try:
            stacked = Stacked(self._module, self.layout)
        except TypeError:
            return None
        return stacked if self._agrees(stacked) else None

    @cached_property
    def mixes(self) -> Mixes | None:
        """The network for many mixes of models at once; None where that gains nothing.

        On a CPU convolutions run one after the other anyway.
        """
        if self.stacked is None or (self.device.type == "cpu" and self.modules(nn.Conv2d)):
            return None
        return Mixes(self._module, self.layout)

    def gradients(
        self,
        block: Tensor,
        images: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
    ) -> Tensor:
        """Return the mean loss of each model on its own batch, `(K,)`.

        Args:
            block: `(K, F)` models; their BatchNorm statistics are updated in place.
            images: `(K, B, C, H, W)` uint8; of text `(K, B, L)`, here and below.
            labels: `(K, B)` int64; -1 for examples that only fill up the batch, at its end.
            sizes: how many examples of each batch count.
            out: `(K, P)`, becomes `keep * out` plus the gradients; so momentum costs nothing.
            keep: 0 overwrites what is in `out`, whatever it is.
            loss: None is cross-entropy.
        """
        stacked = self.stacked if len(block) > 1 else None
        return self._gradients(stacked, block, images, labels, sizes, out, keep, loss)

    @torch.no_grad()
    def features(self, block: Tensor, images: Tensor) -> Tensor:
        """Return what the last linear layer of each model `(K, F)` sees, `(K, B, D)`.

        Of images `(K, B, C, H, W)`, without dropout and with BatchNorm's running statistics.
        """
        self._module.eval()
        tap, found = self._tap, []
        for vector, own in zip(block, images, strict=True):
            self._bind(vector)
            with self._casting():
                self._module(self._normalise(own))
            found.append(tap.seen.float())
        return torch.stack(found)

    def watch(self, vector: Tensor, images: Tensor, modules: Iterable[str]) -> dict[str, Tensor]:
        """Return what each of these modules of the model `(F,)` puts out, by its name.

        For images `(B, C, H, W)`, without dropout and with BatchNorm's running statistics.
        """
        seen: dict[str, Tensor] = {}

        def see(name: str, out: Tensor) -> None:
            seen[name] = out.float()

        self.tap(vector, images, {name: partial(see, name) for name in modules})
        return seen

    @torch.no_grad()
    def tap(self, vector: Tensor, images: Tensor, taps: Mapping[str, Hook]) -> None:
        """Let each tap see, and replace, what the module of its name puts out, as `watch` does."""
        handles = [
            self._module.get_submodule(name).register_forward_hook(
                lambda _module, _given, out, tap=tap: tap(out)
            )
            for name, tap in taps.items()
        ]
        self._bind(vector.to(self.device))
        self._module.eval()
        with self._casting():
            self._module(self._normalise(images.to(self.device)))
        for handle in handles:
            handle.remove()

    def modules(self, *kinds: type[nn.Module]) -> dict[str, Any]:
        """Return the modules of these kinds, by name."""
        return {name: m for name, m in self._module.named_modules() if isinstance(m, kinds)}

    def evaluate(
        self, vector: Tensor, data: Dataset, batch_size: int, threads: int = 1
    ) -> tuple[float, float]:
        """Return the mean cross-entropy and the accuracy of the model `(F,)` on all of `data`.

        Batches are shared out to threads, which changes no bit of the result.
        """
        self._bind(vector.to(self.device))
        self._module.eval()
        (found,) = self._evaluate(
            lambda images: self._module(images)[None], data, batch_size, threads
        )
        return found

    def evaluate_mixes(
        self,
        models: Tensor,
        shares: Tensor | None,
        data: Dataset,
        batch_size: int,
        threads: int = 1,
    ) -> list[tuple[float, float]]:
        """Return what `evaluate` does, of K mixes at once: `shares` `(K, M)` of `models` `(M, F)`.

        Without shares, of the models themselves. Only where there are `mixes`; to within rounding
        what each would get alone.
        """
        assert self.mixes is not None
        shares = None if shares is None else shares.to(self.device)
        self.mixes.load(models.to(self.device), shares)
        return self._evaluate(self.mixes.logits, data, batch_size, threads)

    def _evaluate(
        self,
        run: Callable[[Tensor], Tensor],
        data: Dataset,
        batch_size: int,
        threads: int,
    ) -> list[tuple[float, float]]:
        """Return loss and accuracy of K models; `run` makes `(K, B, classes)` of images."""
        starts = range(0, len(data), batch_size)

        def batch(start: int) -> tuple[Tensor, Tensor]:
            rows = slice(start, start + batch_size)
            labels = data.labels[rows].to(self.device)
            with torch.no_grad(), self._casting():
                logits = run(self._normalise(data.images[rows].to(self.device))).float()
                labels = labels.expand(len(logits), -1)
                loss = losses_of(logits, labels).sum(1)
                return loss, (logits.argmax(2) == labels).sum(1)

        began = time.perf_counter()
        parts = [batch(0)]
        # Short batches keep one thread busy with Python, which a second would only wait for.
        share = threads > 1 and time.perf_counter() - began > WORTH_A_THREAD
        share = share and self.device.type == "cpu"
        parts += (pool(threads).map if share else map)(batch, starts[1:])
        losses, hits = (
            torch.stack(own).double().sum(0) / len(data) for own in zip(*parts, strict=True)
        )
        return list(zip(losses.tolist(), hits.tolist(), strict=True))

    @torch.no_grad()
    def recalibrate(self, vector: Tensor, images: Tensor, batch_size: int) -> Tensor:
        """Return the model `(F,)` with BatchNorm statistics re-estimated on `images`.

        The statistics of an averaged model are not the average of the statistics (Jordan et al.
        2023, REPAIR), so an interpolated model must not be judged by the latter. Each layer gets
        the mean over batches. Without BatchNorm, or images, the model comes back as it is.
        """
        norms = self.modules(*NORMS).values()
        if not norms or not len(images):
            return vector
        vector = vector.to(self.device, copy=True)
        self._bind(vector)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
        self._module.eval()  # dropout, say, would draw from the global generator
        for norm in norms:
            norm.train()
        for start in range(0, len(images), batch_size):
            self._module(self._normalise(images[start : start + batch_size].to(self.device)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return vector

    def _gradients(
        self,
        stacked: Stacked | None,
        block: Tensor,
        images: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
    ) -> Tensor:
        """Return what `gradients` does, by the stacked network or one model after the other."""
        if stacked is not None:
            floats, counts = self._normalise(images.flatten(0, 1)), torch.tensor(sizes)
            with self._casting():
                counts = counts.to(self.device)
                return stacked.gradients(block, floats, labels, counts, out, keep, loss)
        if not self._module.training:  # walking through all modules costs as much as a small layer
            self._module.train()
        out.mul_(keep) if keep else out.zero_()
        tap = self._tap if loss is not None else None  # from the first forward pass on
        losses = []
        for k, size in enumerate(sizes):
            self._bind(block[k], out[k])
            with self._casting():
                logits = self._module(self._normalise(images[k, :size])).float()
            own = labels[k, :size]
            if loss is None or tap is None:
                mean = functional.cross_entropy(logits, own)
            else:
                seen = tap.seen.float()[None]
                mean = loss(logits[None], own[None], seen, slice(k, k + 1)).mean()
            mean.backward()  # type: ignore[no-untyped-call]
            losses.append(mean.detach())
        return torch.stack(losses)

    def _agrees(self, stacked: Stacked) -> bool:
        """Return whether the stacked network computes what the module does, on random models.

        A module may use a layer's weights behind its back, mix examples, or draw random numbers.
        """
        count, draw, sizes = self.layout.num_parameters, torch.Generator().manual_seed(0), [4, 3]
        start = self.layout.to_vector(self.initial).repeat(2, 1)
        start[:, :count] += 0.02 * torch.randn(2, count, generator=draw)
        images = torch.randint(0, self._codes, (2, 4, *self._shape), generator=draw)
        images = images.to(self.device, torch.uint8)
        labels = torch.tensor([[0, 0, 0, 0], [0, 0, 0, -1]], device=self.device)
        autocast, self._autocast = self._autocast, False  # its rounding would hide a difference
        found = []
        for way in (None, stacked):
            block = start.to(self.device, copy=True)
            gradient = torch.full_like(block[:, :count], torch.nan)  # all must be overwritten
            loss = self._gradients(way, block, images, labels, sizes, gradient)
            found.append(torch.cat([loss, gradient.flatten(), block.flatten()]))
        self._autocast = autocast
        return bool((found[0] - found[1]).norm() <= 1e-2 * found[0].norm())

    def _bind(self, vector: Tensor, gradient: Tensor | None = None) -> None:
        """Point the module at `vector`, unless it is there: every step of a client asks again.

        What the module points at cannot be freed, so the same address is the same memory.
        """
        place = (vector.data_ptr(), 0 if gradient is None else gradient.data_ptr())
        if place != self._bound:
            self.layout.bind(self._module, vector)
            if gradient is not None:
                self.layout.bind_gradients(self._module, gradient)
            self._bound = place

    def _casting(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)

    def _normalise(self, images: Tensor) -> Tensor:
        if self._is_text:
            return images.long()
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return floats.sub_(self._mean).div_(self._std)
