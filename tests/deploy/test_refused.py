"""Who has no business in a federation is not let in, and the logs say why."""

import re
import ssl
import time
from datetime import datetime, timedelta
from http.client import HTTPSConnection

import pytest

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


def test_only_known_nodes_come_in_and_only_over_tls(tmp_path, strange):
    with Local([{"partition-id": 0}], tmp_path, late=1) as local:
        authority = ["--root-certificates", local.superlink.authority]
        own = ["--auth-supernode-private-key", local.key(0)]
        cases = {
            "unknown-key": [*authority, "--auth-supernode-private-key", strange / "key"],
            "no-key": authority,
            "wrong-authority": ["--root-certificates", strange / "ca.crt", *own],
            "plain-text": ["--insecure", "--max-retries", "1"],
        }
        for name, options in cases.items():
            local.start(name, "flower-supernode", *local.node_options(), *options)
        wait_for(local, "unknown-key", r"code: 2004\] Failed to activate SuperNode")
        wait_for(local, "superlink", r"ApiError:2004\] Attempted to register SuperNode with public")
        wait_for(
            local, "no-key", r"SuperNode authentication is enabled. All SuperNodes must be reg"
        )
        wait_for(local, "superlink", r"ApiError:2001\] Attempted to register SuperNode with public")
        wait_for(local, "wrong-authority", r"certificate verify failed: unable to get local issuer")
        wait_for(local, "plain-text", r"(Server disconnected without sending|Connection reset by)")
        for name in cases:
            wait_for(local, name, "Exit Code: 305")
            assert local.running[name].wait(30) == 1
        assert [node["status"] for node in local.superlink.nodes()] == ["registered"]
        door, inside = local.door, local.superlink
        assert [knock(door, inside.authority, path) for path in ELSEWHERE] == [404] * 12
        assert knock(door, inside.authority, "/health") == 200
        assert knock(inside.address, inside.authority, ELSEWHERE[0]) not in (
            404,
            405,
        )  # it is there
        outside = SuperLink(door, inside.authority, tmp_path / "home")
        with pytest.raises(FedalignError, match="flwr run"):
            outside.submit(read(None, {}))
        with pytest.raises(FedalignError, match="flwr supernode"):
            outside.register(make_key(tmp_path / "another"))


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
