"""What a round asks of the host: operations or kernels launched, and time outside local training.

    python benchmarks/profile_round.py W2 simulation.stack=100

On a GPU PyTorch's profiler counts what the host sends to it; elsewhere a dispatch mode counts the
operations that are no views, which is what a GPU would be sent.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from processes import seconds_in
from torch.utils._python_dispatch import TorchDispatchMode
from workloads import settings_of, split

from clients.local import Local
from fedalign.federation.federation import Federation
from fedalign.server.measure import Measure
from fedalign.server.rounds import RoundLoop
from fedalign.settings.config import Config, read
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate

WARM = 6
"""Rounds that are not counted: until whole rounds are captured, checked and replayed."""
LAUNCHES = {
    "cudaLaunchKernel": "launches",
    "cudaLaunchKernelExC": "launches",
    "cuLaunchKernel": "launches",
    "cuLaunchKernelEx": "launches",
    "cudaGraphLaunch": "graphs",
    "cudaMemcpyAsync": "copies",
    "cudaMemsetAsync": "launches",
    "cudaStreamSynchronize": "waits",
    "cudaDeviceSynchronize": "waits",
    "cudaEventSynchronize": "waits",
}
NO_WORK = {"_unsafe_view", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty"}


class Operations(TorchDispatchMode):
    """Counts operations that are no views, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        name = func.overloadpacket.__name__
        aliases = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
        if name not in NO_WORK and (not aliases or any(alias.is_write for alias in aliases)):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Callable[[], Counter[str]]]:
    """Count what the body launches; the function that it gets returns the numbers afterwards."""
    if not torch.cuda.is_available():
        with Operations() as mode:
            yield lambda: Counter(launches=mode.found.total())
        return
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        yield lambda: _sums({event.key: event.count for event in profiler.key_averages()})


def _sums(counts: dict[str, int]) -> Counter[str]:
    found = Counter[str]()
    for name, kind in LAUNCHES.items():
        found[kind] += counts.get(name, 0)
    return found


def profiled(config: Config) -> dict[str, Any]:
    """Return, a round: launches, launches a step, and ms outside local training and evaluation.

    Steps are those of the round's longest client: more launches a step mean smaller stacks.
    """
    with tempfile.TemporaryDirectory() as out:
        steps, found = _launches(_with(config, out))
    with tempfile.TemporaryDirectory() as out:
        round_ms, outside_ms = _host(_with(config, out))
    rounds = len(steps)
    per_round = {kind: count / rounds for kind, count in found.items()}
    per_step = sum(found[kind] for kind in ("launches", "graphs")) / sum(steps)
    return per_round | {"per_step": per_step, "round_ms": round_ms, "outside_ms": outside_ms}


def _with(config: Config, out: str) -> Config:
    """Return a configuration whose rounds do not overlap."""
    evaluation = config.evaluation.model_copy(update={"overlap": False})
    return config.model_copy(update={"out": out, "evaluation": evaluation})


def _simulate(config: Config) -> None:
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, config.num_clients, config.run_config())


def _launches(config: Config) -> tuple[list[int], Counter[str]]:
    """Return the steps of each counted round's longest client, and all that they launched."""
    shards = Federation(config).shards(config.num_clients)
    options, steps, found = config.client.options, list[int](), Counter[str]()
    train = RoundLoop.train

    def watched(loop: Any, number: int, model: Any, clients: Any) -> Any:
        if number <= WARM:
            return train(loop, number, model, clients)
        longest = max(len(shards[partition]) for partition in clients.nodes)
        steps.append(options.get("epochs", 1) * -(-longest // options["batch_size"]))
        with counted() as numbers:
            result = train(loop, number, model, clients)
        found.update(numbers())
        return result

    with patch.object(RoundLoop, "train", watched):
        _simulate(config)
    return steps, found


def _host(config: Config) -> tuple[float, float]:
    """Return the median ms of a round, and of its part outside local training and evaluation."""
    inside = Counter[int]()  # seconds by round
    number = 0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            _wait()
            began = time.perf_counter()
            result = method(*args)
            _wait()
            inside[number] += time.perf_counter() - began  # type: ignore[assignment]
            return result

        return watched

    sample = RoundLoop.sample

    def noted(loop: Any, its_number: int, present: Any) -> Any:
        nonlocal number
        number = its_number
        return sample(loop, its_number, present)

    with (
        patch.object(Local, "train", timed(Local.train)),
        patch.object(Measure, "capture", timed(Measure.capture)),
        patch.object(Measure, "on_round", timed(Measure.on_round)),
        patch.object(RoundLoop, "sample", noted),
    ):
        _simulate(config)
    taken = seconds_in(Path(config.out))
    pairs = [(own, own - inside[n]) for n, own in enumerate(taken, 1) if n > WARM]
    return 1e3 * median(p[0] for p in pairs), 1e3 * median(p[1] for p in pairs)


def _wait() -> None:
    """Let the GPU finish what it was sent."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    more, (workload,) = split(sys.argv[1:])
    settings = settings_of(workload, more)
    for key, value in profiled(read(None, {"rounds": WARM + 4} | settings)).items():
        print(f"{key:12} {value:10.2f}")
