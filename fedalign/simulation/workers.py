"""The engine on Ray workers: one call a worker and round, and the model crosses once a worker.

A worker is a process that imports the ClientApp once and then serves whatever clients it is dealt.
Clients are dealt by their measured cost, longest first. The state of a client travels with its
message, so it does not matter which worker serves it next.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from flwr.app import Array, Context, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedalign.errors import InputError
from fedalign.simulation.app import FlowerApp, Scalar, load_component
from fedalign.simulation.grid import (
    LocalGrid,
    call,
    error_reply,
    private_copy,
    with_content,
)
from fedalign.simulation.stock import full_backend_config, surroundings


@dataclass(frozen=True)
class Job:
    """One message for one client: the envelope, which broadcast is in it, the client's context."""

    envelope: Message
    broadcast: int
    context: Context


class Worker:
    """What runs in a worker process."""

    def __init__(self, app: FlowerApp):
        ship_arrays_out_of_band()
        app.put_on_path()
        self._client_app = load_component(app.client, app.root)

    def run(self, jobs: Sequence[Job], *broadcasts: RecordDict) -> list[tuple[Message, Any, float]]:
        """Return for each job the reply, the client's state and the seconds that it took."""
        done = []
        for job in jobs:
            started = time.perf_counter()
            message = with_content(job.envelope, broadcasts[job.broadcast])
            reply = call(self._client_app, private_copy(message), job.context)
            done.append((reply, job.context.state, time.perf_counter() - started))
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
        run_config: Mapping[str, Scalar] | None = None,
        run_id: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(num_nodes, run_config, run_id)
        resources = dict(resources or {"num_cpus": 1})
        ship_arrays_out_of_band()
        actor: Any = ray.remote(Worker)
        self._new = partial(actor.options(**resources).remote, app)
        self._workers: list[Any] = [self._new() for _ in range(_room_for(resources))]
        self._seconds: dict[int, float] = {}

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            ray.kill(worker)

    def _run_all(self, messages: list[Message], deadline: float | None) -> Iterator[Message]:
        contents = {id(message.content): message.content for message in messages}
        sent = {key: ray.put(content) for key, content in contents.items()}
        busy: dict[Any, tuple[int, list[Message]]] = {}
        for place, share in enumerate(self._deal(messages)):
            if share:
                busy[self._start(place, share, sent)] = (place, share)
        while busy:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(busy), timeout=left)
            if not ready:
                for place, _ in busy.values():
                    self._replace(place)
                return
            yield from self._finish(ready[0], *busy.pop(ready[0]))

    def _start(self, place: int, share: list[Message], sent: Mapping[int, Any]) -> Any:
        """Return the reference to what the worker at ``place`` will answer."""
        order = list({id(message.content): None for message in share})
        jobs = [
            Job(
                with_content(message, None),
                order.index(id(message.content)),
                self.context(message.metadata.dst_node_id),
            )
            for message in share
        ]
        return self._workers[place].run.remote(jobs, *(sent[key] for key in order))

    def _finish(self, ready: Any, place: int, share: list[Message]) -> Iterator[Message]:
        """Yield the replies of one call; an error for each client of a worker that died."""
        try:
            done = ray.get(ready)
        except ray.exceptions.RayError as error:
            self._replace(place)
            why = f"the worker died: {str(error).strip().splitlines()[0]}"
            for message in share:
                yield error_reply(message, ErrorCode.UNKNOWN, why)
            return
        for message, (reply, state, seconds) in zip(share, done, strict=True):
            node = message.metadata.dst_node_id
            self.context(node).state = state
            self._seconds[node] = seconds
            yield reply

    def _replace(self, place: int) -> None:
        ray.kill(self._workers[place])
        self._workers[place] = self._new()

    def _deal(self, messages: list[Message]) -> list[list[Message]]:
        """Return each worker's messages: always the longest left to whoever has least to do."""
        usual = sum(self._seconds.values()) / len(self._seconds) if self._seconds else 1.0
        costs = [self._seconds.get(m.metadata.dst_node_id, usual) for m in messages]
        shares: list[list[Message]] = [[] for _ in self._workers]
        loads = [(0.0, place) for place in range(len(shares))]
        for index in sorted(range(len(messages)), key=lambda i: -costs[i]):
            load, place = heapq.heappop(loads)
            shares[place].append(messages[index])
            heapq.heappush(loads, (load + costs[index], place))
        return shares


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, Scalar],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Return when the ServerApp of ``app`` has come to its end; what it raises comes out as is."""
    config = full_backend_config(backend_config)
    with surroundings(app):
        own = not ray.is_initialized()
        if own:
            ray.init(**config["init_args"])
        grid = None
        try:
            grid = RayGrid(app, num_supernodes, run_config, run_id, config["client_resources"])
            grid.serve(app.load()[0])  # loaded while the workers load theirs
        finally:
            if own:
                ray.shutdown()
            elif grid is not None:
                grid.close()


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
