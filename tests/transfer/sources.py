"""Data sets for tests of evaluation tasks, made of the digits that come with fedalign."""

from dataclasses import dataclass, replace

from fedalign.data import Dataset
from fedalign.data.digits import Digits


@dataclass(frozen=True)
class Parity:
    """Digits turned by a right angle: is it odd?"""

    def load(self, part: str) -> Dataset:
        """Return a part."""
        data = Digits().load(part)
        images = data.images.rot90(1, (2, 3)).contiguous()
        return replace(data, images=images, labels=data.labels % 2, classes=2, source="turned")


@dataclass(frozen=True)
class Low:
    """Digits 0 to 4; with `first` 5 the others. It knows both by name."""

    first: int = 0
    tasks = ("low",)

    def load(self, part: str) -> Dataset:
        """Return a part."""
        data = Digits().load(part)
        chosen = data.at((self.first <= data.labels) & (data.labels < self.first + 5))
        return replace(chosen, labels=chosen.labels - self.first, classes=5, source="half")

    def task(self, name: str) -> "Low":
        """Return the digits 0 to 4, or the others."""
        return Low({"low": 0, "high": 5}[name])


@dataclass(frozen=True)
class Wide:
    """Digits twice, side by side."""

    def load(self, part: str) -> Dataset:
        """Return a part."""
        data = Digits().load(part)
        return replace(data, images=data.images.repeat(1, 1, 1, 2))
