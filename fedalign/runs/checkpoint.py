"""Checkpoints: the state of a run after a round, from which a stopped run continues.

The state is that of the global model, the strategy and the clients. Generators have none: every
random stream is made anew from its name and the round's number.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedalign.errors import FedalignError, InputError
from fedalign.files import sync
from fedalign.runs.log import say
from fedalign.runs.paths import CHECKPOINT, FINISHED, DamagedManifestError, folder_of, read_manifest
from fedalign.runs.trees import DamagedError, Packed, is_known, pack, read, write
from fedalign.server.callbacks import Callback
from fedalign.server.client_states import ClientStates
from fedalign.server.participation import Participation
from fedalign.server.round import Round
from fedalign.server.strategies import inner_strategies
from fedalign.settings.config import Config

AUTO_FACTOR = 50  # so that writing takes at most about 2 % of a run's time
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
        clients: the clients' states by node id; of real nodes, their digests by partition.
        participation: `Participation.state()` of the run.
    """

    settings: str
    number: int
    stack: int
    sizes: dict[str, int]
    model: ArrayRecord
    strategy: dict[str, Any]
    clients: dict[int, Any]
    participation: dict[str, Any]


class Checkpoints(Callback):
    """A callback that writes the latest checkpoint into the run folder.

    With `checkpoint_every: auto` it writes one as soon as the rounds since the last one took
    `AUTO_FACTOR` times as long as writing it. Leaving it as a context manager because of an error,
    Ctrl-C or a signal writes the state after the last round that is in the tables, and prints how
    to go on.

    It writes none while nodes would lose their clients' states with their processes, as without a
    `state-dir`; a warning says so.

    Args:
        config: gives the folder and `checkpoint_every`.
        strategy: the run's strategy.
        states: those of the clients.
        stack: number of clients trained as one stack.
        participation: who has taken part so far.
        resumed: the checkpoint that the run has continued from.
    """

    def __init__(
        self,
        config: Config,
        strategy: Strategy,
        states: ClientStates,
        stack: int,
        participation: Participation | None = None,
        resumed: Checkpoint | None = None,
    ):
        self._folder, self._settings, self._rounds = (
            folder_of(config),
            config.digest(),
            config.rounds,
        )
        self._strategy, self._states, self._stack = strategy, states, stack
        self._participation = participation or Participation()
        self._every = config.checkpoint_every
        self._captured: dict[int, tuple[Packed, Mapping[int, Any]]] = {}
        self._ready: tuple[int, Packed, Mapping[int, Any]] | None = None
        self._written = resumed.number if resumed else 0
        self._cost, self._last = 0.0, time.monotonic()
        self._warned = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write what is not yet written, and say how to go on, if the run has not finished."""
        if error is None:
            return
        if self._ready and self._ready[0] > self._written:
            try:
                self._write(*self._ready)
            except FedalignError as failure:  # must not hide the error before it
                log.warning("%s", failure)
        if self._written:
            kept = f"round {self._written} of {self._rounds} is kept in {self._folder}"
            say(f"{kept}; to go on: {command()}", sys.stderr)

    def capture(self, outcome: Round) -> None:
        """Take the state after a round."""
        if not self._every:
            return
        clients = self._states.snapshot()
        self._warn(clients is None)
        if clients is None:
            return
        state = {
            "model": outcome.after,
            "strategy": state_of(self._strategy),
            "participation": self._participation.state(),
        }
        self._captured[outcome.number] = pack(state), clients

    def on_round(self, outcome: Round) -> None:
        """Write a checkpoint if one is due; the round must already be in the folder's tables."""
        number = outcome.number
        if number not in self._captured:
            return
        facts = {"settings": self._settings, "number": number, "stack": self._stack}
        with os.scandir(self._folder) as files:
            sizes = {own.name: own.stat().st_size for own in files if own.name.endswith(".csv")}
        state, clients = self._captured.pop(number)
        self._ready = number, state.plus(facts | {"sizes": sizes}), clients
        if self._is_due(number):
            self._write(*self._ready)

    def _is_due(self, number: int) -> bool:
        if self._every == "auto":
            return time.monotonic() - self._last >= AUTO_FACTOR * self._cost
        return number % self._every == 0

    def _write(self, number: int, checkpoint: Packed, clients: Mapping[int, Any]) -> None:
        began = time.monotonic()
        for table in self._folder.glob("*.csv"):
            sync(table)
        write(self._folder / CHECKPOINT, checkpoint.plus({"clients": dict(clients)}))
        self._states.is_saved(clients)
        self._written, self._last = number, time.monotonic()
        self._cost = self._last - began

    def _warn(self, clients_lose: bool) -> None:
        lost = [] if self._warned else sorted(lost_of(self._strategy))
        if clients_lose and not self._warned:
            log.warning("no checkpoints: nodes do not store their clients' states (state-dir)")
        self._warned = True
        if lost:
            message = "checkpoints cannot store %s of the strategy: a resumed run may differ"
            log.warning(message, ", ".join(lost))


def command() -> str:
    """Return the command that goes on with this run, as a person would type it."""
    program, *words = sys.argv
    if Path(program).name not in ("fedalign", "flower-simulation"):
        return "start the same run again"
    return shlex.join([Path(program).name, *(word for word in words if word != "--again")])


def resume(config: Config, strategy: Strategy, states: ClientStates) -> Checkpoint | None:
    """Return the checkpoint of an unfinished run and restore its state; None if there is none.

    A damaged checkpoint, or one of other settings, is ignored with a warning.

    Args:
        config: the run's configuration.
        strategy: as newly built; its attributes are set to those of the checkpoint.
        states: of the clients, which become those of the checkpoint.

    Raises:
        InputError: the checkpoint has clients' states that this engine cannot read.
    """
    folder = folder_of(config)
    path = folder / CHECKPOINT
    try:
        earlier = read_manifest(folder)
    except DamagedManifestError as error:
        log.warning("%s; the run starts from round 1", error)
        return None
    finished = earlier is not None and earlier["status"] == FINISHED
    if not path.is_file() or finished:
        return None
    try:
        checkpoint = _read(config)
        attributes = list(_attributes(strategy, checkpoint.strategy))
    except DamagedError as error:
        log.warning("%s: %s; the run starts from round 1", path, error)
        return None
    if any(not isinstance(state, states.kind) for state in checkpoint.clients.values()):
        raise InputError(
            f"{path}: the states after round {checkpoint.number} were saved by another kind of "
            "engine: go on with the engine that the run began on, or give --again"
        )
    for owner, name, value in attributes:
        setattr(owner, name, value)
    states.restore(checkpoint.clients)
    return checkpoint


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
