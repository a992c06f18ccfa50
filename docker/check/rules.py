"""Rules for the files of this folder; each check raises `AssertionError` if a rule is broken."""

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

SETTINGS = files.settings()
STACKS = {stack: files.compose(stack, SETTINGS) for stack in files.STACKS}
ONE, NODE = STACKS[files.STACKS[0]], STACKS[files.STACKS[2]]
SERVICES = [
    (f"{stack[-1]}: {name}", service)
    for stack, spec in STACKS.items()
    for name, service in spec["services"].items()
]
# These two are private in Flower, but its commands offer no other way to check options.
FLOWER = {
    "flower-superlink": _parse_args_run_superlink,
    "flower-supernode": _parse_args_run_supernode,
}


# `service:superlink` shares the network, and the loopback, of the SuperLink.
MODES = ("none", "service:superlink")
DOOR = ["fedalign", "deploy", "superlink"]


def every_variable_is_explained() -> None:
    """Compose files and `.env` have the same variables, each with a comment in `.env`."""
    used = set().union(*(files.variables(name) for stack in files.STACKS for name in stack))
    known = {name for name in SETTINGS if not name.startswith("COMPOSE_")}
    assert used == known, f"only in .env or only in compose files: {sorted(used ^ known)}"
    lines = (files.DOCKER / ".env").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        explained = above.startswith("#") or not re.match(r"[A-Z]", line)
        assert explained, f".env: no comment above {line}"


def each_container_is_locked_down() -> None:
    """Every service has limits, but no root, no capability and no writable image."""
    user = f"{SETTINGS['FEDALIGN_UID']}:{SETTINGS['FEDALIGN_GID']}"
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
    """One port is open, on the address in `.env`; SuperNodes reach only the SuperLink."""
    open_ports = {name: service["ports"] for name, service in SERVICES if "ports" in service}
    port = f"{SETTINGS['FEDALIGN_BIND']}:{SETTINGS['FEDALIGN_PORT']}:8000"
    assert all(ports == [port] for ports in open_ports.values()), open_ports
    assert {name.split(": ")[1] for name in open_ports} == {"superlink"}, open_ports
    assert ONE["networks"]["federation"] == {"internal": True}
    for name, service in ONE["services"].items():
        if name != "superlink":
            mode = service.get("network_mode")
            assert mode in MODES or service["networks"] == ["federation"], (
                f"{name} reaches more than the SuperLink"
            )


def the_superlink_has_a_door() -> None:
    """From outside only SuperNodes are served; runs and keys are taken on its loopback."""
    command = ONE["services"]["superlink"]["command"]
    assert command[:5] == [*DOOR, "--door=0.0.0.0:8000", "--port=8001"], command
    assert not any(word.startswith("--host") for word in command), command
    for name, service in ONE["services"].items():
        if "FEDALIGN_SUPERLINK" in service.get("environment", {}):
            assert service["network_mode"] == "service:superlink", name
            assert service["environment"]["FEDALIGN_SUPERLINK"] == "localhost:8001", name


def nobody_sees_a_key_of_another() -> None:
    """A SuperNode sees its own key, `ca.crt` and its data; the SuperLink sees only its own key."""
    certs, keys = SETTINGS["FEDALIGN_CERTS"], SETTINGS["FEDALIGN_KEYS"]
    seen = {name: files.mounts(ONE, name) for name in ONE["services"]}
    nodes = [name for name in seen if name.startswith("supernode")]
    for number, name in enumerate(nodes, start=1):
        _one_node_sees(seen[name], f"FEDALIGN_NODE_{number}", f"{keys}/node-{number}")
        config = ONE["services"][name]["command"][0].split()[0]
        assert config == f"partition-id={number - 1}", f"{name}: {config}"
    alone = files.mounts(NODE, "supernode")
    _one_node_sees(alone, "FEDALIGN_NODE", f"{keys}/{SETTINGS['FEDALIGN_NODE']}")
    sources = [source for source, _ in seen["superlink"].values()]
    secret = {source for source in sources if source.startswith((certs, keys))}
    assert secret == {f"{certs}/{name}" for name in ("ca.crt", "server.crt", "server.key")}, secret
    written = {name: [to for to, (_, ro) in see.items() if not ro] for name, see in seen.items()}
    assert {name: to for name, to in written.items() if to} == {
        "superlink": ["/state", "/app/runs"],
        **{name: ["/state"] for name in nodes},
        "certificates": ["/certs"],
        "key": ["/keys"],
    }, written


def states_outlive_a_node() -> None:
    """Each SuperNode stores client states in a folder of its own, whatever its data are."""
    for spec in STACKS.values():
        nodes = {n: own for n, own in spec["services"].items() if n.startswith("supernode")}
        for name, service in nodes.items():
            command = service["command"][0]
            assert 'state-dir="/state"' in command.split(), f"{name}: {command}"
        folders = {files.mounts(spec, name)["/state"][0] for name in nodes}
        assert len(folders - {SETTINGS["FEDALIGN_STATE"]}) == len(nodes), folders
        assert all((files.DOCKER / folder).is_dir() for folder in folders), folders


def _one_node_sees(seen: dict[str, tuple[str, bool]], prefix: str, key: str) -> None:
    wanted = {
        "/data": (SETTINGS[f"{prefix}_DATA"], True),
        "/state": (SETTINGS[f"{prefix}_STATES"], False),
        "/app/parts": (SETTINGS["FEDALIGN_PARTS"], True),
        "/run/secrets/ca.crt": (f"{SETTINGS['FEDALIGN_CERTS']}/ca.crt", True),
        "/run/secrets/key": (key, True),
    }
    assert seen == wanted, f"{seen} is not {wanted}"


