"""Draw which weights of a layer train, by round and by strategy: `python docs/figures/masks.py`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fedalign.masks.phases import phases
from fedalign.masks.plan import MaskPlan
from fedalign.network.layout import Entry, Layout

SHAPE = (8, 20)
LAYOUT = Layout((Entry("weight", SHAPE, 0),), (), ())
COLOURS = ("#d9d9d9", "#0072b2")
FILE = Path(__file__).parents[1] / "concepts" / "masks.png"


def drawn(steps: int = 2, **plan: object) -> list[list[list[bool]]]:
    """Return the masks that hold in a round of two steps, one after the other."""
    found = phases(MaskPlan(fixed_ratio=0.4, **plan), LAYOUT, steps)  # type: ignore[arg-type]
    return [phase.trains[: SHAPE[0] * SHAPE[1]].reshape(SHAPE).tolist() for phase in found]  # type: ignore[index]


def figure() -> Figure:
    """Return the figure: a row a strategy, a column a round."""
    rows = {
        "TNA-PFN": [drawn(mask_index=0)[0] for _ in range(3)],
        "FedPFN": [drawn(mask_index=r)[0] for r in range(3)],
        "FedPFN,\nneurons": [drawn(mask_index=r, granularity="neuron")[0] for r in range(3)],
        "FedPNU": [
            *drawn(mask_index=0, schedule="complement_half"),
            drawn(mask_index=1, schedule="complement_half")[0],
        ],
    }
    usual = ["round 1", "round 2", "round 3"]
    titles = [
        usual,
        usual,
        usual,
        ["round 1, first half", "round 1, second half", "round 2, first half"],
    ]
    picture = Figure(figsize=(7.2, 5.4), layout="constrained")
    panels = picture.subplots(len(rows), 3)
    for (name, masks), line, called in zip(rows.items(), panels, titles, strict=True):
        for mask, panel, title in zip(masks, line, called, strict=True):
            panel.pcolormesh(
                mask, cmap=ListedColormap(COLOURS), edgecolor="white", lw=0.7, vmin=0, vmax=1
            )
            panel.set(xticks=[], yticks=[], aspect="equal")
            panel.spines[:].set_visible(False)
            panel.set_title(title, fontsize=9)
        line[0].set_ylabel(name, fontsize=10)
    keys = [Patch(color=COLOURS[1], label="trains"), Patch(color=COLOURS[0], label="fixed")]
    picture.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False)
    return picture


if __name__ == "__main__":
    figure().savefig(FILE, dpi=150)
