"""Describe and draw a partition: which client owns how many examples of which class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedalign.federation.federation import Federation
from fedalign.partitioning import write_indices
from fedalign.report.style import COLOURS, PAGE, save, styled
from fedalign.report.summary import described
from fedalign.settings.contracts import TransformsImages

MAX_BUBBLES = 40  # clients; more are drawn as a heat map
MAX_COLUMNS = 2000  # clients in a heat map; of more, a sample is drawn
TERMINAL_COLUMNS = 64  # clients in a terminal; of more, a sample is shown
MAX_TICKS = 20  # classes that are labelled
SHADES = " ░▒▓█"
CLASSES = "classes.csv"  # in a run folder: a row a client, a column a class


@dataclass(frozen=True)
class PartitionCounts:
    """The number of examples of each class that each client owns.

    Attributes:
        title: names the data set and the partitioner.
        counts: `(K, C)`, a row a client, a column a class.
        examples: size of the data set.
        owned: number of examples that belong to at least one client.
        of_server: number of examples that the server keeps.
    """

    title: str
    counts: np.ndarray
    examples: int
    owned: int
    of_server: int = 0

    @property
    def sizes(self) -> np.ndarray:
        """The number of examples of each client, `(K,)`."""
        sizes: np.ndarray = self.counts.sum(1)
        return sizes

    @property
    def shares(self) -> np.ndarray:
        """The share of each class in each client's examples, `(K, C)`; 0 if it has none."""
        shares: np.ndarray = self.counts / np.maximum(self.sizes, 1)[:, None]
        return shares

    @property
    def effective_classes(self) -> np.ndarray:
        """The effective number of classes of each client, `(K,)`: exp of the entropy of its shares.

        A client with m equally frequent classes has m; one without examples has 0.
        """
        logs = np.log(self.shares, where=self.counts > 0, out=np.zeros_like(self.shares))
        numbers: np.ndarray = np.where(self.sizes > 0, np.exp(-(self.shares * logs).sum(1)), 0)
        return numbers

    @property
    def distances(self) -> np.ndarray:
        """The distance of each client's class shares from the overall ones, `(K,)`, from 0 to 2.

        The sum over classes of `|client's share - overall share|`, which Zhao et al. 2018 (arXiv
        1806.00582, section 3) call earth mover's distance.
        """
        overall = self.counts.sum(0) / max(self.counts.sum(), 1)
        distances: np.ndarray = np.abs(self.shares - overall).sum(1)
        return distances

    @property
    def gini(self) -> float:
        """The Gini coefficient of the sizes: 0 if all are equal, near 1 if one client owns all."""
        sizes = np.sort(self.sizes)
        ranks = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
        return float((ranks @ sizes) / (len(sizes) * max(sizes.sum(), 1)))

    @property
    def order(self) -> np.ndarray:
        """The clients `(K,)`, ordered by their most frequent class."""
        return np.lexsort((-self.shares.max(1), self.counts.argmax(1)))


def counts_of(federation: Federation, num_clients: int | None = None) -> PartitionCounts:
    """Return the class counts of a federation's clients, including their held-out examples.

    Args:
        federation: whose data is partitioned.
        num_clients: number of clients; None: as the configuration says.
    """
    config, data = federation.config, federation.train
    count = num_clients or config.num_clients
    owned = [*federation.shards(count), *federation.holdouts(count)]
    rows = np.concatenate(owned)
    client = np.repeat(np.tile(np.arange(count), 2), [len(indices) for indices in owned])
    labels = data.labels.cpu().numpy()[rows]
    flat = np.bincount(client * data.classes + labels, minlength=count * data.classes)
    title = f"{config.data.name}, {described(config.partition)}"
    sizes = len(data), len(np.unique(rows)), len(federation.of_server)
    return PartitionCounts(title, flat.reshape(count, -1), *sizes)


def describe(partition: PartitionCounts) -> str:
    """Return the statistics of a partition, one a line, and a heat map for the terminal."""
    sizes, classes, distances = partition.sizes, partition.effective_classes, partition.distances
    examples = f"{sizes.min():,} to {sizes.max():,} examples each, median {int(np.median(sizes)):,}"
    assigned = f"{partition.owned:,} of {partition.examples:,} assigned{_shared(partition)}"
    kept = f", {partition.of_server:,} kept by the server" if partition.of_server else ""
    lines = [
        partition.title,
        f"clients            {len(sizes):,}, with {examples}; Gini {partition.gini:.3f}",
        f"effective classes  {_range(classes)} of {partition.counts.shape[1]}",
        f"distance           {_range(distances)} (earth mover's, from all data; 0 to 2)",
        f"examples           {assigned}{kept}",
    ]
    return "\n".join([*lines, "", *_shaded(partition)])


