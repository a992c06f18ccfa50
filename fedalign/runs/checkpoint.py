"""Checkpoints: the state of a run every few rounds, from which a stopped run continues.

The state is that of the global model, the strategy and the clients. Generators have none: every
random stream is made anew from its name and the round's number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedalign.messages.groups import GroupGrid
from fedalign.runs.paths import CHECKPOINT, folder_of, is_finished
from fedalign.runs.trees import DamagedError, is_known, read, write
from fedalign.server.callbacks import Callback
from fedalign.server.round import Round
from fedalign.server.strategies import inner_strategies
from fedalign.settings.config import Config
from fedalign.settings.registry import traits

log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after one of its rounds.

    Attributes:
        settings: `Config.digest()` of the run.
        number: the round's number, from 1.
        stack: number of clients trained as one stack; stored because measuring it again could give
            another number.
        sizes: length in bytes of each table (`*.csv`) after this round.
        model: the global model.
        strategy: the strategy's state, see `state_of`.
        clients: the clients' states by node id.
    """

    settings: str
    number: int
    stack: int
    sizes: dict[str, int]
    model: ArrayRecord
    strategy: dict[str, Any]
    clients: dict[int, RecordDict]


class Checkpoints(Callback):
    """A callback that writes the latest checkpoint into the run folder.

    It writes none if the clients are stateful and the grid does not hold their states, as on
    Flower's engine and on real nodes.

    Args:
        config: gives the folder and `checkpoint_every`.
        strategy: the run's strategy.
        grid: the run's grid.
        stack: number of clients trained as one stack.
    """

    def __init__(self, config: Config, strategy: Strategy, grid: Grid, stack: int):
        self._folder, self._settings = folder_of(config), config.digest()
        self._strategy, self._grid, self._stack = strategy, grid, stack
        self._every = config.checkpoint_every if holds_all(config, grid) else 0
        self._warned = False

    def must_finish(self, number: int) -> bool:
        """Return whether a checkpoint is written after this round."""
        return self._every > 0 and number % self._every == 0

    def on_round(self, outcome: Round) -> None:
        """Write a checkpoint if one is due; the round must already be in the folder's tables."""
        if not self.must_finish(outcome.number):
            return
        self._warn()
        checkpoint = Checkpoint(
            settings=self._settings,
            number=outcome.number,
            stack=self._stack,
            sizes={file.name: file.stat().st_size for file in self._folder.glob("*.csv")},
            model=outcome.after,
            strategy=state_of(self._strategy),
            clients=self._grid.states() if isinstance(self._grid, GroupGrid) else {},
        )
        write(self._folder / CHECKPOINT, vars(checkpoint))

    def _warn(self) -> None:
        lost = [] if self._warned else sorted(lost_of(self._strategy))
        self._warned = True
        if lost:
            message = "checkpoints cannot store %s of the strategy: a resumed run may differ"
            log.warning(message, ", ".join(lost))


def resume(config: Config, strategy: Strategy, grid: Grid) -> Checkpoint | None:
    """Return the checkpoint of an unfinished run and restore its state; None if there is none.

    A damaged checkpoint, or one of other settings, is ignored with a warning.

    Args:
        config: the run's configuration.
        strategy: as newly built; its attributes are set to those of the checkpoint.
        grid: its clients are given their states.
    """
    folder = folder_of(config)
    path = folder / CHECKPOINT
    if not holds_all(config, grid) or not path.is_file() or is_finished(folder):
        return None
    try:
        checkpoint = _read(config)
        attributes = list(_attributes(strategy, checkpoint.strategy))
    except DamagedError as error:
        log.warning("%s: %s; the run starts from round 1", path, error)
        return None
    for owner, name, value in attributes:
        setattr(owner, name, value)
    if isinstance(grid, GroupGrid):
        for node, state in checkpoint.clients.items():
            grid.keep_state(node, state)
    return checkpoint


def holds_all(config: Config, grid: Grid) -> bool:
    """Return whether a checkpoint can hold the whole state of a run, its clients' included."""
    return isinstance(grid, GroupGrid) or not traits("clients", config.client.name).stateful


def state_of(strategy: Strategy) -> dict[str, Any]:
    """Return the attributes of a strategy that can be stored.

    Numbers, arrays, records and trees of them can. They stand under `own`; those of strategies
    inside it, such as `base`, under `inner` by name. Everything else, such as functions and
    layouts, is made again by the constructor.
    """
    own = {name: value for name, value in vars(strategy).items() if is_known(value)}
    inner = {name: state_of(within) for name, within in inner_strategies(strategy).items()}
    return {"own": own, "inner": inner}


def lost_of(strategy: Strategy) -> Iterator[str]:
    """Yield the attributes that can change during a run but that `state_of` cannot store."""
    for name, value in vars(strategy).items():
        if not (isinstance(value, Strategy) or is_known(value) or _is_constant(value)):
            yield f"{type(strategy).__name__}.{name}"
    for within in inner_strategies(strategy).values():
        yield from lost_of(within)


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    frozen = is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[union-attr]
    return callable(value) or frozen


def _attributes(
    strategy: Strategy, state: Mapping[str, Any]
) -> Iterator[tuple[Strategy, str, object]]:
    """Yield owner, name and value of every attribute to set so that `strategy` is in `state`."""
    inner = inner_strategies(strategy)
    if set(inner) != set(state["inner"]):
        raise DamagedError("belongs to another strategy")
    for name, value in state["own"].items():
        yield strategy, name, value
    for name, within in inner.items():
        yield from _attributes(within, state["inner"][name])


def _read(config: Config) -> Checkpoint:
    folder = folder_of(config)
    try:
        checkpoint = Checkpoint(**read(folder / CHECKPOINT))
    except TypeError:
        raise DamagedError("was written by another version of fedalign") from None
    if checkpoint.settings != config.digest():
        raise DamagedError("belongs to other settings")
    for name, size in checkpoint.sizes.items():
        table = folder / name
        if not table.is_file() or table.stat().st_size < size:
            raise DamagedError(f"{name} lacks rounds that the checkpoint counts as finished")
    return checkpoint
