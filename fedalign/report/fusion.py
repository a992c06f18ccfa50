"""Report what `fedalign fuse` made: a table for people, and the card beside the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from fedalign import __version__
from fedalign.errors import InputError
from fedalign.files import replace, replace_text
from fedalign.fusions.fuse import Fusing, Measured, sha256
from fedalign.landscape.barriers import Point, barriers
from fedalign.report.tables import markdown

BARRIERS = ("loss_barrier", "accuracy_barrier")


def card_of(out: Path) -> Path:
    """Return where the card of a fused model is."""
    return out.with_suffix(".json")


def describe(fusing: Fusing) -> str:
    """Return the ingredients, the fused model and the barriers as Markdown tables."""
    rows = [
        [name, str(fusing.sources[name].file), *_cells(own)]
        for name, own in fusing.measured.items()
    ]
    rows.append(["fused", fusing.part.name, *_cells(fusing.result)])
    headings = ["model", "file", "test loss", "test accuracy", "held-out loss", "held-out accuracy"]
    lines = [[c.path, *(f"{barriers(c)[key]:.4f}" for key in BARRIERS)] for c in fusing.curves]
    parts = [markdown(rows, headings[: len(rows[0])])]
    parts += [markdown(lines, ["path", "loss barrier", "accuracy barrier"])] if lines else []
    return "\n\n".join([*parts, "\n".join([*_remarks(fusing), verdict(fusing)])])


def verdict(fusing: Fusing) -> str:
    """Return in a sentence whether the fused model is worse than the best ingredient."""
    best, ours = fusing.measured[fusing.best].test[1], fusing.result.test[1]
    than = f"the best single model ({fusing.best}: {best:.4f})"
    if fusing.is_worse:
        more = f"{round((best - ours) * fusing.examples[0])} more of {fusing.examples[0]} images"
        return f"the fused model ({ours:.4f}) is WORSE than {than}: {more} are wrong"
    return (
        f"the fused model ({ours:.4f}) is {'better than' if ours > best else 'as good as'} {than}"
    )


def write(fusing: Fusing, out: Path) -> None:
    """Write the fused model, if there is one, and its card.

    Raises:
        InputError: `out` is one of the inputs, or its folder does not exist.
    """
    if fusing.state is not None:
        state = dict(fusing.state)
        replace(out, lambda new: save_file(state, new))
    replace_text(card_of(out), json.dumps(card(fusing, out), indent=2, default=str) + "\n")


def check_out(out: Path, inputs: list[Path]) -> None:
    """Raise `InputError` if the fused model cannot be written there."""
    if out.suffix != ".safetensors":
        raise InputError(f"--out: {out} must end in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"--out: there is no folder {out.parent}")
    for file in inputs:
        if out.exists() and file.exists() and out.samefile(file):
            raise InputError(f"--out: {out} is one of the models to be fused")


def card(fusing: Fusing, out: Path) -> dict[str, Any]:
    """Return what there is to know of a fused model, as plain values."""
    made, config = fusing.state is not None, fusing.config
    return {
        "fedalign": __version__,
        "model": {"file": out.name, "sha256": sha256(out)} if made else None,
        "fusion": fusing.part.dump(),
        "decided": dict(fusing.fused.facts),
        "seed": config.seed,
        "network": config.model.dump(),
        "data": config.data.dump() | {"tested_on": fusing.source},
        "statistics_examples": config.evaluation.bn_examples,
        "start": fusing.start or None,
        "inputs": {
            name: {
                "file": str(source.file),
                "sha256": sha256(source.file),
                "examples": fusing.weights[number] if fusing.weights else None,
                "share": fusing.fused.shares[number],
                **_measured(fusing.measured[name]),
            }
            for number, (name, source) in enumerate(fusing.sources.items())
        },
        "best": fusing.best,
        "fused": _measured(fusing.result),
        "worse_than_best": fusing.is_worse,
        "barriers": {curve.path: barriers(curve) for curve in fusing.curves},
        "test_examples": dict(zip(("models", "lines"), fusing.examples, strict=True)),
        "held_out": _held_out(fusing),
    }


def _held_out(fusing: Fusing) -> dict[str, Any]:
    rows = fusing.held_out.rows
    return {
        "examples": len(rows),
        "of": "the training set",
        "trained_on": "by no client of the run" if fusing.held_out.apart else "not known",
        "sha256_of_row_numbers": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
    }


def _measured(own: Measured) -> dict[str, Any]:
    found: dict[str, Any] = {"test": _point(own.test)}
    return found | ({} if own.held_out is None else {"held_out": _point(own.held_out)})


def _point(point: Point) -> dict[str, float]:
    return dict(zip(("loss", "accuracy"), point, strict=True))


def _remarks(fusing: Fusing) -> list[str]:
    """Return what was decided, and on which examples."""
    found = []
    tried = [t for t in fusing.fused.facts.get("tried", []) if "joins" in t]
    if tried:
        steps = [f"{'+' if t['joins'] else '-'}{t['model']}" for t in tried]
        found.append(f"tried from the best on: {' '.join(steps)} (+ joins, - does not)")
    if fusing.start:
        found.append(f"common start: {fusing.start}")
    count, of_lines = fusing.examples
    lines = f", barriers on {of_lines} of them" if fusing.curves else ""
    found.append(f"tested on {count} images{lines}")
    if rows := len(fusing.held_out.rows):
        known = (
            "no client trained on them"
            if fusing.held_out.apart
            else ("whether the models were trained on them is not known")
        )
        found.append(f"held out of the training set: {rows} images; {known}")
    return found


def _cells(own: Measured) -> list[str]:
    points = [own.test] if own.held_out is None else [own.test, own.held_out]
    return [f"{number:.4f}" for point in points for number in point]
