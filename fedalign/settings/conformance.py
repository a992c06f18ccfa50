"""Whether a part keeps the contract of its kind; see `contracts`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from inspect import getattr_static, isfunction, signature
from types import MemberDescriptorType
from typing import Any, get_type_hints

from flwr.serverapp.strategy import Strategy
from pydantic import TypeAdapter, ValidationError

from fedalign.settings import client_contracts, contracts, result_contracts
from fedalign.settings.builtin import SINGULAR

MISSING = object()
OURS = [m.__name__ for m in (contracts, client_contracts, result_contracts)]  # not Flower's
MORE_ARGUMENTS = {"split": ("groups",)}  # given by name to methods that have such a parameter
COMPUTED = (property, cached_property, MemberDescriptorType)  # their values are known later


@dataclass(frozen=True)
class Contract:
    """The contract of a kind of part.

    Attributes:
        required: what a part must have.
        optional: what a part may have.
        traits: what a part may declare on its class.
        arguments: names of constructor parameters that fedalign fills in.
        untouched: names of Flower's parameters that are no options, and may have defaults.
    """

    required: type
    optional: tuple[type, ...] = ()
    traits: type | None = None
    arguments: frozenset[str] = frozenset()
    untouched: frozenset[str] = frozenset()


CONTRACTS = {
    "strategies": Contract(
        Strategy,
        (contracts.PlansMasks, contracts.SaysAverages, contracts.AddsNoise),
        contracts.StrategyTraits,
        frozenset(contracts.StrategyArguments.__annotations__),
        frozenset({*contracts.FLOWER_SAMPLING, *contracts.FLOWER_DEFAULTS}),
    ),
    "clients": Contract(
        client_contracts.ClientAlgorithm,
        (
            client_contracts.HasEpochs,
            client_contracts.BoundsMetrics,
            client_contracts.ChecksExamples,
        ),
        client_contracts.ClientTraits,
    ),
    "schedules": Contract(contracts.Schedule),
    "partitioners": Contract(
        contracts.Partitioner, (contracts.TransformsImages, contracts.NamesRows)
    ),
    "models": Contract(
        contracts.Model,
        (contracts.HasSymmetry,),
        None,
        frozenset(contracts.ModelArguments.__annotations__),
    ),
    "datasets": Contract(contracts.Source, (contracts.HasParts, contracts.HasSpec)),
    "trackers": Contract(result_contracts.Tracker),
    "fusions": Contract(
        result_contracts.Fusion, (result_contracts.HasNeeds,), result_contracts.FusionTraits
    ),
}


def kind_of(target: Any) -> str:
    """Return the kind whose contract a class keeps; of a function it is not known, so `models`."""
    order = (
        *("models", "strategies", "schedules", "partitioners", "clients", "datasets"),
        *("trackers", "fusions"),
    )
    found = (kind for kind in order if isinstance(target, type) and not any(faults(kind, target)))
    return next(found, "models")


def faults(kind: str, part: Any) -> Iterator[str]:
    """Yield what is wrong with a part: what it lacks, and what is of another type.

    Args:
        kind: of the part.
        part: a class, or the object that a function returned.
    """
    contract = CONTRACTS[kind]
    lacking = [name for name in sorted(_methods(contract.required)) if not _has(part, name)]
    lacking += [name for name in _attributes(contract.required) if not _declares(part, name)]
    if lacking:
        yield f"lacks {', '.join(lacking)}, which a {SINGULAR[kind]} must have"
    for protocol in contract.optional:
        for name in _methods(protocol):
            if hasattr(part, name) and not _has(part, name):
                yield f"{name}: {getattr(part, name)!r} is not a method"
    for protocol in (contract.required, *contract.optional):
        for name in sorted(_methods(protocol)):
            if _has(part, name) and protocol.__module__ in OURS:
                yield from _uncallable(part, protocol, name)
    described = (contract.required, *contract.optional, contract.traits)
    for owner in filter(None, described):
        for name, annotation in _attributes(owner).items():
            yield from _mistyped(part, name, annotation)


def _uncallable(part: Any, protocol: type, name: str) -> Iterator[str]:
    """Yield a complaint if a method does not take what fedalign calls it with."""
    itself, *given = signature(getattr(protocol, name)).parameters
    method = getattr_static(part, name)
    is_unbound = isinstance(part, type) and isfunction(method)
    arguments = [itself, *given] if is_unbound else given
    own = signature(getattr(part, name))
    more = {key: None for key in MORE_ARGUMENTS.get(name, ()) if key in own.parameters}
    try:
        own.bind(*arguments, **more)
    except TypeError:
        yield f"{name}{own} cannot be called as {name}({', '.join(given)})"


def _mistyped(part: Any, name: str, annotation: Any) -> Iterator[str]:
    value = getattr_static(part, name, MISSING)
    if value is MISSING or isinstance(value, COMPUTED):
        return
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        wanted = getattr(annotation, "__name__", str(annotation))
        wanted = str(annotation) if "|" in str(annotation) else wanted
        found = "a method" if isfunction(value) else repr(value)
        yield f"{name}: {found} is not of type {wanted}"


def _methods(owner: type) -> set[str]:
    """Return the methods that a protocol has, or that an abstract class leaves open."""
    if not getattr(owner, "_is_protocol", False):
        return set(getattr(owner, "__abstractmethods__", ()))
    return {key for key, value in vars(owner).items() if callable(value) and key[0] != "_"}


def _attributes(owner: type) -> dict[str, Any]:
    """Return the attributes that a protocol or a dataclass has, with their types."""
    return get_type_hints(owner) if owner.__module__ in OURS else {}


def _has(part: Any, method: str) -> bool:
    is_open = method in getattr(part, "__abstractmethods__", ())
    return callable(getattr(part, method, None)) and not is_open


def _declares(part: Any, name: str) -> bool:
    """Return whether a part has an attribute, or its class says that its objects will."""
    owner = part if isinstance(part, type) else type(part)
    return hasattr(part, name) or any(
        name in vars(c).get("__annotations__", ()) for c in owner.__mro__
    )
