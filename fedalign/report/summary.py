"""Summarise what a run of a configuration would do."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedalign.federation.federation import Federation
from fedalign.runs.paths import folder_of
from fedalign.server.fusing import judges
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.per_client import told, varied
from fedalign.settings.registry import Part
from fedalign.transfer.tasks import tasks_of


def summary(config: Config) -> str:
    """Return a few lines on what a run would do; loads the data and makes the partition.

    Raises:
        InputError: the run could not start.
    """
    federation = Federation(config)
    network = federation.network
    federation.first  # noqa: B018  (raises if there is none)
    strategy_of(federation)  # raises if it rejects its options
    federation.check_clients()
    judges(federation)  # the same
    drawn = config.sampled
    return "\n".join(
        [
            f"valid: {config.rounds} rounds, {drawn} of {config.num_clients} clients in each",
            *(_data(federation) if federation.reference else _no_data(federation)),
            f"  model      {described(config.model)}: {network.layout.num_parameters:,} parameters"
            f"{_fixed(federation)}",
            *([f"             {federation.start.line()}"] if federation.start.file else ()),
            f"  client     {described(config.client)}",
            *_per_client(config),
            f"  strategy   {described(config.strategy)}",
            *(_evaluation(federation) if federation.reference else ()),
            *_tasks(federation),
            f"  results    {folder_of(config)}",
        ]
    )


def _fixed(federation: Federation) -> str:
    fixed = federation.num_constants
    return f" that train, {fixed:,} that do not" if fixed else ""


def _data(federation: Federation) -> list[str]:
    """Return the lines on the data set and its partition."""
    config, data = federation.config, federation.train
    sizes = [len(shard) for shard in federation.shards(config.num_clients)]
    kept = len(federation.of_server)
    return [
        f"  data       {data.source}",
        f"             {len(data):,} training examples, "
        f"{len(federation.test or ()):,} test examples, {data.classes} classes",
        *([f"             {kept:,} of them the server keeps to choose models by"] * (kept > 0)),
        f"  partition  {described(config.partition)}",
        f"             {min(sizes):,} to {max(sizes):,} examples per client, "
        f"median {int(np.median(sizes)):,}{_held_out(federation)}",
    ]


def _no_data(federation: Federation) -> list[str]:
    """Return the lines on data that only the nodes hold."""
    spec = federation.spec
    shape = "x".join(map(str, spec.shape))
    return [
        f"  data       each node's local data: {shape}, {spec.classes} classes",
        f"             {len(federation.test or ()):,} test examples on the server",
    ]


def _per_client(config: Config) -> list[str]:
    """Return the line on options in which clients differ; empty if there are none."""
    if not config.per_client:
        return []
    own = [config.client_of(number).options for number in range(config.num_clients)]
    values = {key: [options[key] for options in own] for key in varied(config.per_client)}
    return [f"  per client {told(values)}"]


def _held_out(federation: Federation) -> str:
    """Return a note on the examples that clients hold out for testing; "" without `holdout`."""
    if not federation.config.evaluation.holdout:
        return ""
    sizes = [len(rows) for rows in federation.holdouts(federation.config.num_clients)]
    return f"; {min(sizes):,} to {max(sizes):,} more held out for testing"


def _evaluation(federation: Federation) -> list[str]:
    """Return the line on clients that evaluate; empty if none do."""
    config, settings = federation.config, federation.config.evaluation
    if not settings.client_fraction:
        return []
    tests = [len(federation.held(i, config.num_clients).tested) for i in range(config.num_clients)]
    federation.check_testers(tests)
    testers = sum(count > 0 for count in tests)
    drawn = max(1, round(settings.client_fraction * testers))
    shown = ("client_every", "holdout", "finetune_epochs")
    values = ", ".join(f"{key} {getattr(settings, key):g}" for key in shown)
    return [f"  evaluation {drawn} of {testers} clients test on their own examples ({values})"]


def _tasks(federation: Federation) -> list[str]:
    """Return a line on each evaluation task."""
    found = tasks_of(federation) if federation.config.evaluation.tasks.on else []
    return [
        f"  {'' if number else 'tasks':<11}{task.name} ({'seen' if task.seen else 'unseen'}): "
        f"{len(task.train):,} training examples, {len(task.test):,} test examples, "
        f"{task.spec.classes} classes"
        for number, task in enumerate(found)
    ]


def described(part: Part) -> str:
    """Return a part's name and the options that are set: not None, empty or false."""
    values = ", ".join(
        f"{key} {described(value) if isinstance(value, Part) else _written(value)}"
        for key, value in part.options.items()
        if value not in (None, "", False, ())
    )
    return f"{part.name} ({values})" if values else part.name


def _written(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)
