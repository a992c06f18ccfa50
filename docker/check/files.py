"""Read the files of this folder as Compose and the Docker engine do."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).resolve().parent.parent
HOME = DOCKER.parent
# Files that one `docker compose -f … -f …` combines.
STACKS = (
    ("compose.yaml",),
    ("compose.yaml", "compose.gpu.yaml"),
    ("compose.node.yaml",),
    ("compose.node.yaml", "compose.node.gpu.yaml"),
)
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


def settings() -> dict[str, str]:
    """Return the variables in `.env`."""
    lines = (DOCKER / ".env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return {name: value.strip("'") for name, value in pairs}


def variables(name: str) -> set[str]:
    """Return the variables that a compose file uses."""
    return set(_VARIABLE.findall((DOCKER / name).read_text()))


def compose(stack: Sequence[str], values: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of compose files merged, with variables replaced by their values."""
    merged: dict[str, Any] = {}
    for name in stack:
        merged = _over(merged, yaml.safe_load((DOCKER / name).read_text()))
    filled: dict[str, Any] = _fill(merged, values)
    return filled


def words(service: Mapping[str, Any], *more: str) -> list[str]:
    """Return the whole command of a service; `more` replaces its `command`."""
    return [*service.get("entrypoint", []), *(more or service.get("command", []))]


def mounts(spec: Mapping[str, Any], name: str) -> dict[str, tuple[str, bool]]:
    """Return source and read-only flag of each mount of a service, by its path inside."""
    service = spec["services"][name]
    mounted = {}
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        mounted[target] = (source, mode == ["ro"])
    for secret in service.get("secrets", []):
        long = secret if isinstance(secret, dict) else {"source": secret, "target": secret}
        file = spec["secrets"][long["source"]]["file"]
        mounted[f"/run/secrets/{long['target']}"] = (file, True)
    return mounted


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile as word and rest; continued lines are joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    parts = [line.strip().partition(" ") for line in lines if line.strip()]
    return [(word, rest.strip()) for word, _, rest in parts]


def arguments() -> dict[str, str]:
    """Return the defaults of the build arguments that have one."""
    return dict(
        rest.split("=", 1) for word, rest in instructions() if word == "ARG" and "=" in rest
    )


def last_stage() -> list[tuple[str, str]]:
    """Return the instructions of the last stage, which becomes the image."""
    lines = instructions()
    return lines[max(i for i, (word, _) in enumerate(lines) if word == "FROM") :]


def environment() -> dict[str, str]:
    """Return the environment variables that the image sets."""
    pairs = [pair for word, rest in last_stage() if word == "ENV" for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def sources() -> list[str]:
    """Return the paths that the Dockerfile copies from the build context."""
    copies = [rest.split() for word, rest in instructions() if word == "COPY"]
    return [source for copy in copies if not copy[0].startswith("--from") for source in copy[:-1]]


def in_context(path: str) -> bool:
    """Return whether `.dockerignore` lets a path of the repository into the build context."""
    included = True
    for line in (HOME / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line.startswith("#") and line and _matches(path, pattern):
            included = line.startswith("!")
    return included


def _matches(path: str, pattern: str) -> bool:
    """Return whether a pattern matches a path or a folder above it; `**/` is any folder."""
    parts = path.split("/")
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    depth = pattern.count("/")
    return any(fnmatch.fnmatch(name, pattern) for name in above if name.count("/") == depth)


def _over(low: Any, high: Any) -> Any:
    """Return the settings of two files merged: the later one overrides, lists are joined."""
    if isinstance(low, dict) and isinstance(high, dict):
        return low | {key: _over(low.get(key), value) for key, value in high.items()}
    return low + high if isinstance(low, list) and isinstance(high, list) else high


def _fill(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, values) for value in node]
    return _VARIABLE.sub(lambda m: values[m[1]], node) if isinstance(node, str) else node
