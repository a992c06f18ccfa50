"""The engine on Ray workers: one call per worker and round, and one copy of the model per worker.

A worker is a process that imports the ClientApp once and then serves any client. Clients are
distributed by their measured cost, longest first. A client's state travels with its message, so any
worker can serve it next.
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

import ray
from flwr.app import Context, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp

from fedalign.errors import DeviceError, InputError
from fedalign.messages.copies import with_content
from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest, RunConfig
from fedalign.simulation.app import FlowerApp, load_component
from fedalign.simulation.costs import Costs
from fedalign.simulation.grid import LocalGrid, is_over, serve
from fedalign.simulation.queues import Fault, Queue
from fedalign.simulation.ray_setup import full_backend_config, own_sigterm, surroundings
from fedalign.simulation.shipping import leave_shared_memory, ship_arrays_out_of_band

PASSED_ON = (
    "PYTHONPATH", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_LOG_LEVEL",
    "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """The task of a group of clients.

    Attributes:
        envelopes: their messages, without content.
        broadcast: the index of the content that all of them have.
        contexts: their contexts.
    """

    envelopes: Sequence[Message]
    broadcast: int
    contexts: Sequence[Context]


class Worker:
    """The actor that runs in a worker process."""

    def __init__(self, app: FlowerApp):
        ship_arrays_out_of_band()
        app.put_on_path()
        self._client_app = load_component(app.client, app.root)

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take what all workers share; if that fails, the first client makes it, or fails too."""
        with suppress(Exception):
            self._client_app.adopt(run_config, num_partitions, shared)

    def run(
        self, jobs: Sequence[Job], request: GroupRequest, *broadcasts: RecordDict
    ) -> tuple[list[tuple[GroupReplies, float]], Fault | None]:
        """Return for each job its replies and the seconds it took.

        If the GPU fails, the jobs before are returned, and why. The worker must then end.
        """
        done: list[tuple[GroupReplies, float]] = []
        for job in jobs:
            started = time.perf_counter()
            content = broadcasts[job.broadcast]
            messages = [with_content(envelope, content) for envelope in job.envelopes]
            try:
                answers = serve(self._client_app, messages, job.contexts, request)
            except DeviceError as error:
                return done, Fault(error.reason, error.nodes)
            done.append((answers, time.perf_counter() - started))
        return done, None


class RayGrid(LocalGrid):
    """A Grid whose clients run in Ray workers; Ray must have been initialised.

    A client that raises gives an Error reply. If a worker dies, or its GPU fails, it is replaced,
    and its clients are tried again; one that fails alone gives an Error reply, see
    `Queue.lose`. When a `timeout` is over, workers that are still busy are replaced, and their
    clients give no reply.
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
        """Ask a `GroupApp` for the clients' sizes, and send all workers what they share."""
        if isinstance(client_app, GroupApp):
            sizes = client_app.sizes(self._run_config, len(self._nodes))
            # A client of size 0 still costs a call.
            self._costs.size = lambda node: sizes[self._nodes.index(node)] or 1.0
            self._shared = ray.put(client_app.share(self._run_config))
            for worker in self._workers:
                self._introduce(worker)

    @property
    def num_workers(self) -> int:
        """The number of workers."""
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
        dealt = enumerate(self._deal(groups))
        queues = [Queue(place, [share]) for place, share in dealt if share]
        busy = {self._start(queue, request, sent): queue for queue in queues}
        while busy:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(busy), timeout=left)
            if not ready:
                for queue in busy.values():
                    self._replace(queue.place)
                return
            queue = busy.pop(ready[0])
            yield from self._finish(ready[0], queue)
            if queue.shares and not is_over(deadline):
                busy[self._start(queue, request, sent)] = queue

    def _start(self, queue: Queue, request: GroupRequest, sent: Mapping[int, Any]) -> Any:
        """Start the first share in a worker's queue; return the reference to its results."""
        share = queue.shares[0]
        order = list({id(group[0].content): None for group in share})
        jobs = [
            Job(
                [with_content(message, None) for message in group],
                order.index(id(group[0].content)),
                [self.context(message.metadata.dst_node_id) for message in group],
            )
            for group in share
        ]
        return self._workers[queue.place].run.remote(jobs, request, *(sent[key] for key in order))

    def _finish(self, ready: Any, queue: Queue) -> Iterator[GroupReplies]:
        """Yield the replies of one call; replace the worker if it is lost."""
        share = queue.shares.pop(0)
        try:
            done, fault = ray.get(ready)
        except ray.exceptions.RayError as error:
            done, fault = [], Fault(f"the worker died: {str(error).strip().splitlines()[0]}")
        if fault is None:
            taken = [seconds for _, seconds in done]
            self._costs.learn(self._workers[queue.place], share, taken)
        queue.failed = 0 if done else queue.failed
        for answers, _ in done:
            yield answers
        if fault is not None:
            self._replace(queue.place)
            yield queue.lose(share[len(done) :], fault)

    def _replace(self, place: int) -> None:
        ray.kill(self._workers[place])
        self._workers[place] = self._new()
        self._introduce(self._workers[place])

    def _introduce(self, worker: Any) -> None:
        if self._shared is not None:
            worker.adopt.remote(self._run_config, len(self._nodes), self._shared)

    def _deal(self, groups: list[list[Message]]) -> list[list[list[Message]]]:
        """Return each worker's groups: longest first, each to the worker with the least load."""
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
    """Run the ServerApp of `app` to its end; its exceptions are passed on unchanged."""
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
    """Yield a grid on the initialised Ray, or on one that is started and stopped here."""
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
            leave_shared_memory()
            if own:
                ray.shutdown()
            elif grid is not None:
                grid.close()


def _connect(init_args: dict[str, Any]) -> None:
    """Start Ray here, or join a cluster and send it our environment, which it does not inherit."""
    if "address" in init_args:
        _check_reachable(init_args["address"])
        passed = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        init_args = {"runtime_env": {"env_vars": passed}, **init_args}
    with own_sigterm():
        ray.init(**init_args)


def _check_reachable(address: str) -> None:
    """Raise `InputError` if nothing listens at `host:port`; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return  # for example `auto`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"simulation.address: no Ray cluster answers at {address!r}") from error


def _room_for(resources: Mapping[str, float]) -> int:
    """Return the number of workers that fit into the cluster; `InputError` if none does."""
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
