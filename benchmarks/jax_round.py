"""Federated averaging in JAX: all clients of a round in one jitted `vmap` over a `scan` of steps.

What FedJAX does, for networks that are a sequence of common layers. It starts from the same
weights as the plain loop and sees the same examples in the same order. Clients with fewer examples
than others are padded with steps that change nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others use the GPU too

import jax
import jax.numpy as jnp
import numpy as np
from plain_loop import Orders, initial
from torch import nn

from fedalign.data import Dataset
from fedalign.federation.federation import Federation
from fedalign.settings.config import Config

Weights = list[tuple[jax.Array, jax.Array]]
Apply = Callable[[Weights, jax.Array, jax.Array | None], jax.Array]
ROUNDED = 8
"""The number of steps is rounded up to a multiple of this, so that few shapes are compiled."""


def translate(module: nn.Module) -> tuple[Weights, Apply]:
    """Return a network's weights, and its function of weights, images and a key for dropout.

    Without a key nothing is dropped. `TypeError` for a layer that is not known here.
    """
    layers = [layer for layer in module.modules() if not isinstance(layer, nn.Sequential)]
    kinds = nn.Linear, nn.Conv2d
    pairs: list[Any] = [(one.weight, one.bias) for one in layers if isinstance(one, kinds)]
    weights = [tuple(jnp.asarray(t.detach().numpy()) for t in pair) for pair in pairs]

    def apply(weights: Weights, x: jax.Array, key: jax.Array | None) -> jax.Array:
        own, x = iter(weights), (x.astype(jnp.float32) / 255 - 0.5) / 0.5
        for number, layer in enumerate(layers):
            given = next(own) if isinstance(layer, kinds) else None
            folded = None if key is None else jax.random.fold_in(key, number)
            x = _layer(layer, given, x, folded)
        return x

    return weights, apply


def _layer(layer: nn.Module, weights: Any, x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Return what a layer makes of `(N, C, H, W)` or `(N, I)`."""
    match layer:
        case nn.Conv2d():
            sides = [(size, size) for size in layer.padding]
            y = jax.lax.conv_general_dilated(x, weights[0], layer.stride, sides)
            return y + weights[1][:, None, None]
        case nn.Linear():
            return x @ weights[0].T + weights[1]
        case nn.ReLU():
            return jax.nn.relu(x)
        case nn.MaxPool2d():
            window = (1, 1, layer.kernel_size, layer.kernel_size)
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        case nn.Flatten():
            return x.reshape(len(x), -1)
        case nn.Dropout() if key is None:
            return x
        case nn.Dropout():
            return jnp.where(jax.random.bernoulli(key, 1 - layer.p, x.shape), x / (1 - layer.p), 0)
    raise TypeError(f"{layer} has no form in JAX here")


def rounds_of(config: Config) -> Iterator[tuple[float | None, float, Weights]]:
    """Yield the seconds of each round, the test accuracy after it, and the weights.

    The seconds are None where a shape was compiled, which a long run does a few times at most.
    """
    federation = Federation(config.model_copy(update={"device": "cpu"}))
    weights, apply = translate(initial(federation))
    assert federation.test is not None
    train, test, orders = _arrays(federation.train), federation.test, Orders.of(federation)
    train_round, compiled = _round(apply, config.client.options), set()
    measure, tests = _accuracy(apply), _batches(test)
    for number in range(1, config.rounds + 1):
        started = time.perf_counter()
        index, counts = padded(orders.of_round(number), config.client.options["batch_size"])
        weights = train_round(weights, index, counts, jax.random.key(number), *train)
        accuracy = float(measure(weights, *tests))
        seconds = time.perf_counter() - started if index.shape in compiled else None
        compiled.add(index.shape)
        yield seconds, accuracy, weights


def padded(orders: list[np.ndarray], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples of each client's steps `(K, T, B)`, and how many count, `(K, T)`."""
    most = ceil(max(map(len, orders)) / batch)
    if len({len(order) for order in orders}) > 1:
        most = ROUNDED * ceil(most / ROUNDED)
    index = np.zeros((len(orders), most * batch), np.int32)
    for own, order in zip(index, orders, strict=True):
        own[: len(order)] = order
    left = np.array([len(order) for order in orders])[:, None] - batch * np.arange(most)
    return index.reshape(len(orders), most, batch), left.clip(0, batch).astype(np.int32)


def _arrays(data: Dataset) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(data.images.numpy()), jnp.asarray(data.labels.numpy())


def _round(apply: Apply, options: Mapping[str, Any]) -> Callable[..., Weights]:
    """Return the function from weights, examples, counts, a key and the data to new weights."""

    def train_round(
        weights: Weights, index: Any, counts: Any, key: Any, *data: jax.Array
    ) -> Weights:
        keys = jax.random.split(key, len(index))
        client = _client(apply, options, *data)
        models = jax.vmap(client, (None, 0, 0, 0))(weights, index, counts, keys)
        shares = counts.sum(1) / counts.sum()
        return jax.tree.map(lambda own: jnp.tensordot(shares, own, 1), models)

    return jax.jit(train_round)


def _client(
    apply: Apply, options: Mapping[str, Any], images: jax.Array, labels: jax.Array
) -> Callable[..., Weights]:
    """Return the function from weights, a client's examples, counts and key to new weights."""

    def loss(weights: Weights, index: jax.Array, count: jax.Array, key: jax.Array) -> jax.Array:
        scores = jax.nn.log_softmax(apply(weights, images[index], key))
        own = jnp.take_along_axis(scores, labels[index][:, None], 1)[:, 0]
        return -jnp.where(jnp.arange(len(index)) < count, own, 0).sum() / jnp.maximum(count, 1)

    def client(weights: Weights, index: jax.Array, counts: jax.Array, key: jax.Array) -> Weights:
        def step(state: Any, batch: Any) -> tuple[Any, None]:
            (old, moving), (rows, count, number) = state, batch
            found = jax.grad(loss)(old, rows, count, jax.random.fold_in(key, number))
            moving = jax.tree.map(lambda v, g: options["momentum"] * v + g, moving, found)
            rate = jnp.where(count > 0, options["lr"], 0.0)
            return (jax.tree.map(lambda w, v: w - rate * v, old, moving), moving), None

        start = weights, jax.tree.map(jnp.zeros_like, weights)
        steps = index, counts, jnp.arange(len(counts))
        return jax.lax.scan(step, start, steps)[0][0]

    return client


def _accuracy(apply: Apply) -> Callable[..., jax.Array]:
    """Return the function from weights and batches of test examples to accuracy."""

    def accuracy(weights: Weights, images: jax.Array, labels: jax.Array) -> jax.Array:
        def hits(batch: Any) -> jax.Array:
            return apply(weights, batch[0], None).argmax(1) == batch[1]

        return jax.lax.map(hits, (images, labels)).mean()

    return jax.jit(accuracy)


def _batches(data: Dataset, size: int = 2_000) -> tuple[jax.Array, jax.Array]:
    """Return all examples in batches; their number must be a multiple of the size."""
    images, labels = _arrays(data)
    size = min(size, len(data))
    return images.reshape(-1, size, *images.shape[1:]), labels.reshape(-1, size)
