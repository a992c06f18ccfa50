"""Feature skew: clients see the same classes differently, with noise or rotated."""

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
    """Images noisier or rotated further from client to client, on top of any split.

    Client k of K adds Gaussian noise with standard deviation `noise (k + 1) / K`, similar to Li et
    al. 2022 (arXiv 2102.02079); here an image always gets the same noise, and results are clipped
    to 0..1, since images are stored as bytes. With `rotation: 360, angles: 4` clients rotate by 0,
    90, 180, 270, 0, … degrees, as in Ghosh et al. 2020 (arXiv 2006.04088); areas from outside the
    image are black. Both apply to a client's training and test images. The server's test set, and
    the training images that the server uses itself, stay unchanged.
    """

    base: BasePart = "iid"
    noise: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="standard deviation of the noise at the last client, on a scale where "
            "black is 0 and white is 1",
        ),
    ] = 0.1
    rotation: Annotated[
        float,
        Field(
            allow_inf_nan=False,
            description="degrees that are divided evenly among the angles, such as 360 with 4 "
            "angles",
        ),
    ] = 0.0
    angles: Annotated[
        int,
        Field(
            ge=0,
            description="number of angles, which the clients have in turn; 0: as many as clients",
        ),
    ] = 0

    def split(
        self,
        labels: Indices,
        num_clients: int,
        rng: np.random.Generator,
        groups: Indices | None = None,
    ) -> list[Indices]:
        """Return the indices that each client owns, as the base partitioner deals them."""
        base = self._base
        return split(base.build(), labels, num_clients, rng, groups, called=base.name)

    def transform(
        self, images: Tensor, client: int, num_clients: int, rng: np.random.Generator
    ) -> Tensor:
        """Return images `(n, C, H, W)` uint8 as this client sees them.

        Raises:
            InputError: The examples are not images.
        """
        if images.ndim != 4 or images.dtype != torch.uint8:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"partition: feature-skew needs uint8 images, not {found}")
        base: Any = self._base.build()
        if isinstance(base, TransformsImages):
            images = base.transform(images, client, num_clients, rng)
        steps = self.angles or num_clients
        images = _rotated(images, self.rotation * (client % steps) / steps)
        return _noisy(images, self.noise * (client + 1) / num_clients, rng)

    @property
    def _base(self) -> Part:
        if isinstance(self.base, Part):
            return self.base
        return parse("partitioners", {"name": self.base}, "partition.base")


def _rotated(images: Tensor, degrees: float) -> Tensor:
    """Return images rotated counter-clockwise."""
    if not degrees % 360:
        return images
    # Imported here because the import takes a second.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    rotated: Tensor = rotate(images, degrees, InterpolationMode.BILINEAR)
    return rotated


def _noisy(images: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Return images with Gaussian noise added; `std` is on the 0..1 scale."""
    if not std:
        return images
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
    return (images + 255 * std * noise).round_().clamp_(0, 255).to(torch.uint8)
