"""The engine without workers: all clients run in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flwr.app import Message, UserConfigValue
from flwr.clientapp import ClientApp

from fedalign.messages.copies import node_of
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.grid import LocalGrid, is_over, serve


class InlineGrid(LocalGrid):
    """A Grid whose clients run in the calling thread, in the order of the messages.

    It starts no process, pickles nothing, needs one CUDA context, and a debugger can stop inside a
    client. A running client cannot be interrupted, so a `timeout` takes effect between two clients.
    Clients share the process, so they see one another's changes to the globals of a module.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int | None = None,
    ) -> None:
        super().__init__(num_nodes, run_config, run_id)
        self._client_app = client_app

    def _run_all(
        self, groups: list[list[Message]], request: GroupRequest, deadline: float | None
    ) -> Iterator[GroupReplies]:
        for group in groups:
            if is_over(deadline):
                return
            contexts = self.contexts(map(node_of, group))
            yield serve(self._client_app, group, contexts, request)


def run(
    app: FlowerApp, num_supernodes: int, run_config: dict[str, UserConfigValue], run_id: int | None
) -> None:
    """Run the ServerApp of `app` to its end; its exceptions are passed on unchanged."""
    server_app, client_app = app.load()
    InlineGrid(client_app, num_supernodes, run_config, run_id).serve(server_app)
