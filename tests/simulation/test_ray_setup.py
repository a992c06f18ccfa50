"""The settings with which Ray is started."""

import os
import signal
import sys
from contextlib import nullcontext, suppress

import pytest

from fedalign.errors import InputError
from fedalign.simulation import ray_setup
from fedalign.simulation.ray_setup import full_backend_config, own_sigterm


class OursError(Exception):
    """What our handler raises."""


def ours(*_):
    raise OursError


def rays(*_):
    sys.exit(signal.SIGTERM)


def received(lost):
    signal.signal(signal.SIGTERM, rays)
    with suppress(SystemExit) if lost else nullcontext():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("lost", [True, False])
def test_sigterm_while_ray_starts_is_ours_even_if_python_drops_what_rays_handler_raises(lost):
    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(OursError), own_sigterm():
            received(lost)
        with own_sigterm():
            signal.signal(signal.SIGTERM, rays)
        assert signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(SystemExit), own_sigterm():
            sys.exit(2)  # of no signal
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("name", "short"), [("/tmp", True), ("/" + "d" * 100, False)])
def test_a_folder_whose_name_is_too_long_for_sockets_is_not_used(name, short, monkeypatch):
    monkeypatch.setenv("TMPDIR", name)
    folder = full_backend_config({})["init_args"].get("_temp_dir", name)
    assert (folder == name) == short
    assert len(folder) <= ray_setup.MAX_FOLDER
    cluster = full_backend_config({"init-args": {"address": "a:1"}})["init_args"]
    assert "_temp_dir" not in cluster


def test_where_no_short_one_can_be_written_tmpdir_is_named(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/" + "d" * 100)
    monkeypatch.setattr(ray_setup, "SHORT", "/no/such/folder")
    with pytest.raises(InputError, match=r"TMPDIR: '/ddd.* is too long for Ray's sockets"):
        full_backend_config({})
