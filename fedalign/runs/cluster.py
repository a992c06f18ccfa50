"""Jobs on the nodes of a Ray cluster, each with a process that takes one run after another."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedalign.errors import FedalignError, InputError, shortened
from fedalign.runs.launch import APP
from fedalign.runs.nodes import Ground, ground_of
from fedalign.runs.processes import Command, Process, text_of
from fedalign.runs.room import Room, check, places, room_for
from fedalign.runs.sources import tops_of
from fedalign.settings.config import Config
from fedalign.simulation.ray_cluster import ray_for

HANDED_ON = ("FEDALIGN_", "HF_", "MLFLOW_", "WANDB_")  # beginnings of names of variables
FAREWELL = 10.0  # seconds in which a job ends its process
# Prints pages about a node that has died, whose runs are named here.
RAYS_OWN = "ray._private.worker.listen_error_messages"
CALLS = 3  # of a job at a time: to run, to stop and to end


class Job(Process):
    """A process on a node of the cluster; a Ray actor."""

    def __init__(self, threads: int, asked: Command, ground: Ground):
        self._unseen = ground.unseen()
        if self._unseen is None:
            super().__init__(threads, True, asked)

    def node(self) -> str:
        """Return the name of the node."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return f"{socket.gethostname()} ({address})"

    def run(self, text: str) -> tuple[str | None, bool]:
        """Run a configuration; return why it failed, if so, and whether this takes another one."""
        if self._unseen is not None:  # by a node that has come later
            return f"node {self.node()} {self._unseen}", False
        self.send(text)
        return self.take()


class RemoteWorker:
    """A job, seen from here; a `Worker`.

    Args:
        job: the actor.
        threads: of a run whose configuration names no number.
    """

    def __init__(self, job: Any, threads: int):
        self._job, self._threads, self._node = job, threads, job.node.remote()
        self._ended, self._end = Pipe(duplex=False)

    @property
    def begun(self) -> bool:
        """Whether Ray has found a place for the job."""
        return bool(ray.wait([self._node], timeout=0)[0])

    def fileno(self) -> int:
        """Return the file that can be read once a run has ended, or the job."""
        return self._ended.fileno()

    def give(self, config: Config) -> None:
        """Let the job run a configuration."""
        self._run = self._job.run.remote(text_of(_placed(config, self._threads)))
        self._run.future().add_done_callback(self._tell)

    def take(self) -> tuple[str | None, bool]:
        """Return why the run failed, if it did, and whether the job takes another one."""
        self._ended.recv_bytes()
        try:
            error, warm = ray.get(self._run)
        except ray.exceptions.RayError as lost:
            return f"its job on {self._place()} died: {_cause(lost)}", False
        return error, warm

    def stop(self) -> None:
        """Ask the job to stop its run, which keeps the last finished round."""
        if self.begun:
            self._job.stop.remote()

    def join(self, seconds: float) -> None:
        """Wait so long for a run that has been asked to stop."""
        if self.begun:
            self._ended.poll(seconds)

    def end(self) -> None:
        """End the job, and all that it has started."""
        with suppress(ray.exceptions.RayError):
            if self.begun:
                ray.wait([self._job.end.remote()], timeout=FAREWELL)
            ray.kill(self._job)
        self._ended.close()
        self._end.close()

    def _tell(self, _: object) -> None:
        with suppress(OSError):  # nobody waits any more
            self._end.send_bytes(b"")

    def _place(self) -> str:
        with suppress(ray.exceptions.RayError):
            return f"node {ray.get(self._node, timeout=0)}"
        return "a node"


