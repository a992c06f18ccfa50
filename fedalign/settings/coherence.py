"""Which parts go together: rules on the strategies and the client of a configuration."""

from __future__ import annotations

from collections.abc import Collection

from fedalign.errors import BadValueError, InputError
from fedalign.settings.common import private_of
from fedalign.settings.contracts import PlansMasks
from fedalign.settings.registry import Part, load, traits


def check(strategy: Part, client: Part, own: Collection[str] = ()) -> None:
    """Raise `BadValueError` for a strategy, with those it wraps, or a client that cannot work.

    `own` are the options of the client in which it may differ from other clients.
    """
    chain = _chain(strategy)
    _same_for_all(chain, own)
    _one_mask_plan(chain)
    _both_halves(chain, client)
    _same_options(chain, client)
    _order_of_neurons(chain, client)


def _chain(part: Part) -> list[Part]:
    """Return a strategy and those that it wraps."""
    inner = [o for o in part.options.values() if isinstance(o, Part) and o.kind == part.kind]
    return [part, *(deeper for own in inner for deeper in _chain(own))]


def _one_mask_plan(chain: list[Part]) -> None:
    """Refuse a masked strategy around another: clients would follow some of both plans."""
    loaded = ((part.name, load(part.kind, part.name)) for part in chain)
    masked = [name for name, t in loaded if isinstance(t, type) and issubclass(t, PlansMasks)]
    if len(masked) > 1:
        both = f"{masked[0]!r} and {masked[1]!r} both plan masks"
        raise BadValueError("strategy", f"{both}, and clients can follow one")


def _both_halves(chain: list[Part], client: Part) -> None:
    """Refuse one half of an algorithm without the other."""
    for part in chain:
        name = traits("strategies", part.name).other_half
        if name and not _is_a("clients", client.name, name):
            reason = f"is not the client of the strategy: it needs {name!r}"
            raise BadValueError("client.name", f"{client.name!r} {reason}")
    needed = traits("clients", client.name).other_half
    if needed and not any(_is_a("strategies", part.name, needed) for part in chain):
        reason = f"is not the strategy of client {client.name!r}: it needs {needed!r}"
        raise BadValueError("strategy.name", f"{chain[0].name!r} {reason}")


def _same_options(chain: list[Part], client: Part) -> None:
    """Refuse two halves of an algorithm whose common options differ."""
    for half in chain:
        if traits("strategies", half.name).other_half:
            for key in half.options.keys() & client.options.keys():
                ours, theirs = client.options[key], half.options[key]
                if ours != theirs:
                    reason = f"{ours!r} is not the {theirs!r} of strategy {half.name!r}"
                    raise BadValueError(f"client.{key}", reason)


def _same_for_all(chain: list[Part], own: Collection[str]) -> None:
    """Refuse options that clients have of their own where they must have the same."""
    for part in chain:
        alike = traits("strategies", part.name).same_for_all
        alike += ("lr",) if "client_learning_rate" in part.options else ()  # of Flower's q-FedAvg
        for key in alike:
            if key in own:
                reason = f"strategy {part.name!r} needs clients with the same {key}"
                raise BadValueError(f"client.{key}", reason)


def _order_of_neurons(chain: list[Part], client: Part) -> None:
    """Refuse to move neurons while something else relies on their order."""
    outer, *inner = chain
    for part in inner:
        if moves_neurons(part):
            reason = f"would see neurons before {part.name!r} moves them, which must be the "
            raise BadValueError("strategy.name", f"{outer.name!r} {reason}outermost strategy")
    if moves_neurons(outer) and (patterns := private_of(client)):
        reason = f"{patterns!r} would keep weights in an order of neurons that {outer.name!r} "
        raise BadValueError("client.private", f"{reason}changes; fedavg does not")
    if moves_neurons(outer) and traits("clients", client.name).stateful:
        reason = f"keeps weights from round to round in an order of neurons that {outer.name!r} "
        raise BadValueError("client.name", f"{client.name!r} {reason}changes; local does not")


def moves_neurons(strategy: Part) -> bool:
    """Return whether a strategy, or its fusion, puts neurons into another order."""
    fusions = [own for own in strategy.options.values() if isinstance(own, Part)]
    return traits("strategies", strategy.name).moves_neurons or any(
        traits("fusions", own.name).moves_neurons for own in fusions if own.kind == "fusions"
    )


def _is_a(kind: str, name: str, other: str) -> bool:
    try:
        own, wanted = load(kind, name), load(kind, other)
    except InputError as error:  # of `other`, since `name` has been loaded before
        declared_by = "client.name" if kind == "strategies" else "strategy.name"
        raise BadValueError(declared_by, f"its other_half: {error}") from None
    both = isinstance(own, type) and isinstance(wanted, type)
    return own is wanted or (both and issubclass(own, wanted))  # type: ignore[arg-type]
