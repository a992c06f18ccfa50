"""Where data sets are searched for, and in which order."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedalign.errors import InputError

Folder = Annotated[
    str | None,
    Field(description="Folder that holds the data; if not given, the usual places are searched."),
]
MaxExamples = Annotated[
    int | None,
    Field(gt=0, description="Use this many training examples, a fixed random choice."),
]
Download = Annotated[bool, Field(description="Download the data if no place holds it.")]

VARIABLE = "FEDALIGN_DATA"
DEBIAN = Path("/usr/share/datasets")
DEBIAN_PACKAGES = {"fashion-mnist": "dataset-fashion-mnist"}


@dataclass(frozen=True)
class Found:
    """The files of a data set, and a name for the place where they were found."""

    files: tuple[Path, ...]
    place: str

    def __str__(self) -> str:
        return f"{self.files[0]} ({self.place})"


def find(
    name: str,
    layouts: Sequence[tuple[str, ...]],
    dir: str | None,
    fetch: Callable[[Path], object] | None,
    has_download: bool = True,
) -> Found:
    """Return the first place that holds all files of one layout.

    If `dir` is given, only that folder is searched. Otherwise the order is: the folder in
    `FEDALIGN_DATA`, Debian's data set package, `~/.cache/fedalign`, and last a download into
    `~/.cache/fedalign`. In each folder the files may lie in a subfolder `name`, or directly.

    Args:
        name: Name of the data set, such as `fashion-mnist`.
        layouts: Ways to store it, preferred first; each lists all files it needs.
        dir: The option `data.dir`.
        fetch: Downloads the data into a folder; None forbids a download.
        has_download: Whether the data set can be downloaded at all.

    Raises:
        InputError: No place holds the data; the message lists the places, the files and the cures.
    """
    places = dict(_places(name, dir))
    for place, folder in places.items():
        if files := _held(folder, name, layouts):
            return Found(files, place)
    wanted = " or ".join(layout[0] for layout in layouts)
    if dir is not None:
        raise InputError(
            f"data.dir: {dir!r} does not hold {name}; searched it and its {name}/ for {wanted}"
        )
    outcome = "downloading is off" if has_download else "there is no download"
    if fetch is not None:
        fetched = _fetched(name, layouts, fetch)
        if isinstance(fetched, Found):
            return fetched
        outcome = fetched
    searched = ", ".join(f"{folder} ({place})" for place, folder in places.items())
    raise InputError(
        f"data: {name} was not found and {outcome}. Searched {searched} for {wanted}. "
        f"Cures: {_cures(name, fetch is None and has_download)}"
    )


def _places(name: str, dir: str | None) -> Iterator[tuple[str, Path]]:
    if dir is not None:
        yield "data.dir", Path(dir).expanduser()
        return
    if folder := os.environ.get(VARIABLE):
        yield VARIABLE, Path(folder).expanduser()
    if package := DEBIAN_PACKAGES.get(name):
        yield f"Debian package {package}", DEBIAN / name
    yield "torchvision download", _cache()


def _fetched(
    name: str, layouts: Sequence[tuple[str, ...]], fetch: Callable[[Path], object]
) -> Found | str:
    """Return the downloaded files, or why there are none."""
    cache = _cache()
    try:
        fetch(cache)
    except (OSError, RuntimeError) as error:
        return f"the download failed ({' '.join(str(error).split())})"
    if files := _held(cache, name, layouts):
        return Found(files, "torchvision download")
    return f"the download into {cache} did not bring the files"


def _cache() -> Path:
    return Path("~/.cache/fedalign").expanduser()


def _held(folder: Path, name: str, layouts: Sequence[tuple[str, ...]]) -> tuple[Path, ...]:
    # The subfolder comes first, because MNIST and Fashion-MNIST have the same file names.
    for inside in (folder / name, folder):
        for layout in layouts:
            files = tuple(inside / file for file in layout)
            if all(file.exists() for file in files):
                return files
    return ()


def _cures(name: str, switched_off: bool) -> str:
    cures = [f"set data.dir or {VARIABLE} to a folder that holds the files"]
    if package := DEBIAN_PACKAGES.get(name):
        cures.insert(0, f"`apt-get install {package}`")
    if switched_off:
        cures.append("set data.download: true")
    return "; ".join(cures)
