"""How well a model does on the test set, and on the data of each client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.landscape.barriers import Point
from fedalign.network.device import torch_threads
from fedalign.seeding import seeded


@dataclass(frozen=True)
class Evaluated:
    """What one model does everywhere.

    Attributes:
        test: loss and accuracy on the test set; None if the data set has none.
        clients: for each client its number (`partition`), how many examples it has (`examples`),
            and `loss` and `accuracy` on them.
        held_out: whether those are the examples that clients hold out; else those that they train
            on.
    """

    test: Point | None
    clients: list[dict[str, float]]
    held_out: bool


def everywhere(federation: Federation, model: Tensor) -> Evaluated:
    """Return what a model `(F,)` does on the test set and on the data of all clients.

    Raises:
        InputError: the data set has no training part, or no client has anything to test on.
    """
    config, network, count = federation.config, federation.network, federation.config.num_clients
    if federation.reference is None:
        raise InputError(f"data set {config.data.name!r} has no training part, the clients' data")
    settings, test = config.evaluation, federation.test
    tests = [len(federation.held(client, count).tested) for client in range(count)]
    federation.check_testers(tests)
    how, clients = (settings.batch_size, settings.threads), []
    with torch_threads(1), seeded(config.seed, "evaluate"):
        point = None if test is None else network.evaluate(model, test, *how)
        for client in (client for client in range(count) if tests[client]):
            scores = on_client(federation, {"": model}, client, count)
            clients.append({"partition": client, "examples": tests[client]} | scores)
    return Evaluated(point, clients, held_out=settings.holdout > 0)


def on_client(
    federation: Federation, models: Mapping[str, Tensor], partition: int, count: int
) -> dict[str, float]:
    """Return `loss` and `accuracy` of models `(F,)` on what one of `count` clients tests on.

    Args:
        federation: holds the data and the network.
        models: by what their numbers begin with, such as `tuned_`.
        partition: the client.
        count: the number of all clients.
    """
    held = federation.held(partition, count)
    data, (rows,) = federation.examples.seen(count, [partition], [held.tested])
    own, measured = data.at(rows), dict[str, float]()
    for kind, model in models.items():
        size = federation.config.evaluation.batch_size
        loss, accuracy = federation.network.evaluate(model, own, size)
        measured |= {f"{kind}loss": loss, f"{kind}accuracy": accuracy}
    return measured