def a_node_is_the_same_anywhere() -> None:
    """A SuperNode on its own machine has the same settings as those beside the SuperLink."""
    apart = {"build", "command", "secrets", "volumes", "depends_on", "networks"}
    here, there = ONE["services"]["supernode-1"], NODE["services"]["supernode"]
    for key in (set(here) | set(there)) - apart:
        same = [
            str(service.get(key)).replace(f"{SETTINGS['FEDALIGN_HOST']}:8000", "superlink:8000")
            for service in (here, there)
        ]
        assert same[0] == same[1], f"{key}: {same[0]} is not {same[1]}"


def each_command_is_understood() -> None:
    """Flower's and fedalign's parsers accept the commands and health checks of all services."""
    for name, service in SERVICES:
        check = service["healthcheck"].get("test", ["CMD"])
        assert check[0] == "CMD", f"{name}: its health check uses a shell"
        for command in (files.words(service), check[1:]):
            if command:
                _understood(name, command, service.get("environment", {}))
    for word, rest in files.instructions():
        if word in ("CMD", "HEALTHCHECK"):
            _understood(f"Dockerfile: {word}", re.findall(r'"(.*?)"', rest), {})


def _understood(name: str, command: list[str], environment: dict[str, str]) -> None:
    program, *options = command
    if command[:3] == DOOR:  # all other options are Flower's
        program, options = "flower-superlink", [o for o in options[2:] if o[:7] != "--door="]
    if program in FLOWER:
        try:
            FLOWER[program]().parse_args(options)
        except SystemExit:
            raise AssertionError(f"{name}: {program} does not accept {options}") from None
        return
    assert program == "fedalign", f"{name}: {program} is not a known program"
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
    from_environment = [f"{known[key]}={environment[key]}" for key in known if key in environment]
    given = ["something" if word == "--help" else word for word in options[2:]]
    try:
        group.commands[options[1]].make_context(options[1], [*given, *from_environment])
    except (KeyError, click.UsageError) as error:
        raise AssertionError(f"{name}: {' '.join(options)}: {error}") from None


def the_image_runs_without_root() -> None:
    """The image runs under a user id other than 0, has a health check, and uses no shell."""
    last = files.last_stage()
    by_word = dict(last)
    assert by_word["USER"] == "${APP_UID}", by_word["USER"]
    assert int(files.arguments()["APP_UID"]) > 0
    for word in ("CMD", "HEALTHCHECK"):
        assert '["' in by_word[word], f"{word}: uses a shell"
    runs = " ".join(rest for word, rest in last if word == "RUN")
    assert not re.search(r"apt|gcc|pip ", runs), "the last stage installs something"
    assert files.environment().items() >= QUIET.items(), files.environment()


def the_base_can_be_pinned() -> None:
    """Each stage is based on another one, or on an argument whose tag is not `latest`."""
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
    defaults = files.arguments()
    image = defaults["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", image), image
    assert SETTINGS["FEDALIGN_PYTHON_IMAGE"] == image
    assert SETTINGS["FEDALIGN_TORCH_INDEX"] == defaults["TORCH_INDEX"]


def what_is_copied_is_there() -> None:
    """Each COPY finds its source in the build context, which holds no key, data or run."""
    for source in files.sources():
        assert (files.HOME / source).exists(), f"COPY {source}: no such file"
        assert files.in_context(source), f"COPY {source}: .dockerignore excludes it"
    secret = ("docker/certs/ca.key", "docker/keys/node-1", "docker/data/node-1/train.npz")
    secret += ("docker/.env", "runs/a/model.safetensors", ".git/config", "fedalign/a/b.pyc")
    for path in secret:
        assert not files.in_context(path), f"{path} would be sent to the engine"


def versions_agree() -> None:
    """Image, label and package have the same version; all dependencies are pinned."""
    defaults, version = files.arguments(), fedalign.__version__
    assert defaults["VERSION"] == version
    assert SETTINGS["FEDALIGN_IMAGE"] == f"fedalign:{version}"
    lines = (files.DOCKER / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    pinned |= {word.split("==")[0] for word in defaults["TORCH"].strip('"').split()}
    manifest = tomllib.loads((files.HOME / "pyproject.toml").read_text())
    needs = manifest["project"]["dependencies"]
    needed = {re.split(r"[^\w-]", need, maxsplit=1)[0] for need in needs}
    assert needed <= pinned, f"constraints.txt: {sorted(needed - pinned)} is missing"


def the_readme_names_what_there_is() -> None:
    """README.md names only services and variables that exist, and all compose files."""
    text = (files.DOCKER / "README.md").read_text()
    for line in text.splitlines():
        if "compose" in line and " run --rm " in line:
            spec = NODE if "compose.node.yaml" in line else ONE
            name = shlex.split(line.split(" run --rm ")[1].split("`")[0], comments=True)[0]
            assert name in spec["services"], f"README.md: no service {name}: {line.strip()}"
    unknown = set(re.findall(r"FEDALIGN_[A-Z_0-9]+", text)) - set(SETTINGS)
    assert not unknown, f"README.md: {sorted(unknown)} not in .env"
    files_named = set(re.findall(r"compose[a-z.]*\.yaml", text))
    assert files_named == {name for stack in files.STACKS for name in stack}, files_named


CHECKS: dict[str, Callable[[], Any]] = {
    check.__name__.replace("_", " "): check
    for check in (
        every_variable_is_explained,
        each_container_is_locked_down,
        only_the_superlink_has_a_port,
        the_superlink_has_a_door,
        nobody_sees_a_key_of_another,
        states_outlive_a_node,
        a_node_is_the_same_anywhere,
        each_command_is_understood,
        the_image_runs_without_root,
        the_base_can_be_pinned,
        what_is_copied_is_there,
        versions_agree,
        the_readme_names_what_there_is,
    )
}
