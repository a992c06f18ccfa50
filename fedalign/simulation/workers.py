"""The engine on Ray workers: one call a worker and round, and the model crosses once a worker.

A worker is a process that imports the ClientApp once and then serves whatever clients it is dealt.
Clients are dealt by their measured cost, longest first. The state of a client travels with its
message, so it does not matter which worker serves it next.
"""

from __future__ import annotations

import heapq
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from flwr.app import Array, Context, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedalign.errors import InputError
from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest, RunConfig
from fedalign.simulation.app import FlowerApp, load_component
from fedalign.simulation.costs import Costs
from fedalign.simulation.grid import LocalGrid, error_reply, serve, with_content
from fedalign.simulation.ray_setup import full_backend_config, surroundings

PASSED_ON = (
    "PYTHONPATH", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_LOG_LEVEL",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What a group of clients is to do: envelopes, which broadcast is in them, their contexts."""

    envelopes: Sequence[Message]
    broadcast: int
    contexts: Sequence[Context]


class Worker:
    """What runs in a worker process."""

    def __init__(self, app: FlowerApp):
        ship_arrays_out_of_band()
        app.put_on_path()
        self._client_app = load_component(app.client, app.root)

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take what all workers need; a failure is told when a client is asked."""
        with suppress(Exception):
            self._client_app.adopt(run_config, num_partitions, shared)

    def run(
        self, jobs: Sequence[Job], request: GroupRequest, *broadcasts: RecordDict
    ) -> list[tuple[GroupReplies, list[Any], float]]:
        """Return for each job the answers, the clients' states and the seconds that it took."""
        done = []
        for job in jobs:
            started = time.perf_counter()
            content = broadcasts[job.broadcast]
            messages = [with_content(envelope, content) for envelope in job.envelopes]
            answers = serve(self._client_app, messages, job.contexts, request)
            states = [context.state for context in job.contexts]
            done.append((answers, states, time.perf_counter() - started))
        return done


class RayGrid(LocalGrid):
    """A Grid whose clients run in Ray workers.

    A client that raises gives an Error reply. A worker that dies gives one for each of its clients
    of that round and is replaced. When a ``timeout`` is over, workers that are still busy are
    replaced and their clients have no reply. Ray must have been initialised.
    """

    def __init__(
        self,
        app: FlowerApp,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(num_nodes, run_config, run_id)
        resources = dict(resources or {"num_cpus": 1})
        ship_arrays_out_of_band()
        actor: Any = ray.remote(Worker)
        self._new = partial(actor.options(**resources).remote, app)
        self._workers: list[Any] = [self._new() for _ in range(_room_for(resources))]
        self._shared: Any = None
        self._costs = Costs()

    def prepare(self, client_app: ClientApp) -> None:
        """Let a `GroupApp` tell how much clients have to do, and share with all workers."""
        if isinstance(client_app, GroupApp):
            sizes = client_app.sizes(self._run_config, len(self._nodes))
            # Who has nothing to do still costs a call.
            self._costs.size = lambda node: sizes[self._nodes.index(node)] or 1.0
            self._shared = ray.put(client_app.share(self._run_config))
            for worker in self._workers:
                self._introduce(worker)

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            ray.kill(worker)

    def _run_all(
        self, groups: list[list[Message]], request: GroupRequest, deadline: float | None
    ) -> Iterator[GroupReplies]:
        contents = {id(group[0].content): group[0].content for group in groups}
        sent = {key: ray.put(content) for key, content in contents.items()}
        busy: dict[Any, tuple[int, list[list[Message]]]] = {}
        for place, share in enumerate(self._deal(groups)):
            if share:
                busy[self._start(place, share, request, sent)] = (place, share)
        while busy:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(busy), timeout=left)
            if not ready:
                for place, _ in busy.values():
                    self._replace(place)
                return
            yield from self._finish(ready[0], *busy.pop(ready[0]))

    def _start(
        self, place: int, share: list[list[Message]], request: GroupRequest, sent: Mapping[int, Any]
    ) -> Any:
        """Return the reference to what the worker at ``place`` will answer."""
        order = list({id(group[0].content): None for group in share})
        jobs = [
            Job(
                [with_content(message, None) for message in group],
                order.index(id(group[0].content)),
                [self.context(message.metadata.dst_node_id) for message in group],
            )
            for group in share
        ]
        return self._workers[place].run.remote(jobs, request, *(sent[key] for key in order))

    def _finish(self, ready: Any, place: int, share: list[list[Message]]) -> Iterator[GroupReplies]:
        """Yield the answers of one call; an error for each client of a worker that died."""
        try:
            done = ray.get(ready)
        except ray.exceptions.RayError as error:
            self._replace(place)
            why = f"the worker died: {str(error).strip().splitlines()[0]}"
            lost = [message for group in share for message in group]
            yield GroupReplies([error_reply(message, ErrorCode.UNKNOWN, why) for message in lost])
            return
        self._costs.learn(self._workers[place], share, [seconds for _, _, seconds in done])
        for group, (answers, states, _) in zip(share, done, strict=True):
            for message, state in zip(group, states, strict=True):
                self.keep_state(message.metadata.dst_node_id, state)
            yield answers

    def _replace(self, place: int) -> None:
        ray.kill(self._workers[place])
        self._workers[place] = self._new()
        self._introduce(self._workers[place])

    def _introduce(self, worker: Any) -> None:
        if self._shared is not None:
            worker.adopt.remote(self._run_config, len(self._nodes), self._shared)

    def _deal(self, groups: list[list[Message]]) -> list[list[list[Message]]]:
        """Return each worker's groups: always the longest left to whoever has least to do."""
        costs = [self._costs.of(group) for group in groups]
        shares: list[list[list[Message]]] = [[] for _ in self._workers]
        loads = [(0.0, place) for place in range(len(shares))]
        for index in sorted(range(len(groups)), key=lambda i: -costs[i]):
            load, place = heapq.heappop(loads)
            shares[place].append(groups[index])
            heapq.heappush(loads, (load + costs[index], place))
        return shares


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, UserConfigValue],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Return when the ServerApp of ``app`` has come to its end; what it raises comes out as is."""
    with open_grid(app, num_supernodes, run_config, backend_config, run_id) as grid:
        server_app, client_app = app.load()  # while the workers load theirs
        grid.prepare(client_app)
        grid.serve(server_app)


@contextmanager
def open_grid(
    app: FlowerApp,
    num_nodes: int,
    run_config: dict[str, UserConfigValue],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> Iterator[RayGrid]:
    """Yield a grid on the Ray that is there, or on one that is started and stopped with it."""
    config = full_backend_config(backend_config)
    with surroundings(app):
        own = not ray.is_initialized()
        if own:
            _connect(config["init_args"])
        grid = None
        try:
            grid = RayGrid(app, num_nodes, run_config, run_id, config["client_resources"])
            yield grid
        finally:
            if own:
                ray.shutdown()
            elif grid is not None:
                grid.close()


def _connect(init_args: dict[str, Any]) -> None:
    """Start Ray here, or join a cluster, whose processes do not inherit our environment."""
    if "address" in init_args:
        _check_reachable(init_args["address"])
        passed = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        init_args = {"runtime_env": {"env_vars": passed}, **init_args}
    ray.init(**init_args)


def _check_reachable(address: str) -> None:
    """Raise for a `host:port` where nobody listens, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return  # such as `auto`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"simulation.address: no Ray cluster answers at {address!r}") from error


def ship_arrays_out_of_band() -> None:
    """Let this process send Flower's Arrays through shared memory, and not inside a pickle."""
    ray.util.register_serializer(Array, serializer=_pack, deserializer=_unpack)


def _pack(array: Array) -> tuple[str, tuple[int, ...], str, np.ndarray]:
    return array.dtype, tuple(array.shape), array.stype, np.frombuffer(array.data, np.uint8)


def _unpack(packed: tuple[str, tuple[int, ...], str, np.ndarray]) -> Array:
    dtype, shape, stype, data = packed
    return Array(dtype, shape, stype, data.tobytes())


def _room_for(resources: Mapping[str, float]) -> int:
    """Return how many workers the cluster has room for."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    counts = [
        int(there.get(names.get(key, key), 0) / amount)
        for key, amount in resources.items()
        if amount
    ]
    if not counts or min(counts) < 1:
        have = ", ".join(f"{key}: {there.get(name, 0):g}" for key, name in names.items())
        raise InputError(f"client_resources: {dict(resources)} does not fit; Ray has {have}")
    return min(counts)
