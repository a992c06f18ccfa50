"""Read what else is in a run folder; what it lacks is left out, what is damaged is named."""

from __future__ import annotations

from base64 import b64encode
from functools import cached_property
from io import BytesIO
from typing import Literal

import pandas as pd
from PIL import Image

from fedalign.errors import InputError
from fedalign.report.partition import CLASSES
from fedalign.report.reading import Run, read_table

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
        return self._table("clients").rename(columns={"partition": "client"})

    @cached_property
    def sampled(self) -> pd.DataFrame:
        """Who was sampled in each round, and what became of the reply."""
        return self._table("sampled")

    @cached_property
    def planes(self) -> pd.DataFrame:
        """The measured planes; `corner` is "" on the grid."""
        return self._table("planes")

    @cached_property
    def classes(self) -> pd.DataFrame:
        """How many examples of each class each client has; empty if the run did not write it."""
        file = self.run.path / CLASSES
        try:
            return read_table(file, ["client"], self.run.status)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.notes.append(f"{file} cannot be read: {error}")
        return pd.DataFrame(columns=["client"])

    @cached_property
    def picture(self) -> str | None:
        """The picture of the partition as a data URL, in few shades; None if there is none."""
        file, written = self.run.path / "partition.png", BytesIO()
        if not file.is_file():
            return None
        try:
            with Image.open(file) as image:
                image.convert("RGB").quantize(SHADES).save(written, "PNG", optimize=True)
        except OSError as error:
            self.notes.append(f"{file} cannot be read: {error}")
            return None
        return f"data:image/png;base64,{b64encode(written.getvalue()).decode()}"

    @property
    def config(self) -> str:
        """The configuration as it stands in its file."""
        return (self.run.path / "config.yaml").read_text("utf-8")

    def _table(self, name: Literal["clients", "sampled", "planes"]) -> pd.DataFrame:
        """Return a table of the run; an empty one if it cannot be read."""
        try:
            table: pd.DataFrame = getattr(self.run, name)
        except InputError as error:
            self.notes.append(str(error))
            return pd.DataFrame(columns=["round", "client", "outcome", "plane", "corner"])
        return table
