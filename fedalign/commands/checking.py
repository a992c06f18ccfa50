"""Commands that train nothing: `validate`, `partition`, `doctor`, `evaluate`, `list`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Annotated

import typer

from fedalign import __version__
from fedalign.commands.choices import combined
from fedalign.console import ConfigFile, Overrides, guarded
from fedalign.settings import completion

if TYPE_CHECKING:
    from fedalign.settings.config import Config


def _versions(wanted: bool) -> None:
    """Print the versions of fedalign and of what it runs on."""
    if wanted:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("flwr", "torch", "ray"))
        print(f"fedalign {__version__} ({shown}, Python {python_version()})")
        raise typer.Exit


def about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the versions and exit.", callback=_versions, is_eager=True
        ),
    ] = False,
) -> None:
    """Federated learning simulations with neuron alignment."""


def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration, its data and its partition without training, and summarise it."""
    with guarded():
        from fedalign.report.summary import summary

        for planned in combined(config, overrides or [], None):
            print(summary(planned))


def partition(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(help="PNG or PDF file; numbered if there are several")
    ] = Path("partition.png"),
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON or .npz file for the indices of each client, which partition=indices reads",
        ),
    ] = None,
) -> None:
    """Show how the examples are partitioned: statistics and a figure.

    `partition.alpha=0.1,1` shows two partitions.
    """
    with guarded():
        from fedalign.federation.federation import Federation
        from fedalign.report import style
        from fedalign.report.partition import counts_of, describe, picture, save_indices

        several = combined(config, overrides or [], None)
        for number, planned in enumerate(several, 1):
            suffix = "" if len(several) == 1 else f"-{number}"
            federation, file = Federation(planned), out.with_stem(f"{out.stem}{suffix}")
            counts = counts_of(federation)
            lines = [describe(counts), f"figure in {file}"]
            if save is not None:
                words = save_indices(federation, save.with_stem(f"{save.stem}{suffix}"))
                lines.append(f"the same partition again: {words}")
            style.save(picture(counts), file)
            print(*lines, *[""] * (number < len(several)), sep="\n")


def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    twice: Annotated[
        bool,
        typer.Option("--twice", help="run two rounds twice, and name the first thing that differs"),
    ] = False,
) -> None:
    """Tell how a configuration would run on this machine: workers, stack, cost of a message.

    With `--twice`, whether two rounds repeat: in one process, in another one, and with stacked
    clients; exit code 1 if not.
    """
    with guarded():
        if twice:
            _check_twice(combined(config, overrides or [], None))
            return
        from fedalign.report.doctor import doctor

        for planned in combined(config, overrides or [], None):
            for heading, text in doctor(planned).items():
                print(f"{heading:10}{text}")


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL.safetensors", help="run folder, or file of a model")
    ],
    overrides: Overrides = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="configuration of the model; if not given, config.yaml in the folder of the run",
            autocompletion=completion.configs,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file for the scores of each client")] = None,
) -> None:
    """Evaluate a model on the test set and on the data of all clients, without training.

    A client is tested on the examples that it holds out (`evaluation.holdout`), or else on those
    that it trains on. With `evaluation.tasks.on`, the body is also judged by these tasks.
    """
    with guarded():
        from fedalign.report import evaluation

        told, clients = evaluation.evaluate(*evaluation.how(model, overrides or [], config))
        print(told)
        if out is not None:
            evaluation.write(clients, out)
            print(f"each client in {out}")


def _words(incomplete: str) -> list[str]:
    """Return what `list` knows that begins so."""
    from fedalign.report import lookup

    return [word for word in lookup.words() if word.startswith(incomplete)]


def list_parts(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORD]",
            autocompletion=_words,
            help="a kind (partitioners), a part (dirichlet), a setting (rounds, evaluation, "
            "client.lr), settings, configs, studies",
        ),
    ] = None,
) -> None:
    """List parts, settings, configurations and studies; tell all about one of them."""
    with guarded():
        from fedalign.report import lookup, parts

        parts.show_all() if name is None else lookup.show(name)


def _check_twice(several: list[Config]) -> None:
    """Print whether two rounds repeat; exit with code 1 if not."""
    from fedalign.studies.twice import twice

    found = True
    for planned in several:
        for heading, text, same in twice(planned):
            print(f"{heading:10}{text}", flush=True)
            found = found and same
    if not found:
        raise typer.Exit(1)
