"""Feature skew: clients see the same kind of thing differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedalign.errors import InputError
from fedalign.partitioning import split
from fedalign.settings.contracts import TransformsImages
from fedalign.settings.registry import Part, parse
from partitions import Indices

BasePart = Annotated[Part | str, "partitioners"]


@dataclass(frozen=True)
class FeatureSkew:
    """Images of each client noisier or turned further than the last one's, on top of any split.

    Client k of K has Gaussian noise with a standard deviation of `noise (k + 1) / K`, after the
    manner of Li et al. 2022 (arXiv 2102.02079); here an image has the same noise whenever it is
    seen, and what leaves 0..1 is cut off, for images stay bytes. With `rotation: 360, angles: 4`
    clients are turned by 0, 90, 180, 270, 0, … degrees, as in Ghosh et al. 2020 (arXiv 2006.04088);
    what comes in from beyond the edge is black. Both hold for what a client trains and tests on.
    The server's test set, and training images that it takes itself, are as they were.
    """

    base: BasePart = "iid"
    noise: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="of the last client, where white is 1"),
    ] = 0.1
    rotation: Annotated[
        float, Field(allow_inf_nan=False, description="degrees, divided evenly among the angles")
    ] = 0.0
    angles: Annotated[
        int, Field(ge=0, description="how many; clients take them in turn; 0: one for each client")
    ] = 0

    def split(
        self,
        labels: Indices,
        num_clients: int,
        rng: np.random.Generator,
        groups: Indices | None = None,
    ) -> list[Indices]:
        """Return the indices that each client owns: as the base deals them."""
        base = self._base
        return split(base.build(), labels, num_clients, rng, groups, called=base.name)

    def transform(
        self, images: Tensor, client: int, num_clients: int, rng: np.random.Generator
    ) -> Tensor:
        """Return a client's images as it sees them, `(n, C, H, W)` uint8.

        Raises:
            InputError: They are no images.
        """
        if images.ndim != 4 or images.dtype != torch.uint8:
            told = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"partition: feature-skew needs images in bytes, not {told}")
        base: Any = self._base.build()
        if isinstance(base, TransformsImages):
            images = base.transform(images, client, num_clients, rng)
        steps = self.angles or num_clients
        images = _turned(images, self.rotation * (client % steps) / steps)
        return _noisy(images, self.noise * (client + 1) / num_clients, rng)

    @property
    def _base(self) -> Part:
        if isinstance(self.base, Part):
            return self.base
        return parse("partitioners", {"name": self.base}, "partition.base")


def _turned(images: Tensor, degrees: float) -> Tensor:
    """Return images turned counter-clockwise."""
    if not degrees % 360:
        return images
    # Imported here because it takes a second.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    turned: Tensor = rotate(images, degrees, InterpolationMode.BILINEAR)
    return turned


def _noisy(images: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Return images with Gaussian noise of a standard deviation on the 0..1 scale."""
    if not std:
        return images
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
    return (images + 255 * std * noise).round_().clamp_(0, 255).to(torch.uint8)
