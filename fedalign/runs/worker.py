"""A process that runs one configuration after another, so that each is spared a start of seconds.

It reads a line of JSON for each run from standard input, and writes a line for each that has ended.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from fedalign.console import guarded
from fedalign.errors import FedalignError, InputError, in_one_line
from fedalign.federation.federation import forget
from fedalign.runs.launch import start
from fedalign.runs.sources import files_of
from fedalign.server.participation import LimpingRunError
from fedalign.settings.config import Config, from_run_config
from fedalign.settings.registry import import_part

GROWTH = 1 << 30  # bytes that a process may gain before it makes room for a fresh one


def main() -> None:
    """Serve the runs that arrive, until there are no more or this process is fit for no other.

    The arguments are the file descriptor for answers, whether other runs go on beside these (`1` or
    `0`), and the command that asked for the runs, for their manifests.
    """
    descriptor, crowded, *sys.argv = sys.argv[1:]
    with guarded(), os.fdopen(int(descriptor), "w") as answers:
        threading.Thread(target=_stop_without, args=[os.getppid()], daemon=True).start()
        before = psutil.Process().memory_info().rss
        for line in sys.stdin:
            with suppress(OSError):
                os.ftruncate(sys.stderr.fileno(), 0)  # it tells of the run that goes on
            error, warm = serve(line, crowded == "1")
            grown = psutil.Process().memory_info().rss - before
            warm = warm and grown < GROWTH and "ray" not in sys.modules
            answers.write(json.dumps({"error": error, "warm": warm}) + "\n")
            answers.flush()
            if not warm:
                return


def _stop_without(parent: int) -> None:
    """Stop this process, whose run keeps its last finished round, when the one above is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def serve(line: str, crowded: bool) -> tuple[str | None, bool]:
    """Run a configuration; return why it failed, and whether this process is as good as new."""
    try:
        config = from_run_config({"config": line})
    except FedalignError as error:
        return str(error), False
    try:
        start(config, crowded)
    except LimpingRunError:  # it has finished, and its manifest says so
        told, warm = None, True
    except InputError as error:  # it has not begun
        told, warm = str(error), True
    except FedalignError as error:
        told, warm = str(error), False
    except Exception as error:
        told, warm = in_one_line(error), False
    else:
        told, warm = None, True
    _forget(config)
    return told, warm


def _forget(config: Config) -> None:
    """Let go of all that a run has left in this process."""
    forget()
    _forget_modules([path.resolve() for path in files_of(config).values()])
    gc.unfreeze()  # what a run froze would never be freed
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _forget_modules(files: Collection[Path]) -> None:
    """Let the user's modules be imported anew, as they are now, with fresh variables."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve() in files:
            del sys.modules[name]
    import_part.cache_clear()
