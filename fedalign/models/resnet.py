"""The residual network for small images of He et al. 2016 (arXiv 1512.03385, section 4.2)."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from fedalign.models import require_images
from fedalign.models.symmetry import Group, Neurons

Norm = Literal["none", "batch", "group"]

STAGES = (16, 32, 64)
BLOCKS_PER_STAGE = 3
GROUPS = 8


def resnet20(
    shape: tuple[int, int, int],
    classes: int,
    norm: Annotated[Norm, Field(description="Normalisation after every convolution.")] = "batch",
) -> nn.Module:
    """ResNet-20 for small images (He et al. 2016), shortcuts without parameters; 0.27 M parameters.

    `group` is GroupNorm with 8 groups. Without a norm the convolutions have a bias, and the last
    convolution of each block is initially scaled down so that signals do not grow with depth.
    """
    require_images("resnet20", shape)
    return ResNet(shape[0], classes, norm)


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of residual blocks, global average pooling, one linear."""

    def __init__(self, channels: int, classes: int, norm: Norm):
        super().__init__()
        self.conv = _conv(channels, STAGES[0], 1, norm)
        self.norm = _norm(STAGES[0], norm)
        widths = [width for width in STAGES for _ in range(BLOCKS_PER_STAGE)]
        pairs = zip([STAGES[0], *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(before, after, norm) for before, after in pairs))
        self.fc = nn.Linear(STAGES[-1], classes)
        self._start(norm)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)`."""
        features = self.blocks(functional.relu(self.norm(self.conv(images))))
        logits: torch.Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits

    def symmetry(self) -> tuple[Group, ...]:
        """Return the exchangeable neurons: of the residual stream, and inside each block.

        A channel is in the stream from the stage that adds it to the end. Padding of shortcuts
        shifts it: the 16 channels of stage 1 are 8..23 in stage 2 and 24..39 in stage 3. So each
        stage adds a group, observed after its last block. GroupNorm splits every group.
        """
        stem = Neurons("stage1", STAGES[0])
        stem.own(self.conv, "conv")
        stem.own(self.norm, "norm")
        stream, at, layers = [stem], [np.arange(STAGES[0])[:, None]], [stem]
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            name = f"blocks.{number}"
            for neurons, places in zip(stream, at, strict=True):
                neurons.feed(block.conv1, f"{name}.conv1", places)
            layers.append(block.inner(name))
            if block.padding:
                at = [places + block.padding // 2 for places in at]
                new = np.setdiff1d(np.arange(block.conv2.out_channels), np.concatenate(at))
                stream.append(Neurons(f"stage{len(stream) + 1}", len(new)))
                at, layers = [*at, new[:, None]], [*layers, stream[-1]]
            for neurons, places in zip(stream, at, strict=True):
                neurons.own(block.conv2, f"{name}.conv2", places)
                neurons.own(block.norm2, f"{name}.norm2", places)
            stream[-1].watch(name, at[-1])
        for neurons, places in zip(stream, at, strict=True):
            neurons.feed(self.fc, "fc", places)
        return tuple(group for neurons in layers for group in neurons.groups())

    def _start(self, norm: Norm) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if norm == "none":
            # With L blocks of variance 1/L the final variance is (1 + 1/L)^L < e instead of 2^L.
            for block in self.blocks:
                assert isinstance(block, Block)
                block.conv2.weight.data.mul_(len(self.blocks) ** -0.5)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; a block that widens halves height and width."""

    def __init__(self, before: int, after: int, norm: Norm):
        super().__init__()
        self.stride = 1 if before == after else 2
        self.padding = after - before
        self.conv1 = _conv(before, after, self.stride, norm)
        self.norm1 = _norm(after, norm)
        self.conv2 = _conv(after, after, 1, norm)
        self.norm2 = _norm(after, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `relu(x + F(x))`, the shortcut subsampled and padded with zero channels."""
        residual = functional.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        if self.padding:
            # Option A of the paper: the shortcut has no parameters.
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.padding // 2, self.padding // 2))
        return functional.relu(x + residual)

    def inner(self, name: str) -> Neurons:
        """Return the neurons between the two convolutions; `name` is the block's, in the model.

        They are observed before their activation, which is not the output of a module.
        """
        neurons = Neurons(name, self.conv1.out_channels)
        neurons.own(self.conv1, f"{name}.conv1")
        neurons.own(self.norm1, f"{name}.norm1")
        neurons.feed(self.conv2, f"{name}.conv2")
        neurons.watch(f"{name}.norm1")
        return neurons


def _conv(before: int, after: int, stride: int, norm: Norm) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=norm == "none")


def _norm(channels: int, norm: Norm) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(GROUPS, channels) if norm == "group" else nn.Identity()
