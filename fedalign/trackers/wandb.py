"""Runs in Weights & Biases, online or offline (`WANDB_MODE=offline`)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fedalign.trackers.tracked import Tracked, needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WandB:
    """Metrics by round, settings and figures of one run, whose steps are the rounds."""

    def __init__(
        self,
        project: Annotated[
            str, Field(description="in which runs are listed; empty: WANDB_PROJECT, or fedalign")
        ] = "",
        entity: Annotated[
            str, Field(description="the user or team that owns it; empty: WANDB_ENTITY decides")
        ] = "",
    ):
        self._module, self._project, self._entity = needed("wandb", "wandb"), project, entity
        self._run: Any = None
        self._last = 0

    def start(self, run: Tracked) -> int:
        """Begin a run, or go on with the one in the notes.

        A process that is killed takes with it what W&B has not written or sent yet. Online, W&B
        says which step came last. Offline it cannot, so the run is written anew, in whole.
        """
        begun = run.folder.name.rpartition("-")[2]
        own = run.notes.setdefault("id", f"{begun}-{secrets.token_hex(4)}")  # `--again`: another
        synced = _discard(run.notes.pop("offline", None), own)
        self._run = self._module.init(
            project=self._project or os.environ.get("WANDB_PROJECT", "fedalign"),
            entity=self._entity or None,
            id=own,
            name=run.folder.name,
            config=dict(run.settings),
            resume="allow",
            settings=self._module.Settings(console="off"),
        )
        if self._run.offline:
            run.notes["offline"] = str(Path(self._run.dir).parent)
            return run.told if synced else 0
        return max(0, int(self._run.starting_step) - 1)

    def log(self, number: int, metrics: Mapping[str, float]) -> None:
        """Log a round's metrics, with its number as step."""
        self._run.log({"round": number, **metrics}, step=number, commit=True)
        self._last = number

    def figure(self, name: str, figure: Figure) -> None:
        """Log a figure as an image, in the step after the last round's."""
        self._run.log({f"figures/{name}": self._module.Image(figure)}, step=self._last + 1)

    def finish(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=int(status == "failed"))


def _discard(folder: str | None, own: str) -> bool:
    """Remove what an earlier process has written offline; return whether it has been synced."""
    if folder is None or not Path(folder).name.startswith("offline-run-"):
        return False
    if any(Path(folder).glob(f"*{own}.wandb.synced")):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False
