"""Read what else is in a run folder; what it lacks is left out, what is damaged is named."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from typing import Any

import pandas as pd
from PIL import Image

from fedalign.report.partition import CLASSES
from fedalign.report.reading import Run, read_table
from fedalign.runs.paths import DamagedManifestError, read_manifest
from fedalign.runs.tables import CLIENTS, PLANES

SAMPLED = ("round", "client", "examples", "train_loss", "outcome")
SHADES = 64  # of a picture in a page


class Folder:
    """What a page shows of a run, beside its metrics and its landscape.

    Attributes:
        run: the run.
        notes: a line on each file that could not be read.
    """

    def __init__(self, run: Run):
        self.run, self.notes = run, list[str]()

    @cached_property
    def clients(self) -> pd.DataFrame:
        """What each client measured on its own data; the client's number is in `client`."""
        found = self._table("clients.csv", CLIENTS)
        return found.rename(columns={"partition": "client"})

    @cached_property
    def sampled(self) -> pd.DataFrame:
        """Who was sampled in each round, and what became of the reply."""
        return self._table("sampled.csv", SAMPLED)

    @cached_property
    def planes(self) -> pd.DataFrame:
        """The measured planes; `corner` is "" on the grid."""
        return self._table("planes.csv", PLANES).fillna({"corner": ""})

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty if there is none or it is damaged."""
        try:
            return read_manifest(self.run.path) or {}
        except DamagedManifestError as error:
            self.notes.append(str(error))
            return {}

    @property
    def config(self) -> str:
        """The configuration as it stands in its file."""
        return (self.run.path / "config.yaml").read_text("utf-8")

    @cached_property
    def classes(self) -> pd.DataFrame:
        """How many examples of each class each client has; empty if the run did not write it."""
        return self._read(CLASSES, ["client"])

    @cached_property
    def picture(self) -> str | None:
        """The picture of the partition as a data URL, in few shades; None if there is none."""
        file = self.run.path / "partition.png"
        if not file.is_file():
            return None
        try:
            with Image.open(file) as image:
                small, written = image.convert("RGB").quantize(SHADES), BytesIO()
            small.save(written, "PNG", optimize=True)
        except OSError as error:
            self.notes.append(f"{file}: cannot be read: {error}")
            return None
        return f"data:image/png;base64,{b64encode(written.getvalue()).decode()}"

    def _table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Return the rows of whole rounds of a table."""
        table = self._read(name, columns)
        return table[table["round"].isin(self.run.metrics["round"])]

    def _read(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Return a table; one without rows if its file is missing or damaged."""
        path, empty = self.run.path / name, pd.DataFrame(columns=list(columns))
        if not path.is_file():
            return empty
        try:
            return read_table(path, columns, self.run.status)
        except (OSError, ValueError) as error:
            self.notes.append(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}")
            return empty
