"""Start Ray on this machine without the helper processes that a simulation does not need.

`ray.init` starts a server, a scheduler and five helpers, each of which imports much of Ray before
the first worker starts. There is no dashboard, no autoscaling, no metrics agent and no runtime
environment here, and `ray_output` prints what workers print.

Ray has no public switch for this, so names of `ray._private` are replaced while Ray starts. If a
version of Ray lacks one of them, or cannot start in this way, Ray starts with its helpers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray

HELPERS = ("start_monitor", "start_api_server", "start_log_monitor")
AGENTS = {
    "--dashboard_agent_command": (
        "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
    ),
    "--runtime_env_agent_command": ("runtime_env_agent_port",),
}  # fmt: skip
"""The ports for which Ray's scheduler waits, by the option that says how to start their process."""
NEEDS = ("include_dashboard", "runtime_env", "job_config", "address", "local_mode")
VARIABLES = {"RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RUNTIME_ENV_HOOK", "UV"}

log = logging.getLogger("fedalign")


def start_ray(init_args: Mapping[str, Any]) -> Path | None:
    """Start Ray, without its helpers if nobody asks for one of them.

    Arguments may ask for a helper, and so may the environment (`uv run`, for example).

    Returns:
        The folder of its logs, if there is no helper that prints them.
    """
    if not (any(init_args.get(need) for need in NEEDS) or VARIABLES & os.environ.keys()):
        try:
            with _without_helpers() as nodes:
                ray.init(**{**init_args, "log_to_driver": False})
            return Path(nodes[0].get_logs_dir_path())
        except Exception as error:
            log.debug("Ray starts with its helpers, since without them: %s", error)
            ray.shutdown()
    ray.init(**init_args)
    return None


@contextmanager
def _without_helpers() -> Iterator[list[Any]]:
    """Let Ray start no helpers in this context; yield the list that gets its node."""
    node, services = (import_module(f"ray._private.{name}") for name in ("node", "services"))
    start, nodes = services.start_ray_process, []

    def begin(command: list[str], *args: Any, **options: Any) -> Any:
        return start([_replaced(word) for word in command], *args, **options)

    nothing: dict[str, Any] = dict.fromkeys(HELPERS, lambda node, **_: nodes.append(node))
    with (
        patch.multiple(node.Node, **nothing),
        patch.object(services, "start_ray_process", begin),
    ):
        yield nodes


def _replaced(word: str) -> str:
    """Return a word of a command, in which `cat` replaces an agent of Ray's scheduler.

    It ends with the scheduler, as its input does. That its ports are not in use is written here.
    """
    option, _, command = word.partition("=")
    if option not in AGENTS:
        return word
    given = dict(part.partition("=")[::2] for part in command.split())
    for port in AGENTS[option]:
        Path(given["--session-dir"], f"{port}_{given['--node-id']}").write_text("-1")
    return f"{option}=cat"
