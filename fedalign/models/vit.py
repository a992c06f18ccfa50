"""A vision transformer for small images (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from fedalign.errors import InputError
from fedalign.models import require_images
from fedalign.models.symmetry import Group, Neurons, Place


def vit(
    shape: tuple[int, int, int],
    classes: int,
    patch: Annotated[int, Field(ge=1, description="Side of a patch, in pixels.")] = 4,
    width: Annotated[int, Field(ge=1, description="Numbers in the vector of each token.")] = 64,
    depth: Annotated[int, Field(ge=1, description="Number of blocks.")] = 4,
    heads: Annotated[int, Field(ge=1, description="Attention heads in each block.")] = 4,
    mlp: Annotated[
        int, Field(ge=1, description="Hidden neurons of a block, in multiples of the width.")
    ] = 2,
) -> nn.Module:
    """Vision transformer with pre-norm blocks, a class token and learnt positions.

    0.14 M parameters on CIFAR-10. Pixels beyond the last whole patch are ignored.

    Raises:
        InputError: The heads do not divide the width, or a patch is larger than the image.
    """
    require_images("vit", shape)
    require_heads(width, heads)
    if min(shape[1:]) < patch:
        raise InputError(f"model.patch: {patch} is larger than images of {shape[1]}x{shape[2]}")
    return ViT(shape, classes, patch, width, depth, heads, mlp)


def require_heads(width: int, heads: int) -> None:
    """Raise `InputError` if the heads do not divide the width."""
    if width % heads:
        raise InputError(f"model.heads: {heads} heads do not divide a width of {width}")


class ViT(nn.Module):
    """Embedding of patches, attention blocks, and a linear layer on the class token."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp: int,
    ):
        super().__init__()
        count = (shape[1] // patch) * (shape[2] // patch)
        self.patches = nn.Conv2d(shape[0], width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, count + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, mlp * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)`."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(patches), -1, -1), patches], dim=1)
        tokens = self.norm(self.blocks(tokens + self.positions))
        logits: torch.Tensor = self.fc(tokens[:, 0])
        return logits

    def symmetry(self) -> tuple[Group, ...]:
        """Return the exchangeable neurons: the features of a token, and those of each block."""
        stream = Neurons("tokens", self.fc.in_features)
        stream.own(self.patches, "patches")
        return exchangeable(stream, {"token": 2, "positions": 2}, self.blocks, self.norm, self.fc)


def exchangeable(
    stream: Neurons,
    shared: Mapping[str, int],
    blocks: nn.Sequential,
    norm: nn.LayerNorm,
    fc: nn.Linear,
) -> tuple[Group, ...]:
    """Return the exchangeable neurons of a transformer: features of a token, then those of blocks.

    The features of a token occur in every layer that reads or writes the residual stream. The
    groups of a block are its heads; what each head compares (rows of q and k together) and passes
    on (rows of v); and the hidden neurons of its MLP.

    Args:
        stream: the features of a token, with the layers before the blocks already added.
        shared: further tensors that the features own entirely, and the axis in each.
        blocks: of `Block`, named `blocks.0`, `blocks.1`, ...
        norm: the norm after the blocks, named `norm`.
        fc: the last layer, named `fc`.
    """
    width = fc.in_features
    inner: list[Group] = []
    for number, block in enumerate(blocks):
        assert isinstance(block, Block)
        name = f"blocks.{number}"
        for key in ("norm1", "norm2"):
            stream.own(block.get_submodule(key), f"{name}.{key}")
        stream.feed(block.attention.qkv, f"{name}.attention.qkv")
        stream.own(block.attention.project, f"{name}.attention.project")
        stream.feed(block.fc1, f"{name}.fc1")
        stream.own(block.fc2, f"{name}.fc2")
        inner += [*block.attention.symmetry(f"{name}.attention"), *block.symmetry(name)]
    stream.own(norm, "norm")
    stream.feed(fc, "fc")
    stream.watch("norm", axis=2)
    (tokens,) = stream.groups()
    places = [Place(key, axis, np.arange(width)[:, None]) for key, axis in shared.items()]
    return (Group(tokens.name, width, (*tokens.places, *places), tokens.seen), *inner)


class Block(nn.Module):
    """Attention and an MLP, each after a LayerNorm and with a shortcut (pre-norm)."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens `(N, T, width)`."""
        tokens = tokens + self.attention(self.norm1(tokens))
        output: torch.Tensor = tokens + self.fc2(self.gelu(self.fc1(self.norm2(tokens))))
        return output

    def symmetry(self, name: str) -> tuple[Group, ...]:
        """Return the hidden neurons of the MLP; `name` is the block's, in the model."""
        hidden = Neurons(f"{name}.fc1", self.fc1.out_features)
        hidden.own(self.fc1, f"{name}.fc1")
        hidden.feed(self.fc2, f"{name}.fc2")
        hidden.watch(f"{name}.gelu", axis=2)
        return hidden.groups()


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens `(N, T, width)`."""
        count, length, width = tokens.shape
        split = self.qkv(tokens).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*split)
        output: torch.Tensor = self.project(mixed.transpose(1, 2).reshape(count, length, width))
        return output

    def symmetry(self, name: str) -> tuple[Group, ...]:
        """Return the group of heads and the groups inside each; `name` is the module's."""
        width, heads = self.project.in_features, self.heads
        q, k, v = np.arange(3 * width).reshape(3, heads, -1)
        columns = np.arange(width).reshape(heads, -1)
        whole = np.concatenate([q, k, v], axis=1)
        groups = [self._part(f"{name}.heads", name, whole, columns)]
        for head in range(heads):
            compared = np.stack([q[head], k[head]], axis=1)
            groups.append(self._part(f"{name}.heads.{head}.qk", name, compared, None))
            rows, inputs = v[head][:, None], columns[head][:, None]
            groups.append(self._part(f"{name}.heads.{head}.v", name, rows, inputs))
        return tuple(groups)

    def _part(self, title: str, name: str, rows: np.ndarray, columns: np.ndarray | None) -> Group:
        neurons = Neurons(title, len(rows))
        neurons.own(self.qkv, f"{name}.qkv", rows)
        if columns is not None:
            neurons.feed(self.project, f"{name}.project", columns)
        neurons.watch(f"{name}.qkv", rows, axis=2)
        return neurons.groups()[0]