class Cluster:
    """Jobs that Ray places on the nodes of a cluster; a `Crew`."""

    def __init__(self, room: Room, asked: Command, ground: Ground):
        self.jobs, self.place = room.jobs, f" on {_nodes(len(room.nodes))}"
        self._room, self._asked, self._ground = room, asked, ground
        takes = {"num_cpus": room.cpus, "num_gpus": room.gpus}
        actor: Any = ray.remote(Job)
        spread = {"max_concurrency": CALLS, "scheduling_strategy": "SPREAD"}
        self._job = actor.options(**spread, **takes)

    def hire(self, config: Config) -> RemoteWorker:
        """Have Ray place a new job.

        Raises:
            FedalignError: the nodes that had room have died.
        """
        room = self._room
        if not any(places(node["Resources"], room.cpus, room.gpus) for node in _alive()):
            raise FedalignError("all nodes of the Ray cluster with room for a run have died")
        threads = _placed(config, room.threads).evaluation.threads
        job = self._job.remote(threads, self._asked, self._ground)
        return RemoteWorker(job, room.threads)


@contextmanager
def cluster(address: str, configs: Sequence[Config], jobs: int | None) -> Iterator[Cluster]:
    """Join the Ray cluster at an address, and yield what makes runs on it.

    Args:
        address: as Ray takes it: `auto`, or `HOST:PORT`.
        configs: of the runs.
        jobs: number of runs at a time; None: as many as there is room for.

    Raises:
        InputError: the cluster cannot be joined or has no room for a run; or a node lacks folders
            or code.
    """
    variables = {name: v for name, v in os.environ.items() if name.startswith(HANDED_ON)}
    asked = Command(variables=variables)
    outs = [Path(asked.folder) / Path(config.out).expanduser() for config in configs]
    tops = frozenset().union(*map(tops_of, configs))
    options = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    for config in configs:
        check(config)
    with (
        ground_of(asked.folder, outs, tops) as ground,
        patch(RAYS_OWN, lambda *_: None, create=True),
        ray_for(APP, options, "--address"),
    ):
        yield Cluster(_room(configs, jobs, ground), asked, ground)


def _alive() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _room(configs: Sequence[Config], jobs: int | None, ground: Ground) -> Room:
    """Return the room on the nodes that live; `InputError` if one of them lacks what runs need."""
    dead: set[str] = set()
    while True:
        nodes = [node for node in _alive() if node["NodeID"] not in dead]
        room = room_for(configs, [node["Resources"] for node in nodes], jobs)
        if not (found := _dead([nodes[place] for place in room.nodes], ground)):
            return room
        dead |= found


def _dead(nodes: Sequence[dict[str, Any]], ground: Ground) -> set[str]:
    """Return the ids of nodes that have died, of which Ray may not know yet.

    Raises:
        InputError: a node lacks what runs need.
    """
    task: Any = ray.remote(Ground.fault)
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        asked.append(task.options(**options).remote(ground))
    faults, dead = [], set()
    for node, call in zip(nodes, asked, strict=True):
        try:
            told = ray.get(call)
        except ray.exceptions.TaskUnschedulableError:
            dead.add(node["NodeID"])
            continue
        except ray.exceptions.RayError as error:
            told = f"cannot run fedalign as it is here: {_cause(error)}"
        if told:
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            faults.append(f"node {name} {told}")
    if faults:
        more = f"; there are faults on {_nodes(len(faults))} in all" if len(faults) > 1 else ""
        raise InputError(f"--address: {faults[0]}{more}")
    return dead


def _cause(error: Exception) -> str:
    """Return what Ray says of a death in one line, without its guesses."""
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "there is no connection to it any more"
    last = str(error).strip().partition(" Some common causes")[0].splitlines()[-1]
    return shortened(last.rpartition("Worker exit detail: ")[2])


def _placed(config: Config, threads: int) -> Config:
    """Return a configuration for any node: with its number of threads, and without `~`."""
    update: dict[str, object] = {"out": str(Path(config.out).expanduser())}
    if "threads" not in config.evaluation.model_fields_set:
        update["evaluation"] = config.evaluation.model_copy(update={"threads": threads})
    return config.model_copy(update=update)


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"
