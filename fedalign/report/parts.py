"""Print the parts that a configuration can name, and their options."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.markup import escape

from fedalign.errors import InputError, nearest
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.conformance import kind_of
from fedalign.settings.registry import import_part, load, names, options
from fedalign.settings.signatures import Option

# Most of Flower's own strategies do not name their paper.
PAPERS = {
    "fedavg": "McMahan et al. 2017",
    "fedavgm": "Hsu et al. 2019",
    "fedadagrad": "Reddi et al. 2021",
    "fedadam": "Reddi et al. 2021",
    "fedyogi": "Reddi et al. 2021",
    "qfedavg": "Li et al. 2020, ICLR",
    "fedmedian": "Yin et al. 2018",
    "fedtrimmedavg": "Yin et al. 2018",
    "krum": "Blanchard et al. 2017",
    "multikrum": "Blanchard et al. 2017",
    "bulyan": "El Mhamdi et al. 2018",
    "dp-server-fixed": "McMahan et al. 2018",
    "dp-server-adaptive": "Andrew et al. 2021",
    "dp-client-fixed": "McMahan et al. 2018",
    "dp-client-adaptive": "Andrew et al. 2021",
}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def print_parts() -> None:
    """Print every part that a configuration can name: one line each, then its options.

    Options that all client algorithms share are printed for `local` only.
    """
    console = Console(highlight=False)
    common = options("clients", "local")
    for kind in BUILTIN:
        console.print(f"[bold]{kind}[/]")
        width = max(map(len, names(kind)))
        for name in names(kind):
            shared = common if kind == "clients" and name != "local" else {}
            headline, values = _listed(kind, name, shared)
            console.print(f"  [cyan]{name:<{width}}[/]  {headline}", soft_wrap=True)
            if values:
                console.print(f"  {'':<{width}}  [dim]{values}[/]", soft_wrap=True)


def print_part(wanted: str) -> None:
    """Print the docstring of a part and its options; `InputError` if no part has this name."""
    console = Console(highlight=False, markup=False)
    kinds = [kind for kind in BUILTIN if wanted in names(kind)]
    if ":" in wanted:
        kinds = [kind_of(import_part(wanted))]
    if not kinds:
        every = [name for kind in BUILTIN for name in names(kind)]
        raise InputError(f"{wanted!r} is not a part of fedalign{nearest(wanted, every)}")
    for kind in kinds:
        console.print(wanted if ":" in wanted else f"{kind}: {wanted}", style="bold")
        headline = _headline(kind, wanted)
        body = (inspect.getdoc(load(kind, wanted)) or "").partition("\n")[2]
        console.print(f"{headline}\n{'' if wanted in PAPERS else body}".rstrip(), soft_wrap=True)
        console.print()
        for key, option in options(kind, wanted).items():
            described, allowed = _described(option)
            console.print(f"  {key} = {_default(option)}  {allowed}", soft_wrap=True)
            if described:
                console.print(f"      {described}", style="dim", soft_wrap=True)


def _listed(kind: str, name: str, shared: Collection[str]) -> tuple[str, str]:
    """Return the headline of a part and its options with their defaults, without `shared` ones.

    A plug-in that cannot be imported has its error as headline, so that the others are listed.
    """
    try:
        own = {key: o for key, o in options(kind, name).items() if key not in shared}
        values = ", ".join(f"{key}={_default(option)}" for key, option in own.items())
        return escape(_headline(kind, name)), escape(values)
    except InputError as error:
        return escape(str(error)), ""


def _headline(kind: str, name: str) -> str:
    first = (inspect.getdoc(load(kind, name)) or "").partition("\n")[0]
    if kind != "strategies" or name not in PAPERS:
        return first
    title = re.sub(r" ?\[.*?\]", "", first).rstrip(".")  # without Flower's own citation
    return f"{title} ({PAPERS[name]})"


def _described(option: Option) -> tuple[str, str]:
    """Return the description in an option's annotation, and the values that it allows."""
    if option.nested:
        return "", f"one of the {option.nested}"
    kind, *more = get_args(option.annotation) if _is_annotated(option) else (option.annotation,)
    description = next((m.description for m in more if getattr(m, "description", None)), "")
    if get_origin(kind) is Literal:
        return description, " | ".join(map(str, get_args(kind)))
    bounds = [
        f"{sign} {getattr(bound, key):g}"
        for m in more
        for bound in getattr(m, "metadata", ())
        for key, sign in SIGNS.items()
        if hasattr(bound, key)
    ]
    return description, f"{getattr(kind, '__name__', kind)} {', '.join(bounds)}".strip()


def _is_annotated(option: Option) -> bool:
    return hasattr(option.annotation, "__metadata__")


def _default(option: Option) -> Any:
    return "required" if option.default is ... else json.dumps(option.default)
