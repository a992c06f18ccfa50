"""Options that all parts in a section have; a part's own option of the same name comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedalign.settings.signatures import Option

if TYPE_CHECKING:
    from fedalign.settings.registry import Part

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
PRIVATE = Annotated[
    str,
    Field(
        description="names of the tensors that each client keeps to itself from round to round "
        "and never sends: patterns such as *norm*, separated by spaces; head means the last layer"
    ),
]
WEIGHTS = Annotated[
    Annotated[str, Field(min_length=1)] | None,
    Field(
        description="what the run starts from: a file of safetensors or of torch.save, or the "
        "folder of a run; a head for another number of classes starts anew; null: random weights"
    ),
]
FROZEN = Annotated[
    str,
    Field(
        description="names of the parameters that never train and never travel: patterns such as "
        "blocks.*, separated by spaces; head means the last layer, body all others"
    ),
]


class Adapters(BaseModel):
    """Low-rank adapters beside layers of a model, which train in place of the layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0, allow_inf_nan=False)
    targets: str = ""
    also: str = "head"


ADAPTERS = Annotated[
    Adapters | None,
    Field(
        description="low-rank adapters (LoRA): nothing but them and what `also` names trains. "
        "rank (8), alpha (16: they count alpha / rank), targets (patterns of layers; all linear "
        "ones but the head), also (patterns of tensors; head)",
        json_schema_extra={"allowed": "a table of rank, alpha, targets, also"},
    ),
]
CLASSES = Annotated[
    list[int] | str | None,
    Field(
        description="the classes whose examples are kept, by number, such as [0, 1, 5] or 0-8; "
        "they get the numbers 0, 1, … in this order; null: all"
    ),
]
COMMON = {
    "partition": {"seed": Option(SEED, None)},
    "model": {
        "weights": Option(WEIGHTS, None),
        "frozen": Option(FROZEN, ""),
        "adapters": Option(ADAPTERS, None),
    },
    "data": {"classes": Option(CLASSES, None)},
    "client": {"round_examples": Option(ROUND_EXAMPLES, None), "private": Option(PRIVATE, "")},
}

TASKS = "evaluation.tasks.on."  # data sets by names of the user's own


def common_at(place: str) -> dict[str, Option]:
    """Return the options that all parts at a place of a configuration have."""
    return COMMON.get("data" if place.startswith(TASKS) else place, {})


def private_of(client: Part) -> str:
    """Return the patterns of the tensors that clients keep to themselves; "" if there are none."""
    return str(client.options.get("private", ""))
