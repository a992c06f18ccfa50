"""Options that all parts in a section have; a part's own option of the same name comes first."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedalign.settings.signatures import Option

SEED = Annotated[
    int | None,
    Field(
        ge=0,
        description="of the draws that decide who has which examples, so that runs of other seeds "
        "have the same clients; null: the run's seed",
    ),
]
ROUND_EXAMPLES = Annotated[
    int | None,
    Field(
        gt=0,
        description="number of examples that a client trains on in each round: others in the next "
        "round, until all have been used; null: all of them",
    ),
]
COMMON = {
    "partition": {"seed": Option(SEED, None)},
    "client": {"round_examples": Option(ROUND_EXAMPLES, None)},
}
