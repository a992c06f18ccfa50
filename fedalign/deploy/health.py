"""Health checks; they run every few seconds, so this file imports neither Flower nor torch."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from fedalign.errors import FedalignError


def is_up(address: str, authority: Path | None) -> bool:
    """Return whether a SuperLink or SuperNode answers at an address.

    Args:
        address: `host:port`.
        authority: the certificate of the authority that signed its certificate; None: without TLS,
            as a SuperNode answers the processes that it starts.

    Raises:
        FedalignError: something answers whose certificate this authority has not signed.
    """
    context = ssl.create_default_context(cafile=authority) if authority else None
    scheme = "https" if authority else "http"
    try:
        with urllib.request.urlopen(f"{scheme}://{address}/health", timeout=5, context=context):
            return True
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            message = f"{address} is not the SuperLink of {authority}: {error.reason}"
            raise FedalignError(message) from None
        return False
    except OSError:
        return False
