"""Whether our Dirichlet partitions are distributed as those of flwr-datasets, which it needs.

    pip install 'fedalign[flwr-datasets]'
    python benchmarks/dirichlet.py

Both deal the labels of the handwritten digits (1,437) to ten clients, once for each seed. Of each
partition one client counts, so that samples are independent: its size, the entropy of its labels
and the share of its commonest class, and of the whole the standard deviation of sizes. Each is
compared by a two-sample Kolmogorov-Smirnov test: p is uniform where the distributions are one.
"""

from __future__ import annotations

import argparse
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from fedalign.data.digits import Digits
from fedalign.partitioning import split
from fedalign.registry import parse

NAMES = ("size", "entropy", "commonest", "std of sizes")
CLIENTS = 10
PAIRS = {
    "dirichlet": ("DirichletPartitioner", {"min_partition_size": 1}),
    "dirichlet-balanced": ("InnerDirichletPartitioner", {}),
}


def main() -> None:
    """Print a Markdown table of means and p-values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.5, 1.0, 10.0])
    given = parser.parse_args()
    labels = Digits().load("train").labels.numpy()
    print(f"flwr-datasets {version('flwr-datasets')}, {given.seeds} seeds; means: ours / theirs\n")
    print(f"| ours | alpha | {' | '.join(f'{name} | p' for name in NAMES)} |")
    print("|---|---|" + "---|---|" * len(NAMES))
    for ours, (theirs, options) in PAIRS.items():
        for alpha in given.alphas:
            told = {"partitioner": theirs, "options": options | {"alpha": alpha}}
            first = sample({"name": ours, "alpha": alpha}, labels, given.seeds, 0)
            second = sample({"name": "flwr", **told}, labels, given.seeds, 10**6)
            print(f"| `{ours}` | {alpha:g} | {' | '.join(compared(first, second))} |", flush=True)


def sample(section: dict[str, Any], labels: np.ndarray, seeds: int, first: int) -> np.ndarray:
    """Return the statistics of a partition for each seed, `(seeds, 4)`."""
    partitioner = parse("partitioners", section, "partition").build()
    found = []
    for seed in range(first, first + seeds):
        rng = np.random.default_rng(seed)
        shares = split(partitioner, labels, CLIENTS, rng)
        found.append(statistics(labels[shares[rng.integers(CLIENTS)]], list(map(len, shares))))
    return np.array(found)


def statistics(own: np.ndarray, sizes: list[int]) -> tuple[float, ...]:
    """Return what is told of a client with these labels, in a partition with these sizes."""
    shares = np.bincount(own) / len(own)
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    return len(own), float(entropy), float(shares.max()), float(np.std(sizes))


def compared(first: np.ndarray, second: np.ndarray) -> list[str]:
    """Return means and p-value of each statistic."""
    cells = []
    for a, b in zip(first.T, second.T, strict=True):
        cells += [f"{a.mean():.3g} / {b.mean():.3g}", f"{ks_2samp(a, b).pvalue:.2g}"]
    return cells


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="The specified min_partition_size")
    main()
