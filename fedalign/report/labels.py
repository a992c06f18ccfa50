"""Name runs by the settings in which they differ from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedalign.errors import shortened
from fedalign.settings.per_client import PLACE as PER_CLIENT

MAX_NAMED = 3  # settings that every name holds; if more of them vary, common values are left out
MAX_VALUE = 40  # characters of a value
COMMON = "common settings"
Settings = Mapping[str, Any]  # by dotted key


def label(settings: Settings) -> str:
    """Return dotted settings as a short label, such as `alpha 0.1, fedpfn`."""
    words = (
        _text(value) if key.endswith("name") else f"{short(key, settings)} {_text(value)}"
        for key, value in settings.items()
    )
    return ", ".join(dict.fromkeys(words))  # a strategy and its client may have one name


def short(key: str, keys: Iterable[str]) -> str:
    """Return the last word of a dotted key, or the whole key if another one ends in that word.

    Of `per_client.lr.uniform` the option is told, too.
    """
    if key.startswith(f"{PER_CLIENT}."):
        return key.removeprefix(f"{PER_CLIENT}.").replace(".", " ")
    key, last = key.removesuffix(".name"), key.removesuffix(".name").rpartition(".")[2]
    others = [other.removesuffix(".name") for other in keys]
    return key if sum(other.rpartition(".")[2] == last for other in others) > 1 else last


def varied(several: Sequence[Settings]) -> list[Settings]:
    """Return each arm's settings without those that have one value in all arms that have them.

    Names of parts come first, and that of the strategy before all. The seed is left out.
    """
    keys = sorted({key for one in several for key in one} - {"seed"})
    keys.sort(key=lambda key: (key != "strategy.name", not key.endswith(".name")))
    values = {key: {repr(one[key]) for one in several if key in one} for key in keys}
    keys = [key for key in keys if len(values[key]) > 1]
    return [{key: one[key] for key in keys if key in one} for one in several]


def decides(arms: Iterable[Settings], keys: Sequence[str], other: str) -> bool:
    """Return whether arms that have the same values of `keys` have the same value of `other`."""
    pairs = {(repr([own.get(key) for key in keys]), repr(own.get(other))) for own in arms}
    return len(pairs) == len({first for first, _ in pairs})


def deciding(several: Sequence[Settings]) -> list[str]:
    """Return the keys that vary, without those that depend on the ones before them."""
    kept: list[str] = []
    for key in dict.fromkeys(key for own in varied(several) for key in own):
        kept += [] if decides(several, kept, key) else [key]
    return kept


def telling(several: Sequence[Settings]) -> list[Settings]:
    """Return each arm's settings that tell it from the others, see `deciding`."""
    keys = deciding(several)
    return [{key: one[key] for key in keys if key in one} for one in several]


def common(arms: Sequence[Settings]) -> Settings:
    """Return the values that more than half of the arms share; none if few settings vary."""
    keys = list(dict.fromkeys(key for arm in arms for key in arm))
    shared = {}
    for key in keys if len(keys) > MAX_NAMED else ():
        having = [arm[key] for arm in arms if key in arm]
        most, count = Counter(map(repr, having)).most_common(1)[0]
        if count > len(having) / 2:
            shared[key] = next(value for value in having if repr(value) == most)
    return shared


def beside(arm: Settings, shared: Settings) -> str:
    """Return the label of an arm's settings, without those that have the common value."""
    own = {key: v for key, v in arm.items() if key not in shared or repr(shared[key]) != repr(v)}
    return label(own) or (COMMON if arm else "")


def ordered(value: Any) -> tuple[int, float, str]:
    """Return a key by which values are sorted: null, then numbers, then texts."""
    if isinstance(value, bool | int | float):
        return (1, float(value), "")
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))


def _text(value: Any) -> str:
    words = {"None": "null", "True": "true", "False": "false", "": "''"}
    return words.get(str(value), shortened(str(value), MAX_VALUE))
