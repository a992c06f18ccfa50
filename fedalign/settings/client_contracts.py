"""What a client algorithm may offer beside what `fedalign.settings.contracts` says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from fedalign.data import Spec


@runtime_checkable
class ChecksExamples(Protocol):
    """A client algorithm some of whose options are not for all kinds of examples."""

    def check_examples(self, spec: Spec) -> None:
        """Raise `InputError` for options that cannot be used with examples like these."""
        ...
