"""What fedalign expects of parts that work with results: fusions and trackers.

See `fedalign.settings.contracts`, which has those of all other kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedalign.fusions.recipe import Fused, Ingredients
    from fedalign.trackers.tracked import Tracked


class Fusion(Protocol):
    """A way to make one model of several; `fedalign.fusions.recipe.Recipe` is easy to extend."""

    def fuse(self, of: Ingredients) -> Fused:
        """Return the fused model, and what it was made of."""
        ...


@runtime_checkable
class HasNeeds(Protocol):
    """A fusion that needs more than the models, see `fedalign.fusions.recipe.NEEDS`."""

    needs: frozenset[str]


@dataclass(frozen=True)
class FusionTraits:
    """What a fusion declares about itself."""

    makes_model: bool = True  # False if the models only predict together
    moves_neurons: bool = False  # its model has neurons in another order than the models had


class Tracker(Protocol):
    """Shows a run elsewhere; what a method raises is said once, and the run goes on without it."""

    def start(self, run: Tracked) -> int:
        """Begin a run, or go on with it; return the last round that it has, 0 if none.

        All later rounds are told. `run.told` is right unless the tracker forgets some here.
        """
        ...

    def log(self, number: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a round: the columns of `metrics.csv` that were measured."""
        ...

    def figure(self, name: str, figure: Figure) -> None:
        """Take a figure of the run, which has finished."""
        ...

    def finish(self, status: Literal["finished", "stopped", "failed"]) -> None:
        """Close the run; one that was stopped may go on later."""
        ...
