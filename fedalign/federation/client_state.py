"""A client's state at its node: stored under digests, of which the server says which one counts.

So a round happens on both sides or on neither, and a run that continues from a checkpoint finds the
states of that time. Simulated clients need none of this: there, the engine holds the states.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.files import replace
from fedalign.messages.contexts import place_of
from fedalign.messages.records import STATE

STATE_DIR = "state-dir"  # in a node's config: the folder in which states outlive the node's process
STATES = "states"  # in a run's folder: that folder, where server and nodes share a machine


class ClientState:
    """The state of one client, for the length of one message.

    Args:
        context: of the client; its `STATE` record is the state that algorithms see.
        message: its `STATE` record has the digest of the state to begin with, `""` for none, and
            under `kept` that of the state in the server's checkpoint; both stay stored. Without
            the record nothing happens here.
        federation: as the node sees it.
    """

    def __init__(self, context: Context, message: Message, federation: Federation):
        self._context, self._config = context, federation.config
        self._asked = cast(Any, message.content.get(STATE))

    @cached_property
    def _folder(self) -> Path | None:
        folder, config = self._context.node_config.get(STATE_DIR), self._config
        if folder is None:
            return None
        run = hashlib.sha256(f"{config.out} {config.name} {config.digest()}".encode()).hexdigest()
        partition, _ = place_of(self._context)
        return Path(str(folder)).expanduser() / run[:16] / str(partition)

    def fetch(self) -> None:
        """Put the state that counts into the context; `InputError` if this node lost it."""
        if self._asked is not None:
            self._context.state.pop(STATE, None)
            if digest := str(self._asked["digest"]):
                self._context.state[STATE] = self._read(digest)

    def store(self, reply: Message) -> None:
        """Store the context's state, write its digest on the reply, and forget older states."""
        state = self._context.state.array_records.get(STATE)
        if self._asked is None or state is None:
            return
        content = save({name: array.numpy() for name, array in state.items()})
        digest = hashlib.sha256(content).hexdigest()
        if self._folder is None:
            self._context.state[_name(digest)] = state
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace(self._folder / digest, lambda new: new.write_bytes(content))
        self._forget_all_but({digest, str(self._asked["digest"]), str(self._asked["kept"])})
        lasts = self._folder is not None
        reply.content[STATE] = ConfigRecord({"digest": digest, "lasts": lasts})

    def _read(self, digest: str) -> ArrayRecord:
        if self._folder is None:
            if (record := self._context.state.array_records.get(_name(digest))) is not None:
                return record
            raise InputError(
                f"this node lost the client's state when it restarted; give {STATE_DIR}"
            )
        try:
            content = (self._folder / digest).read_bytes()
            arrays = load(content)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{STATE_DIR}: the client's state cannot be read: {error}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{STATE_DIR}: {self._folder / digest} has been changed")
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})

    def _forget_all_but(self, digests: set[str]) -> None:
        for file in self._folder.iterdir() if self._folder else ():
            if file.name not in digests:
                file.unlink(missing_ok=True)
        kept = {STATE, *map(_name, digests)}
        for name in [name for name in self._context.state if name.startswith(STATE)]:
            if name not in kept:
                del self._context.state[name]


def _name(digest: str) -> str:
    return f"{STATE}-{digest}"
