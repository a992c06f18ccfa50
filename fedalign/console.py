"""What the commands share: their arguments, and how expected errors are shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedalign.errors import FedalignError, device_reason, is_device_error, shortened

MAX_ERROR = 3000  # characters

ConfigFile = Annotated[
    str, typer.Argument(metavar="CONFIG", help="YAML file, or its name in configs/")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="settings by dotted key, such as partition.alpha=0.1"
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="show Flower's own log")]


@contextmanager
def guarded(verbose: bool = False) -> Iterator[None]:
    """Turn expected errors into one line and an exit code; make the current folder importable."""
    # flwr reads these when it is imported, here and in every worker.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("FLWR_LOG_LEVEL", "DEBUG" if verbose else "ERROR")
    sys.path.append(str(Path.cwd()))
    try:
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
        raise SystemExit(130) from None
