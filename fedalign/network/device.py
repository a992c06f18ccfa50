"""The device, the precision and the number of threads that a process computes with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

from fedalign.errors import InputError


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run each tensor operation on one thread."""
    return ThreadPoolExecutor(threads, "evaluate", torch.set_num_threads, (1,))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run the body with `count` torch threads: the number can change the last bit of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(wanted: str) -> torch.device:
    """Return the device to run on; `auto` is the GPU if this process sees one, else the CPU.

    `InputError` for a GPU that is not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {wanted!r}, but PyTorch sees {torch.cuda.device_count()} GPUs")
    return device


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Return a context in which a network runs in bfloat16; it changes nothing if not `bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def count_gpus() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count()


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Return the free and the total bytes of a GPU; None for a CPU."""
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream for work beside what else a GPU does; None for a CPU.

    It starts when all that has been queued so far is done, and never waits again.
    """
    if device.type == "cpu":
        return None
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream
