"""The engine on Ray workers: few calls a round, and one copy of the model per worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from flwr.app import UserConfigValue
from flwr.clientapp import ClientApp

from fedalign.messages.copies import node_of, with_content
from fedalign.messages.groups import GroupApp, GroupReplies
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.faults import MAX_FAILED, Fault, blame, give_up
from fedalign.simulation.grid import LocalGrid
from fedalign.simulation.ray_cluster import ray_for, room_for, watch_head
from fedalign.simulation.ray_setup import full_backend_config, threads_of
from fedalign.simulation.schedule import Task
from fedalign.simulation.serving import FAILED, error_reply
from fedalign.simulation.shipping import ship_arrays_out_of_band
from fedalign.simulation.worker import Job, Worker

PATIENCE = 3  # times its timeout, after which a client that is late gives way to its next message
MAX_STARTS = 3  # of a worker, one after the other
BREATH = 0.1  # seconds between two looks at a client that is late


class Pool:
    """Workers that serve what waits in a grid, each fed by a thread.

    A client that raises gives an Error reply. If a worker dies, or its GPU fails, it is replaced,
    and its clients are tried again; one that fails alone gives an Error reply, see `blame`. A
    client that takes longer than its timeout costs its worker: at once if its reply is of no use
    any more, else if all workers are held by such clients while others wait, or after some time if
    a message to the same client waits. The time in which a worker starts is nobody's.

    Args:
        grid: whose clients are served.
        app: which each worker imports.
        resources: of each worker, as Ray names them.
        workers: their number.
        least: seconds of work; if less waits, it is left to others.
    """

    def __init__(
        self,
        grid: LocalGrid,
        app: FlowerApp,
        resources: Mapping[str, float],
        workers: int,
        least: float = 0.0,
    ) -> None:
        ship_arrays_out_of_band()
        actor: Any = ray.remote(Worker)
        self._new = partial(actor.options(**resources).remote, app, threads_of(resources))
        self._grid, self._least = grid, least
        self._executors = workers + bool(least)
        self._shared: Any = None
        self._late: set[int] = set()  # places of workers whose clients are late
        self._putting = threading.Lock()
        self.workers = [self._new() for _ in range(workers)]
        feed = partial(threading.Thread, target=self._feed, daemon=True)
        self._feeders = [feed(args=[place]) for place in range(workers)]
        threading.Thread(target=watch_head, args=[grid.schedule], daemon=True).start()

    def start(self, client_app: ClientApp) -> None:
        """Send all workers what the clients of a `GroupApp` share, and let them begin."""
        if isinstance(client_app, GroupApp):
            config, nodes = self._grid.run_config, self._grid.get_node_ids()
            sizes = dict(zip(nodes, client_app.sizes(config, len(nodes)), strict=True))
            # A client of size 0 still costs a call.
            self._grid.costs.size = lambda node: sizes[node] or 1.0
            self._shared = ray.put(client_app.share(config))
        for worker in self.workers:
            self._introduce(worker)
        for feeder in self._feeders:
            feeder.start()

    def close(self) -> None:
        """Stop the workers; the schedule must have been closed."""
        for worker in self.workers:
            with suppress(ray.exceptions.RayError):  # an app may have stopped Ray itself
                ray.kill(worker)
        for feeder in self._feeders:
            if feeder.ident is not None:
                feeder.join()

    def _feed(self, place: int) -> None:
        """Let a worker serve what waits, until the schedule is closed."""
        self._wait_for(place)
        while tasks := self._next():
            try:
                self._serve(place, tasks)
            except BaseException as error:
                for task in tasks:
                    if task in task.batch.running:
                        self._grid.fail(task, error)

    def _next(self) -> list[Task]:
        """Wait for groups to serve; none if the schedule is closed."""
        schedule = self._grid.schedule
        with schedule.turn:
            while not schedule.closed:
                if tasks := schedule.take(self._executors, self._least):
                    return tasks
                schedule.turn.wait()
        return []

    def _serve(self, place: int, tasks: list[Task]) -> None:
        """Have a worker serve groups of one batch; replace it if it is lost."""
        batch = tasks[0].batch
        if batch.deaths:  # what killed a worker may have killed this one too
            self._ensure(place)
        worker = self.workers[place]
        call = self._call(worker, tasks)
        if not self._is_in_time(place, call, tasks):
            self._give_up(tasks)
            self._replace(place)
            return
        try:
            done, fault, self._grid.costs.used[worker] = ray.get(call)
        except ray.exceptions.RayError as error:
            done, fault = [], Fault(f"the worker died: {str(error).strip().splitlines()[0]}")
        if self._grid.schedule.closed:
            return
        served, lost = tasks[: len(done)], tasks[len(done) :]
        if served:
            batch.failed = 0
        if fault is None:
            taken = [seconds for _, seconds in done]
            self._grid.costs.learn(worker, [task.messages for task in served], taken)
        for task, (answers, seconds) in zip(served, done, strict=True):
            self._grid.keep(task, answers, seconds)
            with self._grid.schedule.turn:
                self._grid.schedule.finish(task)
        if fault is not None:
            self._try_again(lost, fault)
            self._replace(place)

    def _call(self, worker: Any, tasks: list[Task]) -> Any:
        """Start to serve groups of one batch; return the reference to the results."""
        batch = tasks[0].batch
        contents = {id(content): content for content in (t.messages[0].content for t in tasks)}
        with self._putting:
            for key in contents.keys() - batch.sent.keys():
                batch.sent[key] = ray.put(contents[key])
        order = list(contents)
        jobs = [
            Job(
                [with_content(message, None) for message in task.messages],
                order.index(id(task.messages[0].content)),
                [self._grid.context(node_of(message)) for message in task.messages],
            )
            for task in tasks
        ]
        return worker.run.remote(jobs, batch.request, *(batch.sent[key] for key in order))

    def _is_in_time(self, place: int, call: Any, tasks: list[Task]) -> bool:
        """Wait for a call; return whether it has ended before its worker is given up."""
        batch, limit = tasks[0].batch, tasks[0].limit
        if batch.timeout is None:
            return True  # `ray.get` will wait
        ready, _ = ray.wait([call], timeout=limit)
        # Of a call with several groups, all together should take far less than one of them may.
        wanted = batch.kept and len(tasks) == 1
        if wanted and not ready:
            self._late.add(place)
            end = time.monotonic() + (PATIENCE - 1) * limit
            while not ready and not self._is_needed(tasks[0], end):
                ready, _ = ray.wait([call], timeout=BREATH)
            self._late.discard(place)
        return bool(ready)

    def _is_needed(self, late: Task, end: float) -> bool:
        """Return whether others wait for a late client: for any worker, or for that client."""
        schedule = self._grid.schedule
        with schedule.turn:
            held = len(self._late) == len(self.workers) and schedule.waiting()
            return held or (schedule.has_followers(late) and time.monotonic() > end)

    def _give_up(self, tasks: list[Task]) -> None:
        """Give up a client that is late, or serve groups one by one if one of them may be late."""
        schedule, several = self._grid.schedule, len(tasks) > 1
        with schedule.turn:
            for task in reversed(tasks):
                if not several and task.batch.kept:
                    why = "late, and its worker was needed for others"
                    replies = [error_reply(message, FAILED, why) for message in task.messages]
                    self._grid.keep(task, GroupReplies(replies), task.limit)
                schedule.put_back(task, [task.messages] if several else [])

    def _try_again(self, lost: list[Task], fault: Fault) -> None:
        """Serve groups again whose worker is lost, but for a client that is to blame."""
        schedule, batch = self._grid.schedule, lost[0].batch
        with schedule.turn:
            pieces, said = blame(lost, fault)
            self._grid.keep(lost[0], said)
            for task, own in reversed(list(zip(lost, pieces, strict=True))):
                schedule.put_back(task, own)
            if batch.failed >= MAX_FAILED * len(self.workers):
                self._grid.keep(lost[0], give_up(schedule.withdraw(batch), fault))

    def _replace(self, place: int) -> None:
        ray.kill(self.workers[place])
        if not self._grid.schedule.closed:
            self.workers[place] = self._new()
            self._introduce(self.workers[place])
            self._wait_for(place)

    def _wait_for(self, place: int) -> bool:
        """Wait until a worker has started; return False if it has died."""
        with suppress(ray.exceptions.RayError):
            ray.get(self.workers[place].ready.remote())
            return True
        return False

    def _ensure(self, place: int) -> None:
        """Replace a worker that has died; if none can start, the next call will say why."""
        for _ in range(MAX_STARTS):
            if self._wait_for(place):
                break
            self._replace(place)

    def _introduce(self, worker: Any) -> None:
        if self._shared is not None:
            worker.adopt.remote(self._grid.run_config, len(self._grid.get_node_ids()), self._shared)


class RayGrid(LocalGrid):
    """A Grid whose clients run in Ray workers; Ray must have been initialised."""

    def __init__(
        self,
        app: FlowerApp,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(num_nodes, run_config, run_id)
        given = dict(resources or {"num_cpus": 1})
        self._pool = Pool(self, app, given, room_for(given))
        self.schedule.refusal = "nobody serves the clients of a RayGrid before its `start`"

    def start(self, client_app: ClientApp) -> None:
        """Let the workers begin, after sending them what they share."""
        self._pool.start(client_app)
        self.schedule.refusal = ""

    @property
    def num_workers(self) -> int:
        """The number of workers."""
        return len(self._pool.workers)

    def close(self) -> None:
        """Stop the workers."""
        super().close()
        self._pool.close()


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
        grid.start(client_app)
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
    with ray_for(app, config["init_args"]):
        grid = RayGrid(app, num_nodes, run_config, run_id, config["client_resources"])
        try:
            yield grid
        finally:
            grid.close()
