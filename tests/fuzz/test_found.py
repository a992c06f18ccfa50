"""What the fuzzers have found, and other inputs of its kind, each with the words for it."""

import gzip
import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from fedalign.data import Spec, formats
from fedalign.data.folder import FolderData
from fedalign.data.leaf import LEAF
from fedalign.data.shakespeare import read_plays
from fedalign.errors import InputError
from fedalign.settings.config import read

MANY = {"users": ["a"], "num_samples": ["b" * 9999], "user_data": {"a": {"x": [], "y": []}}}
SMALL = {"images": np.zeros((6, 4, 4), np.uint8), "labels": np.arange(6) % 2}


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(folder, **members):
    """Write an archive of arrays, or of bytes as they are."""
    with zipfile.ZipFile(folder / "train.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            raw = content if isinstance(content, bytes) else npy(content)
            file.writestr(f"{name}.npy", raw)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (
            {"labels": np.full(6, 50_000_000)},
            "train.npz: labels holds 50000000, and a label is at most",
        ),
        ({"labels": np.array([2**64 - 1] * 6, np.uint64)}, "labels holds 18446744073709551615"),
        ({"labels": b"no array"}, "not a readable .npz with labels: .*magic string"),
        ({"images": npy(SMALL["images"]).replace(b"}", b"(")}, "not a readable .npz with images: "),
        (
            {"images": npy(SMALL["images"]).replace(b"(6, 4, 4)", b"(6,99999)")},
            "is not the 599994 bytes of uint8",
        ),
        ({"images": npy(SMALL["images"])[:-1]}, "images.npy is not the 96 bytes of uint8"),
        ({"labels": b"\x93NUMPY\x03\x00" + bytes(99)}, "version"),
    ],
)
def test_archives(tmp_path, members, words):
    archive(tmp_path, **(SMALL | members))
    with pytest.raises(InputError, match=words):
        FolderData(str(tmp_path)).load("train")


def test_what_unpacks_to_much_more_than_its_size_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(formats, "MIN_LIMIT", 1000)
    archive(tmp_path, images=np.zeros((6, 500, 500), np.uint8), labels=SMALL["labels"])
    with pytest.raises(InputError, match=r"train.npz: .*: it unpacks to more than 0 MiB"):
        FolderData(str(tmp_path)).load("train")
    for name, reader in (("x.gz", formats.read_idx), ("shakespeare.txt.gz", read_plays)):
        (tmp_path / name).write_bytes(gzip.compress(bytes(1_000_000)))
        with pytest.raises(InputError, match=rf"{name}: .*: it unpacks to more than 0 MiB"):
            reader(tmp_path / name)


def test_a_file_of_several_parts_is_unpacked_as_gzip_does(tmp_path):
    parts = formats.idx_bytes(np.arange(6, dtype=np.uint8))
    packed = gzip.compress(parts[:5]) + gzip.compress(parts[5:]) + bytes(9)
    (tmp_path / "x.gz").write_bytes(packed)
    assert gzip.decompress(packed) == parts
    assert formats.read_idx(tmp_path / "x.gz").tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("form", ["list", "folders", "idx", "leaf"])
def test_nobody_waits_for_a_pipe(tmp_path, form):
    places = {"list": "x.png", "folders": "a/x.png", "idx": "x", "leaf": "train/x.json"}
    pipe = tmp_path / places[form]
    pipe.parent.mkdir(exist_ok=True)
    (tmp_path / "test").mkdir()
    os.mkfifo(pipe)
    if form == "list":
        (tmp_path / "train.csv").write_text("file,label\nx.png,a\nx.png,b\n")
    readers = {
        "idx": lambda: formats.read_idx(pipe),
        "leaf": lambda: LEAF(str(tmp_path)).load("train"),
    }
    with pytest.raises(InputError, match=f"{pipe}: .*not a file"):
        readers.get(form, lambda: FolderData(str(tmp_path), labels="a b").load("train"))()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "RecursionError"),
        (json.dumps(MANY), "must be lists of num_samples=bbb"),
        (
            json.dumps({"users": ["a"], "user_data": {"a": {"x": [[10**400]], "y": [1]}}}),
            "too large",
        ),
        (
            json.dumps({"users": ["a"], "user_data": {"a": {"x": [["b" * 9999]], "y": [1]}}}),
            "not con",
        ),
    ],
)
def test_leaf(tmp_path, content, words):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "train/x.json").write_bytes(raw)
    with pytest.raises(InputError, match=words) as caught:
        LEAF(str(tmp_path)).load("train")
    assert len(str(caught.value)) < 500


def test_an_image_that_says_it_is_huge_is_refused_before_it_is_unpacked(tmp_path):
    raw = io.BytesIO()
    Image.new("L", (2, 2)).save(raw, "BMP")
    huge = raw.getvalue().replace(struct.pack("<ii", 2, 2), struct.pack("<ii", 9_000, 9_000))
    (tmp_path / "a.bmp").write_bytes(huge)
    (tmp_path / "train.csv").write_text("file,label\na.bmp,a\na.bmp,b\n")
    with pytest.raises(
        InputError, match=r"a.bmp: not a readable image: it unpacks to more than 64 MiB"
    ):
        FolderData(str(tmp_path)).load("train")


def test_memory_is_not_asked_for_before_an_image_is_looked_at(tmp_path):
    for name in "ab":
        Image.new("L", (2, 2)).save(tmp_path / f"{name}.png")
    (tmp_path / "train.csv").write_text("file,label\na.png,a\nb.png,b\n")
    with pytest.raises(InputError, match=r"a.png: an image of 1x2x2 .* has 3x999999x999999"):
        FolderData(str(tmp_path), image_shape="3x999999x999999").load("train")


def test_classes_without_end_are_refused():
    with pytest.raises(ValueError, match="classes: 100001 must be from 1 to 65536"):
        Spec((1, 2, 2), 100_001, (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("source", "override", "words"),
    [
        ("quickstart", {"int": 1}, "int: no such setting"),
        ("quickstart", {"float.x": 1}, "float: no such setting"),
        ("x" * 5000, {}, "no such file"),
        ("quickstart", {"model": "y" * 5000}, "is not a model"),
    ],
)
def test_settings(source, override, words):
    with pytest.raises(InputError, match=words) as caught:
        read(source, override)
    assert len(str(caught.value)) < 2000
