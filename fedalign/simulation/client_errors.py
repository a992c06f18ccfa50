"""What is logged of clients that raise, for apps that do not look at errors themselves."""

from __future__ import annotations

import logging
from collections import Counter

from flwr.app import Message

MAX_REASONS = 5  # named at the end of a run

log = logging.getLogger("flwr")


class ClientErrors:
    """Logs the errors of clients with their traceback, as Flower does, but each only once."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def note(self, partition: int, reply: Message) -> None:
        """Count the reply of a client, if it is an error."""
        if not reply.has_error():
            return
        headline, _, trace = (reply.error.reason or "no reason given").partition("\n")
        if headline not in self._count:
            log.error("client %d: %s\n%s", partition, headline, trace)
        self._count[headline] += 1

    def report(self) -> None:
        """Log how many replies were errors, and which."""
        if total := self._count.total():
            named = [f"{n} times {line}" for line, n in self._count.most_common(MAX_REASONS)]
            log.warning("%d replies of clients were errors: %s", total, "; ".join(named))
