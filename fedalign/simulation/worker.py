"""What runs in a Ray worker: a process that imports the ClientApp once and serves any client.

A client's state travels with its message, so any worker can serve it next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedalign.errors import DeviceError
from fedalign.messages.copies import with_content
from fedalign.messages.groups import GroupReplies, GroupRequest, RunConfig
from fedalign.simulation.app import FlowerApp, load_component
from fedalign.simulation.faults import Fault
from fedalign.simulation.serving import serve
from fedalign.simulation.shipping import ship_arrays_out_of_band
from fedalign.usage import Usage, own_usage


@dataclass(frozen=True)
class Job:
    """The task of a group of clients.

    Attributes:
        envelopes: their messages, without content.
        broadcast: the index of the content that all of them have.
        contexts: their contexts.
    """

    envelopes: Sequence[Message]
    broadcast: int
    contexts: Sequence[Context]


class Worker:
    """The actor that runs in a worker process."""

    def __init__(self, app: FlowerApp, threads: int):
        ship_arrays_out_of_band()
        app.put_on_path()
        self._client_app = load_component(app.client, app.root)
        self._threads = threads

    def ready(self) -> None:
        """Return once the worker has started."""

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take what all workers share; if that fails, the first client makes it, or fails too."""
        with suppress(Exception):
            self._client_app.adopt(run_config, num_partitions, shared)

    def run(
        self, jobs: Sequence[Job], request: GroupRequest, *broadcasts: RecordDict
    ) -> tuple[list[tuple[GroupReplies, float]], Fault | None, Usage]:
        """Return for each job its replies and the seconds it took, and what the worker has used.

        If the GPU fails, the jobs before are returned, and why. The worker must then end.
        """
        done: list[tuple[GroupReplies, float]] = []
        for job in jobs:
            started = time.perf_counter()
            content = broadcasts[job.broadcast]
            messages = [with_content(envelope, content) for envelope in job.envelopes]
            try:
                answers = serve(self._client_app, messages, job.contexts, request, self._threads)
            except DeviceError as error:
                return done, Fault(error.reason, error.nodes), own_usage()
            done.append((answers, time.perf_counter() - started))
        return done, None, own_usage()
