"""What `fedalign list` prints: parts with their options, settings, configurations, studies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console

from fedalign.errors import InputError
from fedalign.settings.builtin import BUILTIN, PLACES
from fedalign.settings.reference import Setting, about, common, options_of_part, sections, settings
from fedalign.settings.registry import load, names
from fedalign.settings.sources import own, read_yaml

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
PLACE_OF = {kind: place for place, kind in PLACES.items()}
NAMED_BY = {kind: f"{place}=NAME" for kind, place in PLACE_OF.items()} | {
    "trackers": "--tracker NAME"
}
MORE = (
    "\nMore: fedalign list KIND (such as partitioners), NAME (such as dirichlet), settings, "
    "SECTION (such as evaluation), SETTING (such as rounds or client.lr), configs, studies."
)
console = Console(highlight=False, markup=False)


def show_all() -> None:
    """Print every part that a configuration can name: one line each, then its options."""
    for kind in BUILTIN:
        show_kind(kind)
    console.print(MORE)


def show_kind(kind: str) -> None:
    """Print the parts of a kind: one line each, then its options.

    Options that all client algorithms share are printed for `local` only.
    """
    common = {o.key for o in options_of_part("clients", "local")} if kind == "clients" else set()
    console.print(f"{kind} ({NAMED_BY[kind]})", style="bold")
    width = max(map(len, names(kind)))
    for name in names(kind):
        headline, values = _listed(kind, name, common if name != "local" else set())
        _print_named(name, width, headline)
        if values:
            console.print(f"  {'':<{width}}  {values}", style="dim", soft_wrap=True)


def show_part(kind: str, name: str) -> None:
    """Print the docstring of a part and its options."""
    console.print(f"{kind}: {name}", style="bold")
    body = (inspect.getdoc(load(kind, name)) or "").partition("\n")[2]
    body = re.split(r"\n(?=>>>|Args:|Raises:|Attributes:)", body)[0]  # what follows is for authors
    text = f"{_headline(kind, name)}\n{'' if name in PAPERS else body}".rstrip()
    console.print(f"{text}\n", soft_wrap=True)
    own, place = options_of_part(kind, name), PLACE_OF.get(kind, "")
    known = {f"{place}.{setting.key}" for setting in own}  # come before those of the same name
    show_settings([*own, *(setting for setting in common(place) if setting.key not in known)])


def show_sections() -> None:
    """Print every setting of a run, section by section; the options of parts are not among them."""
    top = [setting for setting in settings() if "." not in setting.key]
    console.print("settings", style="bold")
    show_settings(top)
    for section in (key for key in sections() if "." not in key):
        console.print()
        show_section(section)


def show_section(section: str) -> None:
    """Print the settings of a section, such as `evaluation`."""
    console.print(f"{section}: {about(sections()[section])}", style="bold")
    show_settings(s for s in settings() if s.key.startswith(f"{section}."))


def show_setting(setting: Setting) -> None:
    """Print a setting; of one that names a part, also the parts that it can name."""
    console.print("setting", style="bold")
    show_settings([setting])
    if setting.key in PLACES and setting.key not in BUILTIN:  # as trackers, shown as a kind
        console.print()
        show_kind(PLACES[setting.key])


def show_option(kind: str, owners: Iterable[str], option: Setting) -> None:
    """Print an option that several parts of a kind share."""
    console.print(f"option of {kind}: {', '.join(owners)}", style="bold", soft_wrap=True)
    show_settings([replace(option, key=f"{PLACE_OF.get(kind, kind)}.{option.key}")])


def show_settings(several: Iterable[Setting]) -> None:
    """Print settings: key, default and what is allowed, then what each means."""
    for setting in several:
        kind = "" if "|" in setting.allowed or setting.kind == "part" else setting.kind
        allowed = " ".join(filter(None, (kind, setting.allowed)))
        line = f"  {setting.key} = {setting.default}  {allowed}"
        console.print(line.rstrip(), soft_wrap=True)
        if setting.description:
            console.print(f"      {setting.description}", style="dim", soft_wrap=True)


def show_configs() -> None:
    """Print fedalign's own configurations, each with its first line."""
    files = {name: file.read_text("utf-8") for name, file in own("configs").items()}
    lines = {name: text.partition("\n")[0].removeprefix("# ") for name, text in files.items()}
    _show_files("configs (fedalign run NAME)", lines)


def show_studies() -> None:
    """Print fedalign's own studies, each with its title."""
    blocks = {name: read_yaml(file)["sweep"] for name, file in own("configs/studies").items()}
    titles = {name: str(block["title"]) for name, block in blocks.items()}
    _show_files("studies (fedalign reproduce NAME)", titles)


def show_file(folder: str, name: str) -> None:
    """Print one of fedalign's own files."""
    file = own(folder)[name]
    console.print(f"{folder}/{name}: {file}", style="bold", soft_wrap=True)
    console.print(file.read_text("utf-8").rstrip(), soft_wrap=True)


def _show_files(heading: str, lines: dict[str, str]) -> None:
    console.print(heading, style="bold")
    width = max(map(len, lines))
    for name, line in lines.items():
        _print_named(name, width, line)


def _print_named(name: str, width: int, text: str) -> None:
    console.print(f"  {name:<{width}}", style="cyan", end="")
    console.print(f"  {text}", soft_wrap=True)


def _listed(kind: str, name: str, shared: set[str]) -> tuple[str, str]:
    """Return the headline of a part and its options with their defaults, without `shared` ones.

    A plug-in that cannot be imported has its error as headline, so that the others are listed.
    """
    try:
        mine = [o for o in options_of_part(kind, name) if o.key not in shared]
        return _headline(kind, name), ", ".join(f"{o.key}={o.default}" for o in mine)
    except InputError as error:
        return str(error), ""


def _headline(kind: str, name: str) -> str:
    first = (inspect.getdoc(load(kind, name)) or "").partition("\n")[0]
    if kind != "strategies" or name not in PAPERS:
        return first
    title = re.sub(r" ?\[.*?\]", "", first).rstrip(".")  # without Flower's own citation
    return f"{title} ({PAPERS[name]})"
