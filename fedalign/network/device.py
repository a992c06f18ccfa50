"""The device, the precision and the number of threads that a process computes with."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any

import torch

from fedalign.errors import InputError

if TYPE_CHECKING:
    from fedalign.settings.config import Config

NOT_DETERMINISTIC = r"(\S+) does not have a deterministic implementation|.* uses CuBLAS "
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_staging = local()


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


def device_of(config: Config) -> torch.device:
    """Return the device of a run, after setting up this process to compute on it."""
    device = pick_device(config.device)
    if device.type == "cuda":
        set_up_gpu(config.tf32, config.deterministic)
        if device.index is not None:
            torch.cuda.set_device(device)  # for streams, which PyTorch makes on the current one
    return device


def set_up_gpu(tf32: bool, deterministic: bool) -> None:
    """Set how this process computes on GPUs; to be called before it does.

    Where an operation has no deterministic form, PyTorch warns at each call. The warnings are
    hidden here, since `fedalign.training.trial` names the operations once.
    """
    if deterministic:
        os.environ.setdefault(WORKSPACE, ":4096:8")  # else the order of cuBLAS's sums may vary
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    warnings.filterwarnings("ignore", NOT_DETERMINISTIC)
    tools: Any = torch  # whose types do not know all of the following
    tools.utils.deterministic.fill_uninitialized_memory = False  # would fill every new tensor
    cuda, cudnn = tools.backends.cuda.matmul, tools.backends.cudnn
    cudnn.benchmark = not deterministic
    if hasattr(cuda, "fp32_precision"):  # since PyTorch 2.9, where the older names warn
        for operations in (cuda, cudnn.conv, cudnn.rnn):
            operations.fp32_precision = "tf32" if tf32 else "ieee"
    else:
        cuda.allow_tf32 = cudnn.allow_tf32 = tf32


def convolves_in_tf32() -> bool:
    """Return whether convolutions of float32 on a GPU may round to TF32."""
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # since PyTorch 2.9
        return bool(cudnn.conv.fp32_precision == "tf32")
    return bool(cudnn.allow_tf32)


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


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Run the body without cuDNN; `torch.backends.cudnn.flags` would touch TF32's flags too."""
    cudnn: Any = torch.backends.cudnn
    before, cudnn.enabled = cudnn.enabled, False
    try:
        yield
    finally:
        cudnn.enabled = before


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[None]:
    """Return a context in which a network runs in bfloat16; it changes nothing if not `bf16`."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a GPU copies it while the host goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetch(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor on the host.

    Page-locked memory takes it from a GPU much faster. It is slow to allocate, so each thread uses
    its own again.
    """
    if tensor.device.type != "cuda":
        return tensor.clone()
    place: torch.Tensor | None = getattr(_staging, "place", None)
    if place is None or place.numel() < tensor.nbytes:
        place = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=True)
        _staging.place = place
    return place[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor).clone()


def count_gpus() -> int:
    """Return how many GPUs this process sees."""
    return torch.cuda.device_count()


def gpu_memory(device: torch.device) -> tuple[int, int] | None:
    """Return the free and the total bytes of a GPU; None for a CPU.

    What PyTorch keeps of an earlier run's memory, and gives back when it has to, is free too.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept, total


def gpu_facts(device: torch.device) -> dict[str, str | None]:
    """Return the name of a GPU, and the versions of its driver and libraries."""
    driver = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.[\d.]+", driver.read_text()) if driver.is_file() else None
    return {
        "name": torch.cuda.get_device_name(device),
        "driver": found and found[0],
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream for work beside what else a GPU does; None for a CPU.

    It starts when all that has been queued so far is done, and never waits again.
    """
    if device.type == "cpu":
        return None
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream
