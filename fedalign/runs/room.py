"""How many runs of a sweep a Ray cluster has room for, and what each of them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from fedalign.errors import InputError
from fedalign.settings.config import Config

THREADS = 2  # of a run, unless it is said


@dataclass(frozen=True)
class Room:
    """What runs take up of a cluster.

    Attributes:
        jobs: number of runs at a time.
        threads: of a run whose configuration names no number.
        cpus: that Ray reserves for a run.
        gpus: the same; a fraction if several runs share one.
        nodes: the places of the nodes that have room for a run.
    """

    jobs: int
    threads: int
    cpus: int
    gpus: float
    nodes: list[int]


def places(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return for how many runs that take so much a node has room."""
    found = int(node.get("CPU", 0) // cpus)
    return min(found, int(node.get("GPU", 0) / gpus + 1e-6)) if gpus else found


def room_for(
    configs: Sequence[Config], nodes: Sequence[Mapping[str, float]], jobs: int | None
) -> Room:
    """Return what these runs take up of the nodes, each given by its number of `CPU` and `GPU`.

    Args:
        configs: of the runs, the neediest of which counts.
        nodes: of the cluster.
        jobs: number of runs at a time, which then share CPUs and GPUs; None: as many as there is
            room for if a run takes `THREADS` CPUs, and a GPU if it may compute on one.

    Raises:
        InputError: no node has room for a run.
    """
    every = [node.get("CPU", 0.0) for node in nodes]
    gpus = _gpus(configs, sum(node.get("GPU", 0.0) for node in nodes), jobs)
    threads = _threads(every, jobs)
    cpus = max(_cpus(config, threads) for config in configs)
    counts = [places(node, cpus, gpus) for node in nodes]
    if not sum(counts):
        has = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
        takes = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise InputError(f"--address: a run takes {takes}, and no node has as many ({has})")
    most = min(sum(counts), len(configs))
    having = [place for place, count in enumerate(counts) if count]
    return Room(min(jobs or most, most), threads, cpus, gpus, having)


def check(config: Config) -> None:
    """Raise `InputError` for settings that name workers or GPUs of a run's own."""
    simulation = config.simulation
    if simulation.backend in ("ray", "flower") or simulation.address:
        raise InputError(
            f"simulation.backend: {simulation.backend!r} spreads the clients of a run, while "
            "--address spreads whole runs, which have no workers of their own: give auto or "
            "inline, and no simulation.address"
        )
    if simulation.client_gpus not in ("auto", 0, 1):
        raise InputError(
            f"simulation.client_gpus: {simulation.client_gpus} is not allowed with --address, "
            "where all clients of a run have one GPU; --jobs says how many runs there are for each"
        )
    if ":" in config.device:
        raise InputError(f"device: {config.device!r} is not allowed with --address; give cuda")


def _threads(cpus: Sequence[float], jobs: int | None) -> int:
    """Return the threads of a run: as many as leave room for all jobs, or the usual number."""
    most = int(max(cpus, default=0))
    if jobs is None:
        return max(1, min(THREADS, most))
    fitting = (own for own in range(most, 0, -1) if sum(there // own for there in cpus) >= jobs)
    return next(fitting, 1)


def _cpus(config: Config, threads: int) -> int:
    own, evaluation = config.simulation.client_cpus, config.evaluation
    given = "threads" in evaluation.model_fields_set
    return max(evaluation.threads if given else threads, ceil(own))


def _gpus(configs: Sequence[Config], there: float, jobs: int | None) -> float:
    """Return the GPUs that a run takes: one, or its share of one if there are more runs."""
    wants = {config.device for config in configs}
    if "cuda" not in wants and not (there and "auto" in wants):
        return 0.0
    return 1 / ceil(jobs / there) if jobs and there else 1.0
