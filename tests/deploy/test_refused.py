"""Who has no business in a federation is not let in, and the logs say why."""

import re
import ssl
import time
from datetime import datetime, timedelta
from http.client import HTTPSConnection

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supernode import fleet_http_connection

from fedalign.deploy import certs
from fedalign.deploy.certs import certify, make_key
from fedalign.deploy.health import is_up
from fedalign.deploy.local import Local
from fedalign.deploy.processes import Processes, free_port
from fedalign.deploy.superlink import SuperLink
from fedalign.errors import FedalignError
from fedalign.settings.config import read


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A key and an authority that nobody knows."""
    folder = tmp_path_factory.mktemp("strange")
    certify(folder, [])
    make_key(folder / "key")
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A SuperLink that knows one node, which is not there."""
    with Local([{"partition-id": 0}], tmp_path_factory.mktemp("logs"), late=1) as local:
        yield local


pytestmark = pytest.mark.xdist_group("superlink")


def wait_for(local, name, pattern, timeout=60):
    until = time.monotonic() + timeout
    while not (found := re.search(pattern, local.log(name))):
        assert time.monotonic() < until, local.log(name)
        time.sleep(0.2)
    return found


ELSEWHERE = (
    *("/v1/runtime/acquire-task", "/v1/runtime/push-messages", "/v1/control/start-run"),
    *("/v1/control/register-node", "/docs", "/openapi.json", "/", "/v1/fleet", "/v1/fleets/x"),
    *("/health/x", "/v1/fleet/../runtime/acquire-task", "/v1/fleet/%2e%2e/runtime/acquire-task"),
)


def knock(address, authority, path, body=b""):
    """The status with which an address answers somebody without a key."""
    context = ssl.create_default_context(cafile=authority)
    host, port = address.split(":")
    link = HTTPSConnection(host, int(port), context=context, timeout=20)
    link.request("POST" if path != "/health" else "GET", path, body)
    return link.getresponse().status


def strangers(local, strange):
    """Who comes, by name: the authority it believes, its key, and why it is not let in."""
    known = local.superlink.authority
    return {
        "unknown-key": (known, strange / "key", r"code: 2004\] Failed to activate SuperNode"),
        "no-key": (known, None, "SuperNode authentication is enabled. All SuperNodes must be reg"),
        "wrong-authority": (
            strange / "ca.crt",
            local.key(0),
            "certificate verify failed: unable to get local issuer",
        ),
        "plain-text": (None, None, "(Server disconnected without sending|Connection reset by)"),
    }


def test_only_known_nodes_come_in_and_only_over_tls(local, strange, monkeypatch):
    """They connect as `flower-supernode` does, which would end this process."""

    def leave(code, message):
        raise SystemExit(f"Exit Code: {code} {message}")

    monkeypatch.setattr(fleet_http_connection, "flwr_exit", leave)
    for authority, file, why in strangers(local, strange).values():
        key = load_ssh_private_key(file.read_bytes(), None) if file else None
        with (
            pytest.raises(SystemExit, match=f"Exit Code: 305 (.|\n)*{why}"),
            fleet_http_connection.http_request_response(
                local.door,
                authority is None,
                authority and authority.read_bytes(),
                key and (key, key.public_key()),
                max_retries=0,
            ),
        ):
            pass
    check_nobody_is_in(local)


def check_nobody_is_in(local):
    """That the SuperLink says whom it has refused, and has no more than its node."""
    for code in (2001, 2004):
        wait_for(local, "superlink", rf"ApiError:{code}\] Attempted to register SuperNode with pub")
    assert [node["status"] for node in local.superlink.nodes()] == ["registered"]


def test_from_outside_nothing_but_the_fleet_is_there(local, tmp_path):
    door, inside = local.door, local.superlink
    assert [knock(door, inside.authority, path) for path in ELSEWHERE] == [404] * 12
    assert knock(door, inside.authority, "/health") == 200
    assert knock(inside.address, inside.authority, ELSEWHERE[0]) not in (404, 405)  # it is there
    outside = SuperLink(door, inside.authority, tmp_path / "home")
    with pytest.raises(FedalignError, match="flwr run"):
        outside.submit(read(None, {}))


@pytest.mark.slow
def test_a_supernode_that_is_not_let_in_says_why(local, strange):
    cases = strangers(local, strange)
    for name, (authority, key, _) in cases.items():
        words = ["--root-certificates", authority] if authority else ["--insecure"]
        words += ["--auth-supernode-private-key", key] if key else []
        options = (*local.node_options(), "--max-retries", "1", "--isolation", "process")
        local.start(name, "flower-supernode", *options, *words)
    for name, (_, _, why) in cases.items():
        wait_for(local, name, why)
        wait_for(local, name, "Exit Code: 305")
        assert local.running[name].wait(30) == 1
    check_nobody_is_in(local)


@pytest.fixture
def expired(tmp_path, monkeypatch, serve):
    """The address of a server whose certificate has expired, and its authority."""

    class Past(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) - timedelta(days=400)

    monkeypatch.setattr(certs, "datetime", Past)
    certify(tmp_path, [], days=30)
    return serve(tmp_path), tmp_path / "ca.crt"


EXPIRED = "certificate verify failed: certificate has expired"


def test_a_certificate_that_has_expired_is_not_believed(expired):
    with pytest.raises(FedalignError, match=EXPIRED):
        is_up(*expired)


@pytest.mark.slow
def test_a_node_does_not_believe_it_either(tmp_path, expired):
    address, authority = expired
    make_key(tmp_path / "key")
    with Processes(tmp_path) as node:
        options = ["--superlink", address, "--port", str(free_port())]
        options += ["--root-certificates", authority]
        options += ["--auth-supernode-private-key", tmp_path / "key"]
        node.start("node", "flower-supernode", *options)
        wait_for(node, "node", EXPIRED)
        assert node.running["node"].wait(30) == 1
