"""Draw an image under each corruption: `python docs/figures/corruptions.py`."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from fedalign.data.corruptions import CORRUPTIONS, corrupted
from fedalign.data.idx import FashionMNIST

IMAGE, SEVERITIES = 4, (1, 3, 5)  # of the test set, a shirt
FILE = Path(__file__).parents[1] / "corruptions.png"


def figure() -> Figure:
    """Return the figure: a column a corruption, a row a severity; the first is the image."""
    image = FashionMNIST().load("test").images[IMAGE : IMAGE + 1]
    picture = Figure(figsize=(9, 3.1), layout="constrained")
    panels = picture.subplots(len(SEVERITIES), 1 + len(CORRUPTIONS))
    for severity, line in zip(SEVERITIES, panels, strict=True):
        copies = {"clean": image} | {name: corrupted(image, name, severity) for name in CORRUPTIONS}
        for (name, copy), panel in zip(copies.items(), line, strict=True):
            panel.imshow(copy[0, 0], cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
            if severity == SEVERITIES[0]:
                panel.set_title(name.replace("_", "\n"), fontsize=8)
        line[0].set_ylabel(f"severity {severity}", fontsize=8)
    return picture


if __name__ == "__main__":
    figure().savefig(FILE, dpi=150)
