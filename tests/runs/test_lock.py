"""One writer for each run folder."""

import json
from pathlib import Path

import pytest

from fedalign.errors import FedalignError, InputError
from fedalign.runs.checkpoint import Checkpoints
from fedalign.runs.folder import RunFolder
from fedalign.runs.lock import LOCK, locked
from fedalign.runs.paths import DamagedManifestError, forget, is_finished, read_manifest
from fedalign.settings.config import read


def test_a_second_writer_is_refused_and_the_first_one_named(tmp_path):
    with locked(tmp_path / "run"):
        with pytest.raises(FedalignError, match=r"run is being written by process \d+ on .*--out"):
            locked(tmp_path / "run").__enter__()
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on another")
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() != "process 1 on another"


def test_a_run_that_goes_on_is_not_forgotten_nor_started_again(run, tmp_path):
    folder = run(rounds=1)
    with locked(folder), pytest.raises(FedalignError, match="is being written"):
        run(rounds=1)
    assert is_finished(folder)
    (folder / "checkpoint.safetensors").touch()
    config = read(str(folder / "config.yaml"), {"out": str(tmp_path)})
    with locked(folder), pytest.raises(FedalignError, match="is being written"):
        forget(config)
    forget(config)
    assert not (folder / "checkpoint.safetensors").exists()


IDENTITIES = [f'{{"status": "finished", "identity": {own}}}' for own in ("5", '{"files": [1]}')]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"status": 3}', "\0" * 400, '"\ud800', *IDENTITIES]
)
def test_a_damaged_manifest_is_named_and_the_run_starts_anew(run, caplog, content):
    folder = run(rounds=1)
    (folder / "manifest.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert not is_finished(folder)
    with pytest.raises(DamagedManifestError, match=r"manifest\.json is damaged: "):
        read_manifest(folder)
    run(rounds=1)
    assert "manifest.json is damaged" in caplog.text
    assert is_finished(folder)


def test_finished_is_said_last(run, monkeypatch):
    """Killed at any moment before, a run is not finished."""
    folder = run(rounds=1)

    def killed(*_):
        raise SystemExit

    for step in (RunFolder, Checkpoints):
        name = "save" if step is RunFolder else "__exit__"
        with monkeypatch.context() as patch:
            patch.setattr(step, name, killed)
            with pytest.raises(SystemExit):
                run(rounds=1)
        assert not is_finished(folder)
        run(rounds=1)
        assert is_finished(folder)
        assert (folder / "model.safetensors").is_file()


def test_what_is_begun_again_is_not_finished_before_anything_is_removed(run, monkeypatch):
    folder, seen, unlink = run(rounds=1), [], Path.unlink

    def note(path, **options):
        seen.append((path.name, is_finished(folder)))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", note)
    run(rounds=1)
    assert ("model.safetensors", False) in seen


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out: cannot write to '.*/file/run'"):
        locked(tmp_path / "file" / "run").__enter__()


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(run, monkeypatch, tmp_path):
    whole = (run().rename(tmp_path / "whole") / "model.safetensors").read_bytes()

    def full(_, new, *__):
        new.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fedalign.runs.trees.save_file", full)
        with pytest.raises(
            FedalignError, match=r"checkpoint\.safetensors: cannot be written: No space left"
        ):
            run()
    (folder,) = (path.parent for path in tmp_path.glob("run-*/manifest.json"))
    assert json.loads((folder / "manifest.json").read_text())["status"].startswith("failed: ")
    run()
    assert (folder / "model.safetensors").read_bytes() == whole
    assert not list(folder.glob("*.tmp"))
