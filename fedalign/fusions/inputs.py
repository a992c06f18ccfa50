"""Which files are meant by what a person names: files, run folders, folders of kept models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedalign.errors import InputError

CLIENT = re.compile(r"client-(\d+)\.safetensors")
ROUND = re.compile(r"round-(\d+)")


@dataclass(frozen=True)
class Source:
    """A file with a model.

    Attributes:
        file: where it is.
        client: whose model of a run it is; None for any other model.
        number: the round that the client's model is of.
    """

    file: Path
    client: int | None = None
    number: int | None = None


def sources(places: Sequence[Path]) -> list[Source]:
    """Return the models in these places, in their order.

    A folder that a run kept its clients' models in is all of those; a run folder is the run's final
    model, or if it is the only place the models that its clients had in the last round of which
    they were kept.

    Raises:
        InputError: a folder holds no models, or there are fewer than two.
    """
    found = [source for place in places for source in _in(place, alone=len(places) == 1)]
    if len(found) < 2:
        what = f"{len(found)} model" if found else "no models"
        raise InputError(f"fuse: {what}, but a fusion is of two or more")
    return found


def _in(place: Path, alone: bool) -> list[Source]:
    if not place.is_dir():
        return [_source(place)]
    if clients := _clients(place):
        return clients
    rounds = [folder for folder in (place / "models").glob("round-*") if _clients(folder)]
    if alone and rounds:
        return _clients(max(rounds, key=_number))
    if (place / "model.safetensors").is_file():
        return [Source(place / "model.safetensors")]
    raise InputError(f"{place}: neither model.safetensors nor client-*.safetensors is in it")


def _clients(folder: Path) -> list[Source]:
    """Return the clients' models in a folder, by number."""
    found = [_source(file) for file in folder.glob("client-*.safetensors")]
    return sorted((s for s in found if s.client is not None), key=lambda s: s.client or 0)


def _source(file: Path) -> Source:
    named, of = CLIENT.fullmatch(file.name), ROUND.fullmatch(file.parent.name)
    return Source(file, int(named[1]), int(of[1])) if named and of else Source(file)


def _number(folder: Path) -> int:
    named = ROUND.fullmatch(folder.name)
    return int(named[1]) if named else -1
