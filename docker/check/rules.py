"""What must hold of the files; each check raises `AssertionError` with what does not."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Callable
from typing import Any

import click
import typer
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

import fedalign
from check import files
from fedalign.deploy.commands import app
from fedalign.deploy.superlink import QUIET

TOLD = files.settings()
STACKS = {stack: files.compose(stack, TOLD) for stack in files.STACKS}
ONE, NODE = STACKS[files.STACKS[0]], STACKS[files.STACKS[2]]
SERVICES = [
    (f"{stack[-1]}: {name}", service)
    for stack, spec in STACKS.items()
    for name, service in spec["services"].items()
]
# These two are not public in Flower; its commands have no other way to try options out.
FLOWER = {
    "flower-superlink": _parse_args_run_superlink,
    "flower-supernode": _parse_args_run_supernode,
}


def every_variable_is_explained() -> None:
    """Each variable of the compose files is in `.env`, each of `.env` in one, each with a word."""
    used = set().union(*(files.variables(name) for stack in files.STACKS for name in stack))
    known = {name for name in TOLD if not name.startswith("COMPOSE_")}
    assert used == known, f"only in .env or only in compose files: {sorted(used ^ known)}"
    lines = (files.DOCKER / ".env").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        said = above.startswith("#") or not re.match(r"[A-Z]", line)
        assert said, f".env: no comment above {line}"


def each_container_is_locked_down() -> None:
    """No root, no capability, no writable image, and limits, in every service."""
    user = f"{TOLD['FEDALIGN_UID']}:{TOLD['FEDALIGN_GID']}"
    wanted = {"user": user, "read_only": True, "init": True, "cap_drop": ["ALL"]}
    wanted |= {"security_opt": ["no-new-privileges:true"]}
    for name, service in SERVICES:
        for key, value in wanted.items():
            assert service.get(key) == value, f"{name}: {key} is not {value}"
        for key in ("cpus", "mem_limit", "pids_limit", "restart", "stop_grace_period", "tmpfs"):
            assert service.get(key), f"{name}: no {key}"
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service), name


def only_the_superlink_has_a_port() -> None:
    """One port is open, on the address that `.env` says; SuperNodes have no way out but it."""
    open_ports = {name: service["ports"] for name, service in SERVICES if "ports" in service}
    port = f"{TOLD['FEDALIGN_BIND']}:{TOLD['FEDALIGN_PORT']}:8000"
    assert all(ports == [port] for ports in open_ports.values()), open_ports
    assert {name.split(": ")[1] for name in open_ports} == {"superlink"}, open_ports
    assert ONE["networks"]["federation"] == {"internal": True}
    for name, service in ONE["services"].items():
        if name != "superlink":
            alone = service.get("network_mode") == "none" or service["networks"] == ["federation"]
            assert alone, f"{name} reaches more than the SuperLink"


def nobody_sees_a_key_of_another() -> None:
    """A SuperNode sees its own key, `ca.crt` and its data; the SuperLink no key but its own."""
    certs, keys = TOLD["FEDALIGN_CERTS"], TOLD["FEDALIGN_KEYS"]
    seen = {name: files.mounts(ONE, name) for name in ONE["services"]}
    nodes = [name for name in seen if name.startswith("supernode")]
    for number, name in enumerate(nodes, start=1):
        _one_node_sees(seen[name], TOLD[f"FEDALIGN_NODE_{number}_DATA"], f"{keys}/node-{number}")
        told = ONE["services"][name]["command"][0].split()[0]
        assert told == f"partition-id={number - 1}", f"{name}: {told}"
    alone = files.mounts(NODE, "supernode")
    _one_node_sees(alone, TOLD["FEDALIGN_NODE_DATA"], f"{keys}/{TOLD['FEDALIGN_NODE']}")
    sources = [source for source, _ in seen["superlink"].values()]
    secret = {source for source in sources if source.startswith((certs, keys))}
    assert secret == {f"{certs}/{name}" for name in ("ca.crt", "server.crt", "server.key")}, secret
    written = {name: [to for to, (_, ro) in see.items() if not ro] for name, see in seen.items()}
    assert {name: to for name, to in written.items() if to} == {
        "superlink": ["/state", "/app/runs"],
        "certificates": ["/certs"],
        "key": ["/keys"],
    }, written


def _one_node_sees(seen: dict[str, tuple[str, bool]], data: str, key: str) -> None:
    wanted = {
        "/data": (data, True),
        "/app/parts": (TOLD["FEDALIGN_PARTS"], True),
        "/run/secrets/ca.crt": (f"{TOLD['FEDALIGN_CERTS']}/ca.crt", True),
        "/run/secrets/key": (key, True),
    }
    assert seen == wanted, f"{seen} is not {wanted}"


def a_node_is_the_same_anywhere() -> None:
    """A SuperNode on a machine of its own has the settings of those beside the SuperLink."""
    apart = {"build", "command", "secrets", "volumes", "depends_on", "networks"}
    here, there = ONE["services"]["supernode-1"], NODE["services"]["supernode"]
    for key in (set(here) | set(there)) - apart:
        same = [
            str(service.get(key)).replace(f"{TOLD['FEDALIGN_HOST']}:8000", "superlink:8000")
            for service in (here, there)
        ]
        assert same[0] == same[1], f"{key}: {same[0]} is not {same[1]}"


def each_command_is_understood() -> None:
    """Flower's and fedalign's own parsers take the commands and health checks of all services."""
    for name, service in SERVICES:
        check = service["healthcheck"].get("test", ["CMD"])
        assert check[0] == "CMD", f"{name}: a shell in its health check"
        for command in (files.words(service), check[1:]):
            if command:
                _understood(name, command, service.get("environment", {}))
    for word, rest in files.instructions():
        if word in ("CMD", "HEALTHCHECK"):
            _understood(f"Dockerfile: {word}", re.findall(r'"(.*?)"', rest), {})


def _understood(name: str, command: list[str], environment: dict[str, str]) -> None:
    program, *options = command
    if program in FLOWER:
        try:
            FLOWER[program]().parse_args(options)
        except SystemExit:
            raise AssertionError(f"{name}: {program} does not take {options}") from None
        return
    assert program == "fedalign", f"{name}: what is {program}?"
    if options == ["--help"]:
        return
    _deploy(name, options, environment)


def _deploy(name: str, options: list[str], environment: dict[str, str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    assert options[0] == "deploy", name
    known = {
        "FEDALIGN_SUPERLINK": "--superlink",
        "FEDALIGN_ROOT_CERTIFICATES": "--root-certificates",
    }
    told = [f"{known[key]}={environment[key]}" for key in known if key in environment]
    given = ["something" if word == "--help" else word for word in options[2:]]
    try:
        group.commands[options[1]].make_context(options[1], [*given, *told])
    except (KeyError, click.UsageError) as error:
        raise AssertionError(f"{name}: {' '.join(options)}: {error}") from None


def the_image_runs_without_root() -> None:
    """The last stage ends as a number that is not 0, has a health check and no shell."""
    last = files.last_stage()
    said = dict(last)
    assert said["USER"] == "${APP_UID}", said["USER"]
    assert int(files.arguments()["APP_UID"]) > 0
    for word in ("CMD", "HEALTHCHECK"):
        assert '["' in said[word], f"{word}: a shell stands between"
    runs = " ".join(rest for word, rest in last if word == "RUN")
    assert not re.search(r"apt|gcc|pip ", runs), "the last stage installs something"
    assert files.environment().items() >= QUIET.items(), files.environment()


def the_base_can_be_pinned() -> None:
    """Each stage is built on an argument with a tag that is not `latest`, or on another stage."""
    stages: set[str] = set()
    declared: set[str] = set()
    for word, rest in files.instructions():
        if word == "FROM":
            base, *name = rest.split()
            assert base in stages or base == "${PYTHON_IMAGE}", f"FROM {rest}"
            stages |= {name[-1]} if name else set()
            declared = {key for key in declared if key == "PYTHON_IMAGE"}
            continue
        used = set(re.findall(r"\$\{([A-Z_]+)\}", rest))
        assert used <= declared, f"{word}: {sorted(used - declared)} is used before it is declared"
        if word == "ARG":
            declared.add(rest.split("=")[0])
            assert "latest" not in rest, rest
    told = files.arguments()
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", told["PYTHON_IMAGE"]), told["PYTHON_IMAGE"]
    assert TOLD["FEDALIGN_PYTHON_IMAGE"] == told["PYTHON_IMAGE"]
    assert TOLD["FEDALIGN_TORCH_INDEX"] == told["TORCH_INDEX"]


def what_is_copied_is_there() -> None:
    """Each COPY finds its source in the context; no key, data or run is in it."""
    for source in files.sources():
        assert (files.HOME / source).exists(), f"COPY {source}: there is none"
        assert files.in_context(source), f"COPY {source}: .dockerignore leaves it out"
    secret = ("docker/certs/ca.key", "docker/keys/node-1", "docker/data/node-1/train.npz")
    secret += ("docker/.env", "runs/a/model.safetensors", ".git/config", "fedalign/a/b.pyc")
    for path in secret:
        assert not files.in_context(path), f"{path} would be sent to the engine"


def versions_agree() -> None:
    """Image, label and package have one version, and what fedalign needs has a fixed one."""
    told, version = files.arguments(), fedalign.__version__
    assert told["VERSION"] == version
    assert TOLD["FEDALIGN_IMAGE"] == f"fedalign:{version}"
    lines = (files.DOCKER / "constraints.txt").read_text().splitlines()
    fixed = {line.split("==")[0] for line in lines if "==" in line}
    fixed |= {word.split("==")[0] for word in told["TORCH"].strip('"').split()}
    manifest = tomllib.loads((files.HOME / "pyproject.toml").read_text())
    needs = manifest["project"]["dependencies"]
    needed = {re.split(r"[^\w-]", need, maxsplit=1)[0] for need in needs}
    assert needed <= fixed, f"constraints.txt: {sorted(needed - fixed)} is missing"


def the_readme_names_what_there_is() -> None:
    """Each `docker compose run --rm NAME` and each variable of README.md exists."""
    text = (files.DOCKER / "README.md").read_text()
    for line in text.splitlines():
        if "compose" in line and " run --rm " in line:
            spec = NODE if "compose.node.yaml" in line else ONE
            name = shlex.split(line.split(" run --rm ")[1].split("`")[0], comments=True)[0]
            assert name in spec["services"], f"README.md: no service {name}: {line.strip()}"
    unknown = set(re.findall(r"FEDALIGN_[A-Z_0-9]+", text)) - set(TOLD)
    assert not unknown, f"README.md: {sorted(unknown)} not in .env"
    files_named = set(re.findall(r"compose[a-z.]*\.yaml", text))
    assert files_named == {name for stack in files.STACKS for name in stack}, files_named


CHECKS: dict[str, Callable[[], Any]] = {
    check.__name__.replace("_", " "): check
    for check in (
        every_variable_is_explained,
        each_container_is_locked_down,
        only_the_superlink_has_a_port,
        nobody_sees_a_key_of_another,
        a_node_is_the_same_anywhere,
        each_command_is_understood,
        the_image_runs_without_root,
        the_base_can_be_pinned,
        what_is_copied_is_there,
        versions_agree,
        the_readme_names_what_there_is,
    )
}
