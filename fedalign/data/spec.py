"""What the examples of a federation are, without any of them."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedalign.errors import shortened

MAX_CLASSES = 1 << 16  # what a data folder may have: a layer has a row for each
MAX_VOCABULARY = 1 << 24
PAD = 0  # the token that fills up short texts


@dataclass(frozen=True)
class Spec:
    """The form of the examples, which all clients of a federation share.

    Attributes:
        shape: Shape of an example: `(C, H, W)` for images, `(L,)` for text, `(F,)` for a row of a
            table.
        classes: Number of classes; for text of characters the size of the vocabulary.
        mean: Mean of every channel on the 0..1 scale, or of every feature; `()` for text.
        std: Standard deviation of every channel on the 0..1 scale, or of every feature, above 0;
            `()` for text.
        names: Names of the classes, in order; if empty, they are the numbers 0..classes-1.
        vocabulary: For text of tokens how many there are, `PAD` included; else None.
        label_sets: The task of each class, from 0 on. An example's loss and accuracy are over the
            classes of its own label's task; empty: all classes are of one task.

    Raises:
        ValueError: An attribute has an impossible value; the message begins with its name.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()
    vocabulary: int | None = None
    label_sets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check every attribute: a specification may come over the network or from a user."""
        axes = (1,) if self.is_text else (1, 3)
        if len(self.shape) not in axes or min(self.shape) < 1:
            wanted = "(L,) without a mean" if self.is_text else "(C, H, W), or (F,) for a table"
            raise ValueError(f"shape: {self.shape} must be {wanted}, each at least 1")
        if not 1 <= self.classes <= MAX_CLASSES:
            raise ValueError(f"classes: {self.classes} must be from 1 to {MAX_CLASSES}")
        channels = 0 if self.is_text else self.shape[0]
        what = "features" if self.is_table else "channels"
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(map(math.isfinite, values)):
                shown = shortened(str(values), 100)
                raise ValueError(f"{key}: {shown} must be numbers, as many as {what}: {channels}")
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std: {shortened(str(self.std), 100)} must be above 0")
        if self.names and not len(set(self.names)) == len(self.names) == self.classes:
            found = f"{len(self.names)} names, {len(set(self.names))} of them different"
            raise ValueError(f"names: {found}, for {self.classes} classes")
        self._check_tokens_and_tasks()

    def _check_tokens_and_tasks(self) -> None:
        if self.vocabulary is not None:
            if not self.is_text:
                raise ValueError("vocabulary: only text has one, and text has no mean")
            if not 1 <= self.vocabulary <= MAX_VOCABULARY:
                allowed = f"must be from 1 to {MAX_VOCABULARY}"
                raise ValueError(f"vocabulary: {self.vocabulary} {allowed}")
        tasks = set(self.label_sets)
        if tasks and (len(self.label_sets) != self.classes or tasks != set(range(len(tasks)))):
            shown = shortened(str(self.label_sets), 100)
            wanted = f"the task of each of {self.classes} classes, 0, 1, … without a gap"
            raise ValueError(f"label_sets: {shown} must be {wanted}")

    @property
    def is_text(self) -> bool:
        """Whether the examples are text, which is not normalised."""
        return not self.mean

    @property
    def is_table(self) -> bool:
        """Whether the examples are rows of numbers, each of which is normalised by itself."""
        return bool(self.mean) and len(self.shape) == 1

    @property
    def kind(self) -> str:
        """What the examples are, in words."""
        if self.is_text:
            unit = "characters" if self.vocabulary is None else "tokens"
            return f"text of {self.shape[0]} {unit}"
        if self.is_table:
            return f"rows of {self.shape[0]} features"
        return f"images of {'x'.join(map(str, self.shape))}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of every class: its name, or its number if classes have no names."""
        return self.names or tuple(map(str, range(self.classes)))

    def to_config(self) -> dict[str, int | list[int] | list[float] | list[str]]:
        """Return the specification as entries of a Flower `ConfigRecord`, without empty ones.

        The keys are `data-shape`, `data-classes`, and so on.
        """
        known = {key: value for key, value in asdict(self).items() if value not in ((), None)}
        entries = {f"data-{key}": value for key, value in known.items()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in entries.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Spec":
        """Return the specification that `to_config` has written; other keys are ignored.

        Raises:
            ValueError: A key is missing or its value is invalid; the message names the key.
        """
        named = {field.name: field.default for field in fields(cls)}
        values = {
            key: config.get(f"data-{key}", () if default is MISSING else default)
            for key, default in named.items()
        }
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"{key}: " for key in first["loc"][:1])
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"data-{place}{message}") from None
