"""Find what each arm of a comparison is compared with."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from fedalign.errors import InputError
from fedalign.report.labels import Settings, decides, label


def baselines(
    arms: Mapping[str, Settings], keys: Sequence[str], given: str | None
) -> tuple[str, dict[str, str | None]]:
    """Return what arms are compared with, and for each the label of the arm that is it.

    That is its own label for a baseline, and None for an arm without one.

    With `fedavg` as baseline, `fedpfn, alpha 0.1` is compared with `fedavg, alpha 0.1`. Settings
    that the baseline does not have, or that the chosen one decides, need not be equal.

    Args:
        arms: the settings of each arm, by label.
        keys: all settings by which arms are made.
        given: the label of an arm, or one setting as labels write it; None: the first arm's.

    Raises:
        InputError: no arm is, or has, what is given.
    """
    whole = {label(own): arm for arm, own in arms.items()} | {arm: arm for arm in arms}
    if given is not None and given in whole:
        return whole[given], dict.fromkeys(arms, whole[given])
    if not keys:  # there is but one arm
        return next(iter(arms)), dict.fromkeys(arms, next(iter(arms)))
    key, name = _setting(arms, keys, given)
    bases = {arm: own for arm, own in arms.items() if _name(own, key) == name}
    must = [other for other in keys if other != key and not decides(arms.values(), [key], other)]
    return name, {
        arm: arm if arm in bases else _only([b for b in bases if _agree(own, bases[b], must)])
        for arm, own in arms.items()
    }


def _setting(
    arms: Mapping[str, Settings], keys: Sequence[str], given: str | None
) -> tuple[str, str]:
    """Return the key of a baseline's setting, and the setting as labels write it."""
    if given is None:
        return keys[0], _name(next(iter(arms.values())), keys[0])
    named = {
        _name(own, key): key
        for key in reversed(keys)  # so that the first key wins
        for own in arms.values()
        if key in own
    }
    if given not in named:
        close = difflib.get_close_matches(given, [*named, *arms], n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"baseline: {given!r} is not an arm{guess} (arms: {'; '.join(arms)})")
    return named[given], given


def _name(own: Settings, key: str) -> str:
    return label({key: own[key]}) if key in own else f"no {key}"


def _agree(one: Settings, other: Settings, keys: Sequence[str]) -> bool:
    return all(repr(one[key]) == repr(other[key]) for key in keys if key in one and key in other)


def _only(found: Sequence[str]) -> str | None:
    return found[0] if len(found) == 1 else None
