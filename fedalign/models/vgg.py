"""VGG for small images (Simonyan and Zisserman 2015, arXiv 1409.1556)."""

from collections import OrderedDict
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import nn

from fedalign.models import require_images
from fedalign.models.resnet import Norm

# By depth, the number of convolutions in each of the five stages; and widths over the first's.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDER = (1, 2, 4, 8, 8)
GROUPS = 8


def vgg(
    shape: tuple[int, int, int],
    classes: int,
    depth: Annotated[
        Literal[11, 13, 16, 19], Field(description="Layers in the name, such as 11 of VGG-11.")
    ] = 11,
    width: Annotated[
        int, Field(ge=8, multiple_of=8, description="Channels of the first convolutions.")
    ] = 64,
    norm: Annotated[Norm, Field(description="Normalisation after every convolution.")] = "none",
) -> nn.Sequential:
    """VGG with one linear layer after the convolutions, as is usual for CIFAR; by default no norm.

    Pooling rounds up, so 28x28 images shrink to 1x1 like 32x32 and need no resizing. `depth` counts
    the three linear layers of the original, as in the names VGG-11 to VGG-19. Weights are
    initialised as in He et al. (2015), without which 19 layers without a norm do not train.
    """
    require_images("vgg", shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, number, side = shape[0], 0, np.array(shape[1:])
    for count, wider in zip(STAGES[depth], WIDER, strict=True):
        for _ in range(count):
            number += 1
            layers[f"conv{number}"] = _conv(before, wider * width, norm)
            if norm != "none":
                layers[f"norm{number}"] = _norm(wider * width, norm)
            layers[f"relu{number}"] = nn.ReLU()
            before = wider * width
        layers[f"pool{number}"] = nn.MaxPool2d(2, ceil_mode=True)
        side = -(-side // 2)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(before * int(side.prod()), classes)
    return nn.Sequential(layers)


def _conv(before: int, after: int, norm: Norm) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, 3, padding=1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _norm(channels: int, norm: Norm) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
