"""The one place that runs a network forward and backward, and knows the device it is on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import is_not

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.parameters import Layout


class Network:
    """A module whose weights come from outside, as rows of stacked flat vectors.

    Args:
        module: the network; its own weights are kept as `initial` and never used again.
        data: says how images are normalised.
        device: where forward and backward run.
    """

    def __init__(self, module: nn.Module, data: Dataset, device: torch.device):
        self.layout = Layout.of(module)
        self.initial = self.layout.initial_record(module)
        self.device = device
        self._module = module.to(device)
        self._bound: tuple[int, int] | None = None
        self._received: tuple[list[bytes], Tensor] | None = None
        scale = 255.0  # images are kept as uint8 and normalised here, on the device
        self._mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1) * scale
        self._std = torch.tensor(data.std, device=device).view(1, -1, 1, 1) * scale

    def receive(self, arrays: ArrayRecord) -> Tensor:
        """Return the model `(F,)` in a message, a copy on the device.

        Clients of one round get the same bytes, which are decoded for the first of them only.
        """
        data = [array.data for array in arrays.values()]
        if self._received is None or any(map(is_not, data, self._received[0])):
            self._received = data, self.layout.to_vector(arrays).to(self.device)
        return self._received[1].clone()

    def gradients(
        self, block: Tensor, images: Sequence[Tensor], labels: Sequence[Tensor], out: Tensor
    ) -> Tensor:
        """Return the mean cross-entropy of each model on its own batch, `(K,)`.

        Args:
            block: `(K, F)` models; their BatchNorm statistics are updated in place.
            images: for each model `(B, C, H, W)` uint8.
            labels: for each model `(B,)` int64.
            out: `(K, P)`, overwritten with the gradients.
        """
        if not self._module.training:  # walking through all modules costs as much as a small layer
            self._module.train()
        out.zero_()
        losses = []
        for vector, gradient, image, label in zip(block, out, images, labels, strict=True):
            self._bind(vector, gradient)
            loss = functional.cross_entropy(self._module(self._normalise(image)), label)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses)

    @torch.no_grad()
    def evaluate(self, vector: Tensor, data: Dataset, batch_size: int) -> tuple[float, float]:
        """Return the mean cross-entropy and the accuracy of the model `(F,)` on all of `data`."""
        self._bind(vector.to(self.device))
        self._module.eval()
        loss, hits = 0.0, 0
        for start in range(0, len(data), batch_size):
            rows = slice(start, start + batch_size)
            logits = self._module(self._normalise(data.images[rows].to(self.device)))
            labels = data.labels[rows].to(self.device)
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            hits += int((logits.argmax(1) == labels).sum())
        return loss / len(data), hits / len(data)

    @torch.no_grad()
    def recalibrate(self, vector: Tensor, images: Tensor, batch_size: int) -> Tensor:
        """Return the model `(F,)` with BatchNorm statistics re-estimated on `images`.

        The statistics of an averaged model are not the average of the statistics (Jordan et al.
        2023, REPAIR), so an interpolated model must not be judged by the latter. Each layer gets
        the mean over batches. A model without BatchNorm comes back as it is.
        """
        norms = [
            m for m in self._module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        if not norms:
            return vector
        vector = vector.to(self.device, copy=True)
        self._bind(vector)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
        self._module.train()
        for start in range(0, len(images), batch_size):
            self._module(self._normalise(images[start : start + batch_size].to(self.device)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return vector

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

    def _normalise(self, images: Tensor) -> Tensor:
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return floats.sub_(self._mean).div_(self._std)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the body with `count` torch threads: their number can change the last bit of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(wanted: str) -> torch.device:
    """Return the device to run on; `auto` is the GPU, if this process sees one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {wanted!r}, but PyTorch sees {torch.cuda.device_count()} GPUs")
    return device
