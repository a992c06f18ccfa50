"""Networks for text: which character follows those that are given."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from fedalign.models import require_text
from fedalign.models.symmetry import Group, Neurons
from fedalign.models.vit import Block, exchangeable, require_heads

START = 0.5  # standard deviation of the transformer's first embeddings


def char_lstm(
    shape: tuple[int, ...],
    classes: int,
    width: Annotated[int, Field(ge=1, description="State of a layer; the paper has 256.")] = 64,
    depth: Annotated[int, Field(ge=1, description="LSTM layers, one on the other.")] = 2,
    embedding: Annotated[int, Field(ge=1, description="Numbers that a character becomes.")] = 8,
) -> nn.Module:
    """Stacked LSTM over characters (McMahan et al. 2017); with width 256 the paper's, 0.82 M.

    The logits come from the last state alone, as in LEAF (Caldas et al. 2018).

    Raises:
        InputError: The data is images.
    """
    require_text("char-lstm", shape)
    return CharLSTM(classes, embedding, width, depth)


def char_transformer(
    shape: tuple[int, ...],
    classes: int,
    width: Annotated[int, Field(ge=1, description="Numbers that a character becomes.")] = 64,
    depth: Annotated[int, Field(ge=1, description="Number of blocks.")] = 2,
    heads: Annotated[int, Field(ge=1, description="Of attention, in each block.")] = 4,
    mlp: Annotated[int, Field(ge=1, description="Hidden neurons of a block, in widths.")] = 2,
) -> nn.Module:
    """Transformer over characters, with the vision transformer's pre-norm blocks; 0.08 M.

    The logits come from the last character's place. Every place looks at all, which no mask has to
    forbid: what is to be told follows the last.

    Raises:
        InputError: The data is images, or the heads do not divide the width.
    """
    require_text("char-transformer", shape)
    require_heads(width, heads)
    return CharTransformer(shape[0], classes, width, depth, heads, mlp)


class CharLSTM(nn.Module):
    """Characters to vectors, LSTM layers, one linear layer on the last state."""

    def __init__(self, classes: int, embedding: int, width: int, depth: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, width, depth, batch_first=True)
        self.fc = nn.Linear(width, classes)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)` of what follows codes `(N, L)`."""
        states, _ = self.lstm(self.embedding(codes))
        logits: torch.Tensor = self.fc(states[:, -1])
        return logits


class CharTransformer(nn.Module):
    """Characters to vectors, blocks of attention and MLP, one linear layer on the last place."""

    def __init__(self, length: int, classes: int, width: int, depth: int, heads: int, mlp: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        nn.init.normal_(self.embedding.weight, std=START)
        # As large as the characters: smaller, it takes epochs until the last place is told apart.
        self.positions = nn.Parameter(START * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, mlp * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)` of what follows codes `(N, L)`."""
        tokens = self.blocks(self.embedding(codes) + self.positions)
        logits: torch.Tensor = self.fc(self.norm(tokens)[:, -1])
        return logits

    def symmetry(self) -> tuple[Group, ...]:
        """Return the exchangeable neurons: the numbers of a token, and those of each block."""
        shared = {"embedding.weight": 1, "positions": 2}
        stream = Neurons("tokens", self.fc.in_features)
        return exchangeable(stream, shared, self.blocks, self.norm, self.fc)
