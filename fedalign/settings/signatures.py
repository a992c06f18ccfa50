"""The options of a part, read from the parameters of its constructor."""

from __future__ import annotations

import collections.abc
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedalign.errors import InputError
from fedalign.settings.builtin import BUILTIN, FLOWER_FIELDS
from fedalign.settings.conformance import CONTRACTS


@dataclass(frozen=True)
class Option:
    """One option of a part.

    Attributes:
        annotation: its type, with constraints.
        default: `...` if it must be given.
        nested: the kind of part that this option holds. A nested strategy is built before it is
            passed on; a part annotated as `Annotated[Part | str, kind]` is passed on unbuilt.
    """

    annotation: Any
    default: Any
    nested: str | None = None


def options_of(kind: str, called: str, target: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a part, in the order of its signature.

    Raises:
        InputError: a parameter can be neither an option nor an argument, see `contracts`.
    """
    hints, found = _hints(called, target), {}
    for key, parameter in _parameters(called, target).items():
        hint = hints.get(key, Any)
        if reason := _refusal(kind, parameter, hint):
            raise InputError(f"{called!r}: {reason}")
        contract = CONTRACTS[kind]
        if key not in contract.arguments | contract.untouched and not is_callback(hint):
            default = ... if parameter.default is parameter.empty else parameter.default
            if key in FLOWER_FIELDS and target.__module__.startswith("flwr."):
                hint = Annotated[hint, Field(**FLOWER_FIELDS[key])]
            found[key] = _option(hint, default)
    return found


def is_callback(annotation: Any) -> bool:
    """Return whether an annotation is a function's: no YAML file can hold one.

    So parameters such as Flower's `train_metrics_aggr_fn` are no options.
    """
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return any(map(is_callback, get_args(annotation)))
    return collections.abc.Callable in (annotation, origin)


def _refusal(kind: str, parameter: inspect.Parameter, hint: Any) -> str | None:
    """Return why a constructor cannot have this parameter; None if it can."""
    contract, key = CONTRACTS[kind], parameter.name
    has_default = parameter.default is not parameter.empty
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        found = str(parameter).partition(":")[0]
        return f"its constructor takes {found}, and every option must be a parameter with a name"
    is_own = key in contract.untouched and get_origin(hint) is Annotated
    if is_own or (key in contract.arguments and has_default):
        return (
            f"{key!r} cannot be an option, because fedalign gives the parameter of this name its "
            "value; rename the option, or remove its default to receive that value"
        )
    if is_callback(hint) and not has_default:
        return f"{key!r} is a function, which no setting can hold; give it a default"
    return None


def _parameters(called: str, target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return what a constructor takes; a class that only inherits a protocol's takes nothing."""
    mro = target.__mro__ if isinstance(target, type) else ()
    owner = next((cls for cls in mro if "__init__" in vars(cls)), None)
    if getattr(owner, "_is_protocol", False):
        return {}
    try:
        return inspect.signature(target).parameters
    except ValueError:  # of some classes and functions that are written in C
        raise InputError(f"{called!r}: Python does not know its parameters") from None


def _hints(called: str, target: Callable[..., Any]) -> dict[str, Any]:
    from_init = inspect.isclass(target) and not is_dataclass(target)
    try:
        return get_type_hints(target.__init__ if from_init else target, include_extras=True)
    except NameError as error:
        raise InputError(f"{called!r}: an annotation cannot be evaluated: {error}") from None


def _option(hint: Any, default: Any) -> Option:
    if hint is Strategy:
        return Option(Strategy, "fedavg", nested="strategies")
    kind = get_args(hint)[1] if get_origin(hint) is Annotated else None
    if isinstance(kind, str) and kind in BUILTIN:
        return Option(Any, default, nested=kind)
    return Option(hint, default)
