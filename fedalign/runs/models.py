"""Models that a run keeps beside its last one: `keep_models` and `keep_best`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.app import ArrayRecord
from safetensors import safe_open
from safetensors.numpy import save_file

from fedalign.files import replace, reporting
from fedalign.network.network import Network
from fedalign.runs.paths import folder_of, read_manifest
from fedalign.runs.stopping import StopRule, is_better
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round
from fedalign.settings.config import Config
from fedalign.settings.stopping import ALL, LAST

BEST, GLOBAL = "best.safetensors", "global.safetensors"
FACTS = "fedalign"  # the key of metadata
log = logging.getLogger("fedalign")


def save_model(path: Path, model: ArrayRecord, facts: Mapping[str, float] | None = None) -> None:
    """Write a model, with facts about it as one entry of the metadata, whose order is random."""
    tensors = {name: array.numpy() for name, array in model.items()}
    metadata = {FACTS: json.dumps(facts)} if facts else None
    replace(path, lambda new: save_file(tensors, new, metadata))


def folder_in(run: Path, number: int) -> Path:
    """Return the folder of the models of a round."""
    return run / "models" / f"round-{number}"


def facts_in(path: Path) -> dict[str, float]:
    """Return the facts about the model in a file; none if there is no such file."""
    if not path.is_file():
        return {}
    with safe_open(path, framework="numpy") as file:
        found: dict[str, float] = json.loads((file.metadata() or {}).get(FACTS, "{}"))
        return found


class KeepModels(Callback):
    """A callback that writes the clients' models of some rounds, and the global ones beside them.

    Args:
        config: of the run, with `keep_models`.
        network: of the models.
        rule: says which round is the last one, once that is measured.
    """

    def __init__(self, config: Config, network: Network, rule: StopRule):
        self._folder, self._kept = folder_of(config), config.keep_models
        self._network, self._rule = network, rule

    def models_wanted(self, number: int, partitions: Sequence[int]) -> Sequence[int]:
        """Return all partitions in a round that is kept, or that may turn out to be the last."""
        perhaps = LAST in self._kept and self._rule.may_be_last(number)
        return partitions if perhaps or self._is_named(number) else ()

    def on_round(self, outcome: Round) -> None:
        """Write the models of a round that is kept."""
        number = outcome.number
        if not (self._is_named(number) or (LAST in self._kept and self._rule.is_last(number))):
            return
        folder = folder_in(self._folder, number)
        with reporting(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for client, model in outcome.clients.items():
            self._save(folder / f"client-{client}.safetensors", model)
        self._save(folder / GLOBAL, outcome.after)  # last: with it the round is complete

    def _is_named(self, number: int) -> bool:
        return self._kept == ALL or number in self._kept

    def _save(self, path: Path, model: ArrayRecord) -> None:
        save_model(path, self._network.layout.to_state(model, self._network.module))


class KeepBest(Callback):
    """A callback that writes the global model of the round that is the best so far.

    Args:
        config: of the run, with `keep_best`.
        network: of the models.
        earlier: the metrics of the rounds before this process began.
    """

    def __init__(
        self, config: Config, network: Network, earlier: Sequence[Mapping[str, float]] = ()
    ):
        self._path, self._metric = folder_of(config) / BEST, config.keep_best or ""
        self._network = network
        self._best: float | None = None
        if earlier and self._metric not in facts_in(self._path):
            line = "keep_best: %s is the best round after %d; earlier models were not kept"
            log.warning(line, BEST, len(earlier))
            return
        for metrics in earlier:
            self._is_best(metrics)

    def on_round(self, outcome: Round) -> None:
        """Write the model if no round was better."""
        if self._is_best(outcome.metrics):
            facts = {"round": outcome.number, self._metric: outcome.metrics[self._metric]}
            state = self._network.layout.to_state(outcome.after, self._network.module)
            save_model(self._path, state, facts)

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        value = metrics.get(self._metric)
        if value is None or not is_better(self._metric, value, self._best):
            return False
        self._best = value
        return True


def keepers_of(
    config: Config, network: Network, rule: StopRule, earlier: Sequence[Mapping[str, float]]
) -> list[Callback]:
    """Return the callbacks that keep models, as far as there are any to keep."""
    found: list[Callback] = []
    if config.keep_models:
        found.append(KeepModels(config, network, rule))
        if past := _missing_rounds(config, len(earlier)):
            log.warning("keep_models: the models of round %s were not kept", _listed(past))
    if config.keep_best:
        found.append(KeepBest(config, network, earlier))
    return found


def _missing_rounds(config: Config, done: int, last: int | None = None) -> list[int]:
    """Return the rounds among the first `done` whose models are wanted and not there."""
    wanted = config.keep_models
    named = [n for n in range(1, done + 1) if wanted == ALL or n in wanted]
    named += [last] if last and LAST in wanted and last not in named else []
    return [n for n in named if not (folder_in(folder_of(config), n) / GLOBAL).exists()]


def _listed(rounds: Sequence[int]) -> str:
    return ", ".join(map(str, rounds))


def missing_models(config: Config) -> str | None:
    """Return which models a finished run has not kept that are asked for now; None if none."""
    folder = folder_of(config)
    manifest = read_manifest(folder) or {}
    last = int((manifest.get("totals") or {}).get("rounds") or config.rounds)
    rounds = _missing_rounds(config, last, last)
    parts = [f"the clients' models of round {_listed(rounds)}"] if rounds else []
    if config.keep_best and config.keep_best not in facts_in(folder / BEST):
        parts.append(f"the model of the best {config.keep_best}")
    if not parts:
        return None
    return f"{folder} has not kept {' and '.join(parts)}"
