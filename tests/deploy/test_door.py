"""From outside, a SuperLink serves what SuperNodes need, and nothing else."""

import asyncio
from importlib import import_module
from types import SimpleNamespace

import pytest
import uvicorn

from fedalign.deploy import door
from fedalign.deploy.door import FLOWER, MAX_BODY, Door


def ask(path, kind="http", **headers):
    """The status with which the door answers; 200 if it asks the app behind it."""
    said = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(event):
        said.append(event)

    named = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    asyncio.run(Door(app)({"type": kind, "path": path, "headers": named}, None, send))
    return said[0]["status"] if said else None


@pytest.mark.parametrize("path", ["/health", "/v1/fleet/activate-node", "/v1/fleet/push-messages"])
def test_what_supernodes_need_is_passed_on(path):
    assert ask(path) == 200


@pytest.mark.parametrize("path", [
    "/", "", "/docs", "/openapi.json", "/v1/control/start-run", "/v1/runtime/acquire-task",
    "/v1/fleet",
    "/v1/fleets/a", "/V1/FLEET/a", "//v1/fleet/a", "/health/", "/v1/runtime/v1/fleet/a",
])  # fmt: skip
def test_nothing_else_is(path):
    assert ask(path) == 404


def test_a_request_is_limited_before_it_is_read():
    assert ask("/v1/fleet/push-object", content_length=str(MAX_BODY)) == 200
    assert ask("/v1/fleet/push-object", content_length=str(MAX_BODY + 1)) == 413
    assert ask("/v1/fleet/push-object", content_length="-1") == 413
    assert ask("/v1/fleet/push-object", transfer_encoding="chunked") == 413


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_only_requests_come_through(kind):
    assert ask("/v1/fleet/a", kind) is None


def test_flower_runs_its_app_as_the_door_expects(monkeypatch):
    """By `uvicorn.run`, on loopback; this is private in Flower."""
    flower, ran = import_module(FLOWER), []
    assert flower.uvicorn is uvicorn or hasattr(flower.uvicorn, "run")
    monkeypatch.setattr(
        flower, "_run_superlink_http_api", lambda lifespan_config: ran.append(lifespan_config)
    )
    monkeypatch.setattr(flower, "uvicorn", flower.uvicorn)  # restored afterwards
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setattr(flower, "event", lambda *_: None)
    door.serve("0.0.0.0", 8000, ["--insecure", "--port", "8001"])
    assert (ran[0].host, ran[0].port) == ("127.0.0.1", 8001)
    source = SimpleNamespace(names=flower.flower_superlink.__code__.co_names)
    assert "_run_superlink_http_api" in source.names
