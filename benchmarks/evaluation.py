"""Measure one model on a test set: by the network's own layers, and by the kernels of stacks.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --small      # few examples; on a CPU no figure counts

On a GPU a run measures networks with convolutions in the second way. Both are captured as in a run.
Milliseconds a pass over 10,000 examples, in turn, medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor
from workloads import Blobs, dropout_cnn, wide_cnn

from fedalign.data import Dataset
from fedalign.models.resnet import resnet20
from fedalign.network.device import pick_device, set_up_gpu
from fedalign.network.mixtures import Mixtures
from fedalign.network.network import Network
from fedalign.network.scorer import Scorer

MODELS = {"W1": wide_cnn, "CIFAR": dropout_cnn, "ResNet-20": resnet20}
WARM, TURNS = 4, 12
OWN, STACKS = "own layers", "stacks"


def scorers(model: str, data: Dataset, precision: str) -> tuple[Tensor, dict[str, Scorer]]:
    """Return a model, and what measures it in each way."""
    device, found = data.images.device, {}
    for way in (OWN, STACKS):
        torch.manual_seed(0)
        module = MODELS[model]((3, 32, 32), 10)
        network = Network(module, data, device, precision)
        if way == OWN:
            network.__dict__["graphs"] = None  # as where nothing is captured
        elif device.type == "cpu":
            network.__dict__["graphs"] = True
            network.__dict__["mixes"] = Mixtures(
                network.module, network.layout, precision == "bf16"
            )
        found[way] = Scorer(network, data)
    return network.receive(network.initial), found


def milliseconds(vector: Tensor, scorers: Mapping[str, Scorer]) -> dict[str, tuple[float, float]]:
    """Return the median of each way, and the loss that it finds."""
    taken: dict[str, list[float]] = {way: [] for way in scorers}
    losses = {}
    for _ in range(WARM + TURNS):
        for way, scorer in scorers.items():
            began = time.perf_counter()
            losses[way] = scorer.scores(vector)[0, 0].item()  # which waits
            taken[way].append(1e3 * (time.perf_counter() - began))
    return {way: (median(own[WARM:]), losses[way]) for way, own in taken.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true")
    small, device = parser.parse_args().small, pick_device("auto")
    if device.type == "cuda":
        set_up_gpu(tf32=True, deterministic=True)
    known = Blobs(channels=3, side=32, tests=20 if small else 10_000).load("test")
    data = known.to(device)
    print("| evaluation | precision | own layers ms | stacks ms | of own | losses |")
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        for precision in ("float32", "bf16"):
            found = milliseconds(*scorers(model, data, precision))
            (own, one), (stacks, other) = found[OWN], found[STACKS]
            print(f"| {model} | {precision} | {own:.2f} | {stacks:.2f} | {stacks / own:.2f} "
                  f"| {one:.5f} {other:.5f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
