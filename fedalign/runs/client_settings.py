"""`client_settings.csv`: the options in which the clients of a run differ."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from fedalign.files import replace_text
from fedalign.settings.config import Config
from fedalign.settings.per_client import as_text, varied

FILE = "client_settings.csv"


def write_client_settings(config: Config, clients: Iterable[int], folder: Path) -> None:
    """Write a row a client: its number, and its value of each option that `per_client` names."""
    keys, text = varied(config.per_client), StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["client", *keys])
    for client in clients:
        own = config.client_of(client).options
        writer.writerow([client, *(as_text(own[key]) for key in keys)])
    replace_text(folder / FILE, text.getvalue())
