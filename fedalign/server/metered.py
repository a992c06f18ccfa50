"""A limit on how much of a reply is read from a SuperLink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from flwr.serverapp import Grid


class TooLargeError(Exception):
    """A reply is larger than it may be; it is not read to its end."""


@contextmanager
def metered(grid: Grid, limit: int) -> Iterator[None]:
    """Let a grid over a SuperLink read `limit` bytes of objects; `TooLargeError` after that.

    Flower reads a reply object by object, of at most 5 MiB where nobody changed that. What is not
    read is given up, so that the SuperLink forgets it too. Grids without a SuperLink read nothing.
    """
    client = getattr(grid, "_runtime_client", None)
    if client is None:
        yield
        return
    meter = _Meter(client, limit)
    grid.__dict__["_client"] = meter
    try:
        yield
    except TooLargeError:
        meter.give_up(grid)
        raise
    finally:
        grid.__dict__["_client"] = client


class _Meter:
    """Flower's client of the runtime API, counting what it reads."""

    def __init__(self, client: Any, limit: int):
        self._client, self._limit = client, limit
        self._count, self._lock = 0, Lock()  # Flower reads objects in several threads
        self._messages: list[Any] = []

    def PullMessages(self, request: Any) -> Any:  # noqa: N802
        answer = self._client.PullMessages(request)
        self._messages = list(answer.messages_list)
        return answer

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        if self._count > self._limit:
            raise TooLargeError(self._refusal())
        answer = self._client.PullObject(request)
        with self._lock:
            self._count += len(answer.object_content)
        if self._count > self._limit:
            raise TooLargeError(self._refusal())
        return answer

    def give_up(self, grid: Any) -> None:
        """Tell the SuperLink that the messages were received, which removes their objects."""
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest

        for message in self._messages:
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=grid.node,
                    run_id=grid.run.run_id,
                    message_object_id=message.metadata.message_id,
                )
            )

    def _refusal(self) -> str:
        return f"its reply is larger than {self._limit} bytes, twice what it was sent"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
