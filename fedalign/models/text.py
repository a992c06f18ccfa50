"""Networks for text, which predict the next character."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from fedalign.models import require_text
from fedalign.models.symmetry import Group, Neurons
from fedalign.models.vit import Block, exchangeable, require_heads

START = 0.5  # standard deviation of the transformer's initial embeddings


def char_lstm(
    shape: tuple[int, ...],
    classes: int,
    width: Annotated[int, Field(ge=1, description="Neurons in each layer; 256 in the paper.")] = 64,
    depth: Annotated[int, Field(ge=1, description="Number of stacked LSTM layers.")] = 2,
    embedding: Annotated[int, Field(ge=1, description="Size of a character's embedding.")] = 8,
) -> nn.Module:
    """Stacked LSTM over characters (McMahan et al. 2017); at its width 256 0.82 M parameters.

    The logits are computed from the last state, as in LEAF (Caldas et al. 2018).

    Raises:
        InputError: The data is images.
    """
    require_text("char-lstm", shape)
    return CharLSTM(classes, embedding, width, depth)


def char_transformer(
    shape: tuple[int, ...],
    classes: int,
    width: Annotated[int, Field(ge=1, description="Numbers in the vector of each token.")] = 64,
    depth: Annotated[int, Field(ge=1, description="Number of blocks.")] = 2,
    heads: Annotated[int, Field(ge=1, description="Attention heads in each block.")] = 4,
    mlp: Annotated[
        int, Field(ge=1, description="Hidden neurons of a block, in multiples of the width.")
    ] = 2,
) -> nn.Module:
    """Transformer over characters with the vision transformer's pre-norm blocks; 0.08 M parameters.

    The logits are computed from the last position. Attention needs no causal mask, because only the
    character after the last position is predicted.

    Raises:
        InputError: The data is images, or the heads do not divide the width.
    """
    require_text("char-transformer", shape)
    require_heads(width, heads)
    return CharTransformer(shape[0], classes, width, depth, heads, mlp)


class CharLSTM(nn.Module):
    """Embedding of characters, LSTM layers, and a linear layer on the last state."""

    def __init__(self, classes: int, embedding: int, width: int, depth: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, width, depth, batch_first=True)
        self.fc = nn.Linear(width, classes)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)` of the next character after codes `(N, L)`."""
        states, _ = self.lstm(self.embedding(codes))
        logits: torch.Tensor = self.fc(states[:, -1])
        return logits


class CharTransformer(nn.Module):
    """Embedding of characters, attention blocks, and a linear layer on the last position."""

    def __init__(self, length: int, classes: int, width: int, depth: int, heads: int, mlp: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding.weight, std=START)
        # As large as the embeddings: with smaller ones training takes epochs longer to single out
        # the last position.
        self.positions = nn.Parameter(START * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, mlp * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)` of the next character after codes `(N, L)`."""
        tokens = self.blocks(self.embedding(codes) + self.positions)
        logits: torch.Tensor = self.fc(self.norm(tokens)[:, -1])
        return logits

    def symmetry(self) -> tuple[Group, ...]:
        """Return the exchangeable neurons: the features of a token, and those of each block."""
        shared = {"embedding.weight": 1, "positions": 2}
        stream = Neurons("tokens", self.fc.in_features)
        return exchangeable(stream, shared, self.blocks, self.norm, self.fc)
