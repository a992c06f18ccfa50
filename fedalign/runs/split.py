"""`partition.json`: which client owns which examples, as the partitioner `indices` reads it."""

from __future__ import annotations

import json
from pathlib import Path

from fedalign.federation.federation import Federation
from fedalign.files import replace_text

FILE = "partition.json"


def write_split(federation: Federation, num_clients: int, folder: Path) -> None:
    """Write the indices of each client, held-out ones included: a list a client, one a line."""
    shares = (federation.held(client, num_clients).owned for client in range(num_clients))
    lines = (json.dumps(share.tolist(), separators=(",", ":")) for share in shares)
    replace_text(folder / FILE, "[\n" + ",\n".join(lines) + "\n]\n")
