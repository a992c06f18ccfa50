"""Where a run stands, written down every few rounds, so that a run that was stopped can go on.

Every random number of a run comes from a stream that has a name and the round's number, so no
generator has a state to keep. What has: the global model, the strategy, and the clients.
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
from fedalign.server.round import Round
from fedalign.settings.config import Config
from fedalign.settings.registry import traits

log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class Checkpoint:
    """A run after one of its rounds.

    Attributes:
        settings: `Config.digest()`.
        number: the round's.
        stack: how many clients are trained as one; measured anew, it could come out otherwise.
        sizes: bytes of each table (`*.csv`) that belong to rounds up to this one.
        model: the global model.
        strategy: see `state_of`.
        clients: the clients' states, by node id.
    """

    settings: str
    number: int
    stack: int
    sizes: dict[str, int]
    model: ArrayRecord
    strategy: dict[str, Any]
    clients: dict[int, RecordDict]


class Checkpoints:
    """A callback that keeps the last checkpoint in the run folder.

    It does nothing where clients keep something that the grid does not hold: on Flower's engine,
    and on real nodes.

    Args:
        config: says where, and every how many rounds.
        strategy: the run's.
        grid: the run's.
        stack: how many clients are trained as one.
    """

    def __init__(self, config: Config, strategy: Strategy, grid: Grid, stack: int):
        self._folder, self._settings = folder_of(config), config.digest()
        self._strategy, self._grid, self._stack = strategy, grid, stack
        self._every = config.checkpoint_every if holds_all(config, grid) else 0
        self._warned = False

    def is_due(self, number: int) -> bool:
        """Return whether the run's state is to be written after this round."""
        return self._every > 0 and number % self._every == 0

    def on_round(self, outcome: Round) -> None:
        """Write a checkpoint, if it is time for one; the round's metrics must be written."""
        if not self.is_due(outcome.number):
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
            told = "checkpoints do not keep %s of the strategy: a resumed run may differ"
            log.warning(told, ", ".join(lost))


def resume(config: Config, strategy: Strategy, grid: Grid) -> Checkpoint | None:
    """Return the checkpoint of an unfinished run; None if there is none, and the run starts anew.

    `strategy`, freshly built, and the clients on `grid` then stand where those of the run stood.
    """
    folder = folder_of(config)
    path = folder / CHECKPOINT
    if not holds_all(config, grid) or not path.is_file() or is_finished(folder):
        return None
    try:
        checkpoint = _read(config)
        attributes = list(_attributes(strategy, checkpoint.strategy))
    except DamagedError as error:
        log.warning("%s: %s; the run starts anew", path, error)
        return None
    for owner, name, value in attributes:
        setattr(owner, name, value)
    if isinstance(grid, GroupGrid):
        for node, state in checkpoint.clients.items():
            grid.keep_state(node, state)
    return checkpoint


def holds_all(config: Config, grid: Grid) -> bool:
    """Return whether a checkpoint is the whole of a run, what its clients keep included."""
    return isinstance(grid, GroupGrid) or not traits("clients", config.client.name).stateful


def state_of(strategy: Strategy) -> dict[str, Any]:
    """Return what a strategy holds beside its parts: numbers, arrays, records, and trees of them.

    A strategy inside, such as `base`, is a table of its own under `inner`. What else there is,
    such as functions and layouts, the constructor makes again.
    """
    told = {name: value for name, value in vars(strategy).items() if is_known(value)}
    inner = {name: state_of(within) for name, within in _inner(strategy).items()}
    return {"own": told, "inner": inner}


def lost_of(strategy: Strategy) -> Iterator[str]:
    """Yield the attributes that can change during a run and that `state_of` does not hold."""
    for name, value in vars(strategy).items():
        if not (isinstance(value, Strategy) or is_known(value) or _is_constant(value)):
            yield f"{type(strategy).__name__}.{name}"
    for within in _inner(strategy).values():
        yield from lost_of(within)


def _inner(strategy: Strategy) -> dict[str, Strategy]:
    return {name: value for name, value in vars(strategy).items() if isinstance(value, Strategy)}


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    frozen = is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[union-attr]
    return callable(value) or frozen


def _attributes(
    strategy: Strategy, state: Mapping[str, Any]
) -> Iterator[tuple[Strategy, str, object]]:
    """Yield what has to be set for `strategy` to be in `state`: the owner, the name, the value."""
    inner = _inner(strategy)
    if set(inner) != set(state["inner"]):
        raise DamagedError("is of another strategy")
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
        raise DamagedError("is of other settings")
    for name, size in checkpoint.sizes.items():
        table = folder / name
        if not table.is_file() or table.stat().st_size < size:
            raise DamagedError(f"{name} beside it lacks rounds that were finished")
    return checkpoint
