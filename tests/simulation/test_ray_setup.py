"""The settings with which Ray is started."""

import pytest

from fedalign.errors import InputError
from fedalign.simulation import ray_setup
from fedalign.simulation.ray_setup import full_backend_config


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
