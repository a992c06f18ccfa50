"""What the commands share: their arguments, and how expected errors are shown."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedalign.errors import FedalignError, device_reason, is_device_error, shortened
from fedalign.settings import completion

MAX_ERROR = 3000  # characters

ConfigFile = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="YAML file, or its name in configs/",
        autocompletion=completion.configs,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="settings by dotted key, such as partition.alpha=0.1",
        autocompletion=completion.overrides,
    ),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="also report to tensorboard, mlflow, wandb or package.module:Name; may be repeated",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="show Flower's own log")]


@contextmanager
def guarded(verbose: bool = False, *, quiet: bool = True) -> Iterator[None]:
    """Turn expected errors into one line and an exit code; make the current folder importable.

    Flower's log shows errors only, if `quiet`, else what it shows by itself.
    """
    if verbose:
        os.environ.setdefault("FLWR_LOG_LEVEL", "DEBUG")
    prepare(quiet=quiet and not verbose)
    received = [signal.SIGINT]
    try:
        with _signals(received):
            yield
    except FedalignError as error:
        print(f"error: {shortened(str(error), MAX_ERROR)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except RuntimeError as error:  # such as one of the GPU while the server measures
        if verbose or not is_device_error(error):
            raise
        print(f"error: {device_reason(error)}", file=sys.stderr)
        raise SystemExit(FedalignError.exit_code) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(128 + received[-1]) from None


def prepare(*, quiet: bool = True) -> None:
    """Let Flower send and look for nothing, and let Python find modules in the current folder."""
    # flwr reads these when it is imported, here and in every worker.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    if quiet:
        quiet_flower()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def quiet_flower() -> None:
    """Let Flower log errors only, here and in workers, unless `FLWR_LOG_LEVEL` is set."""
    if "FLWR_LOG_LEVEL" not in os.environ:
        os.environ["FLWR_LOG_LEVEL"] = "ERROR"
        for handler in logging.getLogger("flwr").handlers:  # none before Flower is imported
            handler.setLevel(logging.ERROR)


@contextmanager
def _signals(received: list[signal.Signals]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop a command like Ctrl-C, unless they are handled or ignored.

    A signal is appended to `received`, since Ray raises a `KeyboardInterrupt` of its own for it.
    """

    def stop(number: int, _: object) -> None:
        received.append(signal.Signals(number))
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    names = [signal.SIGTERM, signal.SIGHUP] if here else []
    before = {name: signal.getsignal(name) for name in names}
    try:
        for name in [name for name in names if before[name] == signal.SIG_DFL]:
            signal.signal(name, stop)
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
