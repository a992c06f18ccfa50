"""Recurrent layers and attention that run with K sets of weights at once."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.kernels import linear
from fedalign.network.lstm_scan import lstm_scan
from fedalign.network.twins import StackedLayer

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
States = tuple[Tensor, ...]  # (h,), and c of an LSTM


class _StackedRecurrent(StackedLayer):
    """A recurrent layer for K models, as a scan with batched matrix products."""

    known: ClassVar[set[str]] = {
        f"{part}_l{layer}{suffix}"
        for part in PARTS
        for layer in range(99)
        for suffix in ("", "_reverse")
    }
    bias: bool
    num_layers: int
    hidden_size: int
    batch_first: bool
    bidirectional: bool
    dropout: float
    proj_size: int

    def is_plain(self) -> bool:
        """Return whether there is neither dropout nor a projection."""
        return not (self.dropout or self.proj_size)

    def forward(self, x: Tensor, start: Any = None) -> Any:
        """Return outputs of all times and the last states, in the shapes that PyTorch's have."""
        x = x if self.batch_first else x.transpose(0, 1)
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        first = self._first(x, start, self.num_layers * len(suffixes))
        last: list[States] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in suffixes:
                y, states = self._scan(x, first[len(last)], f"_l{layer}{suffix}")
                outputs.append(y)
                last.append(states)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
        ends = tuple(torch.stack(own).flatten(1, 2) for own in zip(*last, strict=True))
        return x if self.batch_first else x.transpose(0, 1), self._ends(ends)

    def _first(self, x: Tensor, start: Any, count: int) -> list[States]:
        """Return the states `(K, B, H)` that each layer and direction starts from."""
        models = len(self.with_target("weight_ih_l0")[0])
        if start is None:
            zeros = x.new_zeros(models, len(x) // models, self.hidden_size)
            return [self._states(zeros)] * count
        given = start if isinstance(start, tuple) else (start,)
        folded = [own.view(len(own), models, -1, self.hidden_size) for own in given]
        return list(zip(*folded, strict=True))

    def _scan(self, x: Tensor, states: States, suffix: str) -> tuple[Tensor, States]:
        """Return the outputs `(K * B, T, H)` and last states of one direction of a layer."""
        weight, to_weight = self.with_target(f"weight_ih{suffix}")
        bias, to_bias = self.with_target(f"bias_ih{suffix}")
        folded = x.reshape(len(weight), -1, x.shape[2])
        inputs = linear(folded, weight, bias, to_weight, to_bias)
        by_time = inputs.view(len(weight), -1, x.shape[1], inputs.shape[2]).movedim(2, 0)
        is_reverse = suffix.endswith("_reverse")
        y, states = self._steps(by_time.flip(0) if is_reverse else by_time, states, suffix)
        return (y.flip(0) if is_reverse else y).movedim(0, 2).flatten(0, 1), states

    def _steps(self, x: Tensor, states: States, suffix: str) -> tuple[Tensor, States]:
        """Return outputs `(T, K, B, H)` and last states for inputs `(T, K, B, gates * H)`."""
        kernel, shift = self.parameter(f"weight_hh{suffix}").transpose(1, 2), self._shift(suffix)
        outputs = []
        for own in x.unbind():
            h = torch.bmm(states[0], kernel)
            states = self._step(own, h if shift is None else h + shift, states)
            outputs.append(states[0])
        return torch.stack(outputs), states

    def _shift(self, suffix: str) -> Tensor | None:
        """Return the second bias `(K, 1, gates * H)`."""
        return self.parameter(f"bias_hh{suffix}")[:, None] if self.bias else None

    def _states(self, zeros: Tensor) -> States:
        return (zeros,)

    def _ends(self, ends: States) -> Any:
        return ends[0]

    def _step(self, x: Tensor, h: Tensor, states: States) -> States:
        """Return the next states of the inputs' and the old state's shares `(K, B, gates * H)`."""
        raise NotImplementedError


class StackedRNN(_StackedRecurrent, nn.RNN):  # type: ignore[misc]
    """`nn.RNN` for K models."""

    nonlinearity: str

    def _step(self, x: Tensor, h: Tensor, states: States) -> States:  # noqa: ARG002
        return ((x + h).tanh() if self.nonlinearity == "tanh" else (x + h).relu(),)


class StackedLSTM(_StackedRecurrent, nn.LSTM):  # type: ignore[misc]
    """`nn.LSTM` for K models."""

    def _states(self, zeros: Tensor) -> States:
        return zeros, zeros

    def _ends(self, ends: States) -> Any:
        return ends

    def _steps(self, x: Tensor, states: States, suffix: str) -> tuple[Tensor, States]:
        shift = self._shift(suffix)
        x = x if shift is None else x + shift
        y, c = lstm_scan(x, *states, *self.with_target(f"weight_hh{suffix}"))
        return y, (y[-1], c)


class StackedGRU(_StackedRecurrent, nn.GRU):  # type: ignore[misc]
    """`nn.GRU` for K models."""

    def _step(self, x: Tensor, h: Tensor, states: States) -> States:
        (reset, update, new), (of_reset, of_update, of_new) = x.chunk(3, 2), h.chunk(3, 2)
        fresh = (new + (reset + of_reset).sigmoid() * of_new).tanh()
        return (fresh + (update + of_update).sigmoid() * (states[0] - fresh),)


class StackedAttention(StackedLayer, nn.MultiheadAttention):
    """`nn.MultiheadAttention` for K models; queries, keys and values have the same width."""

    known: ClassVar[set[str]] = {"in_proj_weight", "in_proj_bias"}

    def is_plain(self) -> bool:
        """Return whether there are neither dropout nor added keys."""
        return not (self.dropout or self.add_zero_attn)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002  (says what `attn_mask` is)
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs, and the attention's weights if they are needed, as PyTorch does."""
        inputs = (query, key, value)
        if not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)  # type: ignore[assignment]
        q, k, v = (
            x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in self._in(*inputs)
        )
        mask = _joint(attn_mask, key_padding_mask, q)
        found = None
        if need_weights:
            scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(3)
            y, found = weights @ v, weights.mean(1) if average_attn_weights else weights
        else:
            y = functional.scaled_dot_product_attention(q, k, v, mask)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out if self.batch_first else out.transpose(0, 1), found

    def _in(self, *inputs: Tensor) -> list[Tensor]:
        """Return queries, keys and values `(N, L, E)`."""
        weight = self.parameter("in_proj_weight").chunk(3, 1)
        bias = self.parameter("in_proj_bias").chunk(3, 1) if self.in_proj_bias is not None else None
        found = []
        for i, x in enumerate(inputs):
            rows = x.reshape(len(weight[i]), -1, x.shape[2])
            y = torch.bmm(rows, weight[i].transpose(1, 2))
            found.append((y if bias is None else y + bias[i][:, None]).view(x.shape))
        return found


def _joint(of_pairs: Tensor | None, of_keys: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the sum of two masks, as what is added to scores `(N, heads, L, S)`."""
    masks = []
    if of_pairs is not None:
        heads = (-1, like.shape[1], *of_pairs.shape[1:]) if of_pairs.ndim == 3 else of_pairs.shape
        masks.append(_added(of_pairs.view(heads), like))
    if of_keys is not None:
        masks.append(_added(of_keys[:, None, None], like))
    return sum(masks[1:], masks[0]) if masks else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as what is added; True in a mask of bools forbids."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(
        mask, -torch.inf
    )
