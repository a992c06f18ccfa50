"""The command that makes one model of several: `fuse`.

It imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedalign.commands.choices import DataName, ModelName, is_file
from fedalign.console import guarded

OPTION = "fusion."
DEFAULTS = "evaluation.pairs=10", "evaluation.alphas=11"  # a run's own are for every round


def fuse(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B... [KEY=VALUE]...",
            help="files, run folders, or a run's models/round-R; then settings",
        ),
    ],
    by: Annotated[
        str, typer.Option(help="name of the fusion; its options are fusion.KEY=VALUE")
    ] = "mean",
    start: Annotated[
        str | None, typer.Option(help="the model that all started from: a file, or init")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="configuration of the models; if not given, that of the first one's run"),
    ] = None,
    model: ModelName = None,
    data: DataName = None,
    held_out: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="share of the training set to choose by, if a run held none out"
        ),
    ] = 0.1,
    out: Annotated[
        Path, typer.Option(help="file of the fused model; its card is beside it, as .json")
    ] = Path("fused.safetensors"),
) -> None:
    """Make one model of several, wherever they were trained, and say what it is worth.

    Prints loss and accuracy of each model and of the fused one, and the barriers between them.
    `fedalign list` names the fusions. Nothing is chosen by the test set.
    """
    with guarded():
        from fedalign.fusions.fuse import fuse
        from fedalign.fusions.inputs import sources
        from fedalign.landscape.connect import how
        from fedalign.report.fusion import card_of, check_out, describe, write
        from fedalign.settings.registry import parse
        from fedalign.settings.sources import parse_overrides

        found = sources([Path(word) for word in models if is_file(word)])
        files = [source.file for source in found]
        check_out(out, files)
        words = [word for word in models if not is_file(word)]
        own = parse_overrides([w.removeprefix(OPTION) for w in words if w.startswith(OPTION)])
        part = parse("fusions", {"name": by} | own, "fusion")
        words = [word for word in words if not word.startswith(OPTION)]
        given = {"model": model, "data": data}
        planned = how(files, [*DEFAULTS, *words], config, given)
        fusing = fuse(found, part, planned, start, held_out)
        print(describe(fusing))
        write(fusing, out)
        print(f"\n{f'model in {out}, ' if fusing.state else 'no model; '}card in {card_of(out)}")
