"""Which neurons of a BERT in `transformers` can be exchanged: heads, and what is inside layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedalign.models.symmetry import Group, Neurons

KINDS = ("bert", "roberta", "xlm-roberta")  # of `config.model_type`, whose layers are alike


def inner(body: Any, name: str) -> tuple[Group, ...]:
    """Return the groups inside the layers of an encoder; `()` if it is of another kind.

    They are the heads of each layer; what each head compares (rows of query and key together) and
    passes on (rows of value); and the hidden neurons of its MLP. The features of a token, which
    all layers read and write, stay in order: the embeddings own them, and rarely train.

    Args:
        body: the encoder.
        name: the module's, in the model.
    """
    if body.config.model_type not in KINDS:
        return ()
    groups: list[Group] = []
    for number, layer in enumerate(body.encoder.layer):
        place = f"{name}.encoder.layer.{number}"
        groups += _attention(layer.attention, f"{place}.attention")
        hidden = Neurons(f"{place}.intermediate", layer.intermediate.dense.out_features)
        hidden.own(layer.intermediate.dense, f"{place}.intermediate.dense")
        hidden.feed(layer.output.dense, f"{place}.output.dense")
        hidden.watch(f"{place}.intermediate", axis=2)
        groups += hidden.groups()
    return tuple(groups)


def _attention(attention: Any, name: str) -> Iterator[Group]:
    """Yield the group of heads and the groups inside each; `name` is the module's."""
    heads = attention.self.num_attention_heads
    rows = np.arange(attention.self.all_head_size).reshape(heads, -1)
    yield _part(f"{name}.heads", attention, name, rows, ("query", "key", "value"))
    for head, own in enumerate(rows):
        at = own[:, None]
        yield _part(f"{name}.heads.{head}.qk", attention, name, at, ("query", "key"))
        yield _part(f"{name}.heads.{head}.v", attention, name, at, ("value",))


def _part(
    title: str, attention: Any, name: str, rows: np.ndarray, layers: tuple[str, ...]
) -> Group:
    neurons = Neurons(title, len(rows))
    for layer in layers:
        neurons.own(attention.self.get_submodule(layer), f"{name}.self.{layer}", rows)
    if "value" in layers:
        neurons.feed(attention.output.dense, f"{name}.output.dense", rows)
    neurons.watch(f"{name}.self.{layers[-1]}", rows, axis=2)
    return neurons.groups()[0]