def save_indices(federation: Federation, file: Path) -> str:
    """Write which examples each client owns; return the settings that read them back."""
    config, examples = federation.config, len(federation.train)
    shares = [federation.held(i, config.num_clients).owned for i in range(config.num_clients)]
    write_indices(shares, file)
    times = np.bincount(np.concatenate(shares), minlength=examples)
    words = ["partition=indices", f"partition.file={file}"]
    words += ["partition.overlap=true"] * bool(times.max() > 1)
    words += ["partition.partial=true"] * bool(times.min() < 1)
    if isinstance(config.partition.build(), TransformsImages):
        words.append("(without the changes to the images)")
    return " ".join(words)


@styled({"axes.grid": False})
def picture(partition: PartitionCounts) -> Figure:
    """Return a figure of the class counts of each client, with the client sizes below.

    Up to `MAX_BUBBLES` clients are drawn as bubbles whose areas are the counts; more are drawn as a
    heat map of their class shares, ordered by their most frequent class.
    """
    count = len(partition.sizes)
    figure = Figure(figsize=(PAGE, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bubbles = count <= MAX_BUBBLES
    order = np.arange(count) if bubbles else sampled(partition.order, MAX_COLUMNS)
    (_bubbles if bubbles else _heat_map)(above, partition, order)
    edges = np.arange(len(order) + 1) - 0.5
    below.stairs(partition.sizes[order], edges, fill=True, color=COLOURS[0])
    sample = "" if len(order) == count else ", a sample"
    xlabel = "client" if bubbles else f"clients, by their most frequent class{sample}"
    below.set(ylabel="examples", xlabel=xlabel, xlim=(edges[0], edges[-1]))
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    classes = _range(partition.effective_classes)
    numbers = f"effective classes {classes}, Gini of sizes {partition.gini:.2f}"
    above.set_title(f"{partition.title}\n{numbers}")
    return figure


def draw(federation: Federation, num_clients: int, file: Path) -> None:
    """Write the picture of who has what in a run of so many clients, and `CLASSES` beside it."""
    partition = counts_of(federation, num_clients)
    save(picture(partition), file)
    pd.DataFrame(partition.counts).rename_axis("client").to_csv(file.with_name(CLASSES))


def _bubbles(panel: Axes, partition: PartitionCounts, order: np.ndarray) -> None:
    counts = partition.counts[order]
    client, label = np.nonzero(counts)
    largest = min(
        340 / len(counts), 220 / counts.shape[1]
    )  # diameter in points, so that bubbles do not overlap
    area = (largest**2) * counts[client, label] / max(counts.max(), 1)
    panel.scatter(client, label, s=area, color=COLOURS[0], alpha=0.75, linewidth=0)
    panel.set(ylabel="class", ylim=(-0.7, counts.shape[1] - 0.3))
    _class_ticks(panel, counts.shape[1])


def _heat_map(panel: Axes, partition: PartitionCounts, order: np.ndarray) -> None:
    shares = partition.shares[order].T
    shown = panel.imshow(
        shares,
        aspect="auto",
        origin="lower",
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    panel.set(ylabel="class")
    _class_ticks(panel, len(shares))
    assert panel.figure is not None
    panel.figure.colorbar(shown, ax=panel, label="share of the client's examples", pad=0.01)


def _class_ticks(panel: Axes, classes: int) -> None:
    panel.set_yticks(range(0, classes, -(-classes // MAX_TICKS)))


def _range(values: np.ndarray) -> str:
    return f"{values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"


def _shared(partition: PartitionCounts) -> str:
    more = int(partition.counts.sum()) - partition.owned
    return f", and {more:,} more times to a further client" if more else ""


def _shaded(partition: PartitionCounts) -> list[str]:
    """Return the lines of a heat map: a line a class, a column a client or one of a sample."""
    count = len(partition.sizes)
    fits = count <= TERMINAL_COLUMNS
    order = np.arange(count) if fits else sampled(partition.order, TERMINAL_COLUMNS)
    levels = np.ceil(partition.shares[order] * (len(SHADES) - 1)).astype(int)
    step = -(-levels.shape[1] // MAX_TICKS)
    lines = [
        f"class {label:>3} │{''.join(SHADES[level] for level in levels[:, label])}│"
        for label in range(0, levels.shape[1], step)
    ]
    sample = "" if fits else f" ({len(order)} of {count:,})"
    return [
        *lines,
        f"          one column a client{sample}; darker: a larger share of its examples",
    ]


def sampled(order: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the clients, evenly spaced in their order."""
    positions = np.linspace(0, len(order) - 1, min(len(order), most)).round().astype(int)
    sample: np.ndarray = order[positions]
    return sample
