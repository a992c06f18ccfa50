"""What a configuration will do."""

from __future__ import annotations

import numpy as np

from fedalign.federation.federation import Federation
from fedalign.runs.paths import folder_of
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.registry import Part


def summary(config: Config) -> str:
    """Return what a run would do, in a few lines; loads the data and makes the partition."""
    federation = Federation(config)
    network = federation.network
    strategy_of(federation)  # what it does not like about its options, it says here
    drawn = min(config.clients_per_round or config.num_clients, config.num_clients)
    return "\n".join(
        [
            f"valid: {config.rounds} rounds, {drawn} of {config.num_clients} clients in each",
            *(_data(federation) if federation.reference else _no_data(federation)),
            f"  model      {described(config.model)}: {network.layout.num_parameters:,} parameters",
            f"  client     {described(config.client)}",
            f"  strategy   {described(config.strategy)}",
            *(_evaluation(federation) if federation.reference else ()),
            f"  results    {folder_of(config)}",
        ]
    )


def _data(federation: Federation) -> list[str]:
    """Return the lines on the data and who has which of them."""
    config, data = federation.config, federation.train
    sizes = [len(shard) for shard in federation.shards(config.num_clients)]
    return [
        f"  data       {data.source}",
        f"             {len(data):,} training examples, "
        f"{len(federation.test or ()):,} test examples, {data.classes} classes",
        f"  partition  {described(config.partition)}",
        f"             {min(sizes):,} to {max(sizes):,} examples a client, "
        f"median {int(np.median(sizes)):,}{_kept_back(federation)}",
    ]


def _no_data(federation: Federation) -> list[str]:
    """Return the lines on data that only the nodes have."""
    spec = federation.spec
    shape = "x".join(map(str, spec.shape))
    return [
        f"  data       what each node has of its own: {shape}, {spec.classes} classes",
        f"             {len(federation.test or ()):,} test examples here",
    ]


def _kept_back(federation: Federation) -> str:
    """Return what is said of examples that clients keep back; nothing where they keep none."""
    if not federation.config.evaluation.holdout:
        return ""
    sizes = [len(rows) for rows in federation.holdouts(federation.config.num_clients)]
    return f"; {min(sizes):,} to {max(sizes):,} more kept back to test on"


def _evaluation(federation: Federation) -> list[str]:
    """Return the line on clients that evaluate; none where they do not."""
    config, settings = federation.config, federation.config.evaluation
    if not settings.client_fraction:
        return []
    tests = [len(federation.held(i, config.num_clients).tested) for i in range(config.num_clients)]
    federation.check_testers(tests)
    testers = sum(count > 0 for count in tests)
    drawn = max(1, round(settings.client_fraction * testers))
    shown = ("client_every", "holdout", "finetune_epochs")
    told = ", ".join(f"{key} {getattr(settings, key):g}" for key in shown)
    return [f"  evaluation {drawn} of {testers} clients test for themselves ({told})"]


def described(part: Part) -> str:
    """Return a part's name, and its options as far as they say anything."""
    values = ", ".join(
        f"{key} {described(value) if isinstance(value, Part) else value}"
        for key, value in part.options.items()
        if value not in (None, "", False)
    )
    return f"{part.name} ({values})" if values else part.name
