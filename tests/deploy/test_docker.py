"""What can be known of docker/ without an engine; `make deploy-check` also asks other tools."""

import subprocess

import pytest
from check import files, rules, run


@pytest.mark.parametrize("check", rules.CHECKS.values(), ids=rules.CHECKS.keys())
def test_rule(check):
    check()


def test_a_rule_can_fail(monkeypatch):
    """A key too many, root, an open port, lost states, an unknown option: each is found."""
    spec = files.compose(files.STACKS[0], rules.SETTINGS)
    monkeypatch.setitem(rules.STACKS, files.STACKS[0], spec)
    monkeypatch.setattr(rules, "ONE", spec)
    monkeypatch.setattr(rules, "SERVICES", [(f": {n}", s) for n, s in spec["services"].items()])
    spec["services"]["supernode-1"]["secrets"].append("node-2")
    with pytest.raises(AssertionError, match="node-2"):
        rules.nobody_sees_a_key_of_another()
    spec["services"]["supernode-2"]["command"] = ["partition-id=1"]
    with pytest.raises(AssertionError, match="supernode-2: partition-id=1"):
        rules.states_outlive_a_node()
    spec["services"]["supernode-2"]["networks"].append("outside")
    with pytest.raises(AssertionError, match="supernode-2 reaches more"):
        rules.only_the_superlink_has_a_port()
    spec["services"]["superlink"]["command"].append("--fleet-api-adress=0.0.0.0")
    with pytest.raises(AssertionError, match=": superlink: flower-superlink does not accept"):
        rules.each_command_is_understood()
    spec["services"]["superlink"]["command"].append("--host=0.0.0.0")
    with pytest.raises(AssertionError, match="--host"):
        rules.the_superlink_has_a_door()
    spec["services"]["superlink"]["user"] = "0:0"
    with pytest.raises(AssertionError, match=": superlink: user is not 1000:1000"):
        rules.each_container_is_locked_down()


def test_dockerignore_is_read_as_the_engine_does():
    assert files.in_context("fedalign/deploy/certs.py")
    assert files.in_context("docker/constraints.txt")
    assert not files.in_context("docker/README.md")
    assert not files.in_context("fedalign/deploy/__pycache__/certs.cpython-312.pyc")


@pytest.mark.skipif(not (files.HOME / ".git").exists(), reason="not a checkout")
def test_no_key_and_no_data_can_be_committed():
    secret = ["certs/ca.key", "keys/node-1", "keys/st-marys.pub", "data/node-1/train.npz"]
    secret += [
        "state/superlink.db",
        "states/node-1/a/0/b",
        "runs/a/model.safetensors",
        "parts/mine.py",
    ]
    asked = ["git", "check-ignore", *(f"docker/{path}" for path in secret)]
    done = subprocess.run(asked, cwd=files.HOME, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(secret), done.stdout


def test_a_later_file_lies_over_an_earlier_one():
    gpu = files.compose(files.STACKS[1], rules.SETTINGS)["services"]
    assert gpu["supernode-1"]["image"] == f"{rules.SETTINGS['FEDALIGN_IMAGE']}-cuda"
    assert gpu["superlink"]["image"] == rules.SETTINGS["FEDALIGN_IMAGE"]
    assert gpu["supernode-1"]["read_only"]


@pytest.mark.xdist_group("superlink")
@pytest.mark.slow
def test_the_services_work_together_as_processes():
    steps = list(run.steps())
    assert steps[-1] == "no process is left behind"
    assert any(step.startswith("run completed") for step in steps)
