"""What a configuration will do."""

from __future__ import annotations

import numpy as np

from fedalign.config import Config
from fedalign.federation import Federation
from fedalign.registry import Part
from fedalign.runs.folder import folder_of


def summary(config: Config) -> str:
    """Return what a run would do, in a few lines; loads the data and makes the partition."""
    federation = Federation(config)
    network = federation.network
    federation.strategy()  # what it does not like about its options, it says here
    sizes = [len(shard) for shard in federation.shards(config.num_clients)]
    drawn = min(config.clients_per_round or config.num_clients, config.num_clients)
    return "\n".join(
        [
            f"valid: {config.rounds} rounds, {drawn} of {config.num_clients} clients in each",
            f"  data       {federation.train.source}",
            f"             {len(federation.train):,} training examples, "
            f"{len(federation.test or ()):,} test examples, {federation.train.classes} classes",
            f"  partition  {described(config.partition)}",
            f"             {min(sizes):,} to {max(sizes):,} examples a client, "
            f"median {int(np.median(sizes)):,}{_kept_back(federation)}",
            f"  model      {described(config.model)}: {network.layout.num_parameters:,} parameters",
            f"  client     {described(config.client)}",
            f"  strategy   {described(config.strategy)}",
            *_evaluation(federation),
            f"  results    {folder_of(config)}",
        ]
    )


def _kept_back(federation: Federation) -> str:
    """Return what is said of examples that clients keep back; nothing where they keep none."""
    if not federation.config.evaluation.holdout:
        return ""
    sizes = [len(rows) for rows in federation.holdouts(federation.config.num_clients)]
    return f"; {min(sizes):,} to {max(sizes):,} more kept back to test on"


def _evaluation(federation: Federation) -> list[str]:
    """Return the line on clients that evaluate; none where they do not."""
    config, settings = federation.config, federation.config.evaluation
    testers = federation.testers(config.num_clients)
    if not testers:
        return []
    drawn = max(1, round(settings.client_fraction * len(testers)))
    shown = ("client_every", "holdout", "finetune_epochs")
    told = ", ".join(f"{key} {getattr(settings, key):g}" for key in shown)
    return [f"  evaluation {drawn} of {len(testers)} clients test for themselves ({told})"]


def described(part: Part) -> str:
    """Return a part's name, and its options as far as they say anything."""
    values = ", ".join(
        f"{key} {described(value) if isinstance(value, Part) else value}"
        for key, value in part.options.items()
        if value not in (None, "", False)
    )
    return f"{part.name} ({values})" if values else part.name
