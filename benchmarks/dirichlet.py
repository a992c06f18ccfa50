"""Compare the distribution of our Dirichlet partitions with that of flwr-datasets.

    pip install 'fedalign[flwr-datasets]'
    python benchmarks/dirichlet.py

Both partition the labels of the handwritten digits (1,437) among ten clients, once for each seed.
One client of each partition is measured, so that samples are independent: its size, the entropy of
its labels and the share of its most common class. A two-sample Kolmogorov-Smirnov test compares
each; p is uniform between 0 and 1 if the distributions are equal.

The first and the last client are left out unless `--ends` is given, because flwr-datasets truncates
numbers of examples where we round: in each class the first client has on average half an example
less than its share, and the last half an example more, and nearly always at least one.

`dirichlet-balanced` is expected to differ for a small alpha: InnerDirichletPartitioner serves
clients in turn, so the last ones get only the classes that are left.
"""

from __future__ import annotations

import argparse
import warnings
from importlib.metadata import version
from typing import Any

import datasets
import numpy as np
from flwr_datasets import partitioner as flower
from scipy.stats import ks_2samp

from fedalign.data.digits import Digits
from fedalign.partitioning import split
from fedalign.settings.registry import parse

NAMES = ("size", "entropy", "commonest")
CLIENTS = 10


def main() -> None:
    """Print a Markdown table of means and p-values."""
    given = _arguments()
    labels = Digits().load("train").labels.numpy()
    print(f"flwr-datasets {version('flwr-datasets')}, {given.seeds} seeds; means: ours / theirs\n")
    print(f"| partitioner | alpha | {' | '.join(f'{name} | p' for name in NAMES)} |")
    print("|---|---|" + "---|---|" * len(NAMES))
    data = datasets.Dataset.from_dict({"label": labels, "index": np.arange(len(labels))})
    for name in ("dirichlet", "dirichlet-balanced"):
        for alpha in given.alphas:
            first, second = [], []
            for seed in range(given.seeds):
                mine, their = np.random.default_rng(2 * seed), np.random.default_rng(2 * seed + 1)
                client = mine.integers(0 if given.ends else 1, CLIENTS - (not given.ends))
                first.append(statistics(labels[ours(name, alpha, labels, mine)[client]]))
                made = theirs(name, alpha, len(labels), int(their.integers(2**31)))
                made.dataset = data
                second.append(statistics(np.array(made.load_partition(int(client))["label"])))
            cells = compared(np.array(first), np.array(second))
            print(f"| `{name}` | {alpha:g} | {' | '.join(cells)} |", flush=True)


def ours(name: str, alpha: float, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a partition by our partitioner."""
    made = parse("partitioners", {"name": name, "alpha": alpha}, "partition").build()
    return split(made, labels, CLIENTS, rng)


def theirs(name: str, alpha: float, examples: int, seed: int) -> Any:
    """Return their partitioner."""
    if name == "dirichlet":
        return flower.DirichletPartitioner(CLIENTS, "label", alpha, 1, shuffle=False, seed=seed)
    sizes = [len(part) for part in np.array_split(np.arange(examples), CLIENTS)]
    return flower.InnerDirichletPartitioner(sizes, "label", alpha, shuffle=False, seed=seed)


def statistics(labels: np.ndarray) -> tuple[float, ...]:
    """Return size, entropy and largest class share of a client with these labels."""
    shares = np.bincount(labels) / len(labels)
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    return len(labels), float(entropy), float(shares.max())


def compared(first: np.ndarray, second: np.ndarray) -> list[str]:
    """Return means and p-value of each statistic."""
    cells = []
    for a, b in zip(first.T, second.T, strict=True):
        cells += [f"{a.mean():.3g} / {b.mean():.3g}", f"{ks_2samp(a, b).pvalue:.2g}"]
    return cells


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3000)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.5, 1.0, 10.0])
    parser.add_argument("--ends", action="store_true", help="include the first and the last client")
    return parser.parse_args()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="The specified min_partition_size")
    main()
