"""Who has what: statistics and pictures of a partition."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedalign.federation.federation import Federation
from fedalign.report.figures import COLOURS, STYLE
from fedalign.report.summary import described

MOST_BUBBLES = 40  # clients; of more a heat map is drawn
MOST_COLUMNS = 2000  # of the heat map,
COLUMNS = 64  # in a terminal
MOST_TICKS = 20
SHADES = " ░▒▓█"


@dataclass(frozen=True)
class Dealt:
    """How many examples of each class each client has.

    Attributes:
        what: which partition of what this is.
        counts: `(K, C)`.
        examples: how many there are to be dealt.
        owned: how many of them somebody has.
    """

    what: str
    counts: np.ndarray
    examples: int
    owned: int

    @property
    def sizes(self) -> np.ndarray:
        """How many examples each client has, `(K,)`."""
        found: np.ndarray = self.counts.sum(1)
        return found

    @property
    def shares(self) -> np.ndarray:
        """The mix of classes of each client, `(K, C)`; 0 for one that has nothing."""
        found: np.ndarray = self.counts / np.maximum(self.sizes, 1)[:, None]
        return found

    @property
    def effective_classes(self) -> np.ndarray:
        """How many equally frequent classes each client's are worth, `(K,)`: exp of the entropy."""
        logs = np.log(self.shares, where=self.counts > 0, out=np.zeros_like(self.shares))
        found: np.ndarray = np.where(self.sizes > 0, np.exp(-(self.shares * logs).sum(1)), 0)
        return found

    @property
    def distances(self) -> np.ndarray:
        """The sum over classes of `|share here - share overall|` of each client, `(K,)`, 0 to 2.

        What Zhao et al. 2018 (arXiv 1806.00582, section 3) call earth mover's distance.
        """
        overall = self.counts.sum(0) / max(self.counts.sum(), 1)
        found: np.ndarray = np.abs(self.shares - overall).sum(1)
        return found

    @property
    def gini(self) -> float:
        """Gini coefficient of the sizes: 0 all alike, near 1 one client has everything."""
        sizes = np.sort(self.sizes)
        ranks = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
        return float((ranks @ sizes) / (len(sizes) * max(sizes.sum(), 1)))

    @property
    def order(self) -> np.ndarray:
        """The clients `(K,)`, those with the same most frequent class side by side."""
        return np.lexsort((-self.shares.max(1), self.counts.argmax(1)))


def dealt(federation: Federation, num_clients: int | None = None) -> Dealt:
    """Return what each client of a federation has, what it keeps back to test on included."""
    config, data = federation.config, federation.train
    count = num_clients or config.num_clients
    owned = [*federation.shards(count), *federation.holdouts(count)]
    rows = np.concatenate(owned)
    client = np.repeat(np.tile(np.arange(count), 2), [len(own) for own in owned])
    labels = data.labels.cpu().numpy()[rows]
    flat = np.bincount(client * data.classes + labels, minlength=count * data.classes)
    what = f"{config.data.name}, {described(config.partition)}"
    return Dealt(what, flat.reshape(count, -1), len(data), len(np.unique(rows)))


def told(dealt: Dealt) -> str:
    """Return the statistics of a partition, a line each, and a heat map of it for a terminal."""
    sizes, classes, distances = dealt.sizes, dealt.effective_classes, dealt.distances
    spread = f"{sizes.min():,} to {sizes.max():,}, median {int(np.median(sizes)):,}"
    lines = [
        dealt.what,
        f"clients            {len(sizes):,}, examples each {spread}; Gini {dealt.gini:.3f}",
        f"effective classes  {_range(classes)} of {dealt.counts.shape[1]}",
        f"distance           {_range(distances)} (earth mover's to the overall mix; 0 to 2)",
        f"examples           {dealt.owned:,} of {dealt.examples:,} dealt{_twice(dealt)}",
    ]
    return "\n".join([*lines, "", *_shaded(dealt)])


@mpl.rc_context(STYLE | {"axes.grid": False})
def picture(dealt: Dealt) -> Figure:
    """Return a figure: who has how many of which class, and sizes below.

    Bubbles for few clients, their area the number of examples; for many a heat map of each
    client's mix of classes, clients with the same most frequent class side by side.
    """
    count = len(dealt.sizes)
    figure = Figure(figsize=(8.5, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bubbles = count <= MOST_BUBBLES
    order = np.arange(count) if bubbles else sampled(dealt.order, MOST_COLUMNS)
    (_bubbles if bubbles else _heat_map)(above, dealt, order)
    edges = np.arange(len(order) + 1) - 0.5
    below.stairs(dealt.sizes[order], edges, fill=True, color=COLOURS[0])
    told = "clients, by their most frequent class" + ("" if len(order) == count else ", a sample")
    label = "client" if bubbles else told
    below.set(ylabel="examples", xlabel=label, xlim=(edges[0], edges[-1]))
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    numbers = f"effective classes {_range(dealt.effective_classes)}, Gini of sizes {dealt.gini:.2f}"
    above.set_title(f"{dealt.what}\n{numbers}", fontsize=10)
    return figure


def _bubbles(panel: Axes, dealt: Dealt, order: np.ndarray) -> None:
    counts = dealt.counts[order]
    client, kind = np.nonzero(counts)
    largest = min(420 / len(counts), 280 / counts.shape[1])  # points across, so that none overlap
    area = (largest**2) * counts[client, kind] / max(counts.max(), 1)
    panel.scatter(client, kind, s=area, color=COLOURS[0], alpha=0.75, linewidth=0)
    panel.set(ylabel="class", ylim=(-0.7, counts.shape[1] - 0.3))
    _class_ticks(panel, counts.shape[1])


def _heat_map(panel: Axes, dealt: Dealt, order: np.ndarray) -> None:
    shares = dealt.shares[order].T
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
    panel.set_yticks(range(0, classes, -(-classes // MOST_TICKS)))


def _range(values: np.ndarray) -> str:
    return f"{values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"


def _twice(dealt: Dealt) -> str:
    more = int(dealt.counts.sum()) - dealt.owned
    return f", {more:,} times to one more client" if more else ""


def _shaded(dealt: Dealt) -> list[str]:
    """Return a line a class, a column a client; of many clients some."""
    count = len(dealt.sizes)
    order = np.arange(count) if count <= COLUMNS else sampled(dealt.order, COLUMNS)
    levels = np.ceil(dealt.shares[order] * (len(SHADES) - 1)).astype(int)
    step = -(-levels.shape[1] // MOST_TICKS)
    lines = [
        f"class {kind:>3} │{''.join(SHADES[level] for level in levels[:, kind])}│"
        for kind in range(0, levels.shape[1], step)
    ]
    some = "" if len(order) == count else f" ({len(order)} of {count:,})"
    return [*lines, f"          each column a client{some}; darker: a larger share of what it has"]


def sampled(order: np.ndarray, most: int) -> np.ndarray:
    """Return so many of the clients at most, evenly spread over their order."""
    places = np.linspace(0, len(order) - 1, min(len(order), most)).round().astype(int)
    found: np.ndarray = order[places]
    return found
