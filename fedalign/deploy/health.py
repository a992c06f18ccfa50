"""Whether somebody answers: asked every few seconds, so neither Flower nor torch is imported."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from fedalign.errors import FedalignError


def is_up(address: str, authority: Path | None) -> bool:
    """Return whether a SuperLink or SuperNode answers at `host:port`, and is who it should be.

    Args:
        address: where.
        authority: the certificate of who signed its certificate; None: it answers without TLS, as
            a SuperNode does to the processes that it starts.

    Raises:
        FedalignError: something answers that is not certified by this authority.
    """
    context = ssl.create_default_context(cafile=authority) if authority else None
    scheme = "https" if authority else "http"
    try:
        with urllib.request.urlopen(f"{scheme}://{address}/health", timeout=5, context=context):
            return True
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            told = f"{address} is not the SuperLink of {authority}: {error.reason}"
            raise FedalignError(told) from None
        return False
    except OSError:
        return False
