"""Report what `fedalign evaluate` measured: a few lines, and a table of the clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedalign.errors import InputError
from fedalign.federation.examples import DealtExamples
from fedalign.federation.federation import Federation
from fedalign.federation.untrained import check_trained
from fedalign.files import reporting
from fedalign.landscape.connect import config_of
from fedalign.landscape.files import read
from fedalign.network.device import torch_threads
from fedalign.report.summary import described
from fedalign.server.client_metrics import spread
from fedalign.settings.config import Config
from fedalign.settings.config import read as read_config
from fedalign.settings.sources import parse_overrides
from fedalign.training.evaluation import Evaluated, everywhere
from fedalign.transfer.judge import Judge, TaskScore


def how(place: Path, words: list[str], config: str | None) -> tuple[Path, Config]:
    """Return the file of a model, and the configuration under which it is evaluated.

    Args:
        place: a run folder, whose model is meant, or a safetensors file.
        words: overrides `KEY=VALUE`.
        config: a YAML file; None: `config.yaml` in the run folder, or near the file.

    Raises:
        InputError: there is no such model, or no configuration.
    """
    file = place / "model.safetensors" if place.is_dir() else place
    if not file.is_file():
        what = f"{place} holds no model.safetensors" if place.is_dir() else f"{place}: no such file"
        raise InputError(f"{what}; give a run folder, or a safetensors file")
    found = config or config_of(file.resolve())
    if found is None:
        raise InputError(
            f"--config: must be given, the configuration that says which network and data {file} "
            "belongs to, because there is no config.yaml in its folder"
        )
    return file, read_config(str(found), parse_overrides(words))


def evaluate(file: Path, config: Config) -> tuple[str, pd.DataFrame]:
    """Return what `fedalign evaluate` prints of a model, and the table of its clients."""
    federation = Federation(config)
    model = read(file, federation.network)
    check_trained(federation, model, file)
    judge = Judge(federation) if config.evaluation.tasks.on else None
    model = federation.network.upload(model)
    found = everywhere(federation, model)
    told = describe(found, file, federation)
    if judge is not None:
        with torch_threads(1):
            told += "\n" + told_tasks(judge.scores(model))
    return told, pd.DataFrame(found.clients)


def told_tasks(scores: Sequence[TaskScore]) -> str:
    """Return a line on each of `evaluation.tasks`, and one on what they are."""
    by_task: dict[str, list[TaskScore]] = {}
    for score in scores:
        by_task.setdefault(score.task, []).append(score)
    lines = [f"{'tasks':<11}accuracy of the body on the test part of each"]
    for task, own in by_task.items():
        each = ", ".join(f"{score.way} {score.accuracy:.4f}" for score in own)
        kind = "seen" if own[0].seen else "unseen"
        lines.append(f"  {task}: {each} ({kind}; {own[0].examples:,} training examples)")
    return "\n".join(lines)


def describe(found: Evaluated, file: Path, federation: Federation) -> str:
    """Return the scores of a model in a few lines."""
    config, values = federation.config, spread(found.clients)
    losses = [client["loss"] for client in found.clients]
    sizes = [client["examples"] for client in found.clients]
    whose = "hold out" if found.held_out else "train on (evaluation.holdout is 0)"
    mean, std, worst = (values[f"accuracy_{key}"] for key in ("mean", "std", "worst10"))
    pooled = np.average([client["accuracy"] for client in found.clients], weights=sizes)
    return "\n".join(
        [
            f"model      {file}: {described(config.model)}",
            f"test set   {_test(found, federation)}",
            f"clients    {len(losses)} of {config.num_clients}, on the examples that they {whose}",
            *_seen(file, federation),
            f"  loss     mean {np.mean(losses):.4f}, highest {max(losses):.4f}",
            f"  accuracy mean {mean:.4f}, standard deviation {std:.4f}, worst 10 % {worst:.4f}",
            f"           {pooled:.4f} of all {sum(sizes):,} examples together",
        ]
    )


def _seen(file: Path, federation: Federation) -> list[str]:
    """Return a line if the run of a model could train on what clients hold out now."""
    config, place = federation.config, config_of(file.resolve())
    if not config.evaluation.holdout or place is None:
        return []
    run = read_config(str(place))
    if run.data.name != config.data.name:
        return []
    if run.data != config.data:
        return ["           (of other data than the run's, which may have trained on some of them)"]
    before = DealtExamples(run, federation.train)
    trained = np.concatenate([before.held(i, run.num_clients).trained for i in _all(run)])
    tested = np.concatenate([federation.held(i, config.num_clients).tested for i in _all(config)])
    if not (count := int(np.isin(tested, trained).sum())):
        return []
    told = f"the run trained on {count:,} of these {len(tested):,} examples"
    return [f"           but {told}; it had evaluation.holdout={run.evaluation.holdout:g}"]


def _all(config: Config) -> range:
    return range(config.num_clients)


def write(clients: pd.DataFrame, file: Path) -> None:
    """Write the table of the clients as CSV."""
    if not file.parent.is_dir():
        raise InputError(f"--out: {str(file.parent)!r} is not a folder")
    with reporting(file):
        clients.to_csv(file, index=False)


def _test(found: Evaluated, federation: Federation) -> str:
    if found.test is None or federation.test is None:
        return f"none: the data set {federation.config.data.name!r} has no test part"
    loss, accuracy = found.test
    return f"loss {loss:.4f}, accuracy {accuracy:.4f} ({len(federation.test):,} examples)"
