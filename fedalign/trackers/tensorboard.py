"""Event files for TensorBoard in the run folder: `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedalign.trackers.tracked import Tracked, needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TensorBoard:
    """Scalars by round, figures and the settings, in the folder `tensorboard` of the run."""

    def __init__(self) -> None:
        self._module = needed("torch.utils.tensorboard", "tensorboard")
        self._writer: Any = None
        self._last = 0

    def start(self, run: Tracked) -> int:
        """Begin a file of events; what earlier files say of later rounds does not count."""
        kept = min(run.told, run.resumed_after)
        purge = kept + 1 if run.told else None
        self._writer = self._module.SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)
        rows = [f"| {key} | {value} |" for key, value in run.settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), 0)
        return kept

    def log(self, number: int, metrics: Mapping[str, float]) -> None:
        """Write a round's metrics."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, number)
        self._writer.flush()
        self._last = number

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as an image."""
        self._writer.add_figure(name, figure, self._last)

    def finish(self, status: str) -> None:  # noqa: ARG002
        """Close the file."""
        self._writer.close()
