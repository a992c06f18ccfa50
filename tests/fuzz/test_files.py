"""Files of data, models and checkpoints that are nearly right."""

import csv
import gzip
import io
import json
import zipfile
import zlib
from functools import cache

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

from fedalign.data import Dataset
from fedalign.data.folder import FolderData
from fedalign.data.formats import idx_bytes, read_idx
from fedalign.data.leaf import LEAF
from fedalign.errors import InputError
from fedalign.landscape.files import read as read_model
from fedalign.models.mlp import mlp
from fedalign.network.network import Network
from fedalign.rng import rng
from fedalign.runs.trees import DamagedError
from fedalign.runs.trees import read as read_tree
from fedalign.runs.trees import write as write_tree
from tests.fuzz.harness import bounded, fuzzed
from tests.fuzz.mutation import ODD, bytes_of, pick, tree_of

IMAGES = [
    *(np.arange(6 * 16, dtype=np.uint8).reshape(shape) for shape in ((6, 4, 4), (6, 4, 4, 1))),
    *(np.zeros(shape, np.uint8) for shape in ((6, 3, 4, 4), (6, 4, 4, 3), (0, 4, 4), (6, 0, 4))),
    *(np.zeros((6, 4, 4), kind) for kind in (np.int8, np.float32, ">u2", bool, "U2")),
    *(np.zeros((6,) + (1,) * 30, np.uint8), np.float64(3), np.zeros((3, 4), "M8[s]")),
]
LABELS = [
    *(np.arange(6) % 3, np.arange(6, dtype=np.int8) % 2, np.array(list("abcabc"))),
    *(np.arange(6)[:, None], np.full(6, 50_000_000), np.array([0, 1, 2, 3, 4, 2**63], np.uint64)),
    *(np.array([0, -1, 1, 0, 1, 0]), np.zeros(6, np.int64), np.zeros(6), np.array([b"a"] * 6)),
    *(np.zeros(5, np.int64), np.array(["", "a"] * 3), np.array(["a\n", "é"] * 3)),
]
HEADERS = [
    *(b"(9999999999999,)", b"(-1,)", b"(6, 4, 4)", b"(True,)", b"'|O'", b"'<U9'", b"'|u1'"),
    *(b"[('a','u1')]", b"__import__('os')", b"(" * 500, b"\x93NUMPY", b"\x02\x00", b"PK\x05\x06"),
]


def zipped(draw, members):
    """Return an archive of NumPy files, some of them changed inside with a checksum that fits."""
    buffer = io.BytesIO()
    way = pick(draw, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(buffer, "w", way) as archive:
        for name, content in members.items():
            array = io.BytesIO()
            np.save(array, content)
            raw = array.getvalue()
            raw = bytes_of(draw, raw, HEADERS) if draw.integers(6) == 0 else raw
            archive.writestr(pick(draw, [f"{name}.npy"] * 20 + [name, f"{name}.txt", "x.npy"]), raw)
    whole = buffer.getvalue()
    return bytes_of(draw, whole, HEADERS) if draw.integers(4) == 0 else whole


@fuzzed
def test_archives(tmp_path, seeds):
    for seed in seeds:
        draw = rng(seed, "fuzz", "npz")
        images = pick(draw, IMAGES[:4] if draw.integers(2) else IMAGES)
        labels = pick(draw, LABELS[:4] if draw.integers(2) else LABELS)
        content = zipped(draw, {"images": images, "labels": labels})
        (tmp_path / "train.npz").write_bytes(content)
        with bounded(seed, len(content), InputError):
            data = FolderData(str(tmp_path)).load("train")
            with np.load(io.BytesIO(content)) as stored:  # a second reader
                images, labels = (stored[name] for name in ("images", "labels"))
            assert len(data) == len(images)
            if images.ndim == 3:
                assert np.array_equal(data.images[:, 0], images)
            named = [data.spec.labels[label] for label in data.labels.tolist()]
            assert named == [str(label) for label in labels.reshape(-1).tolist()]


@fuzzed
def test_idx(tmp_path, seeds):
    whole = [idx_bytes(array) for array in (np.arange(24, dtype=np.uint8).reshape(2, 3, 4),)]
    whole.append(idx_bytes(np.arange(7, dtype=np.uint8)))
    tokens = [b"\0\0\x08\x03", b"\0\0\x08\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\x0d\x01"]
    for seed in seeds:
        draw = rng(seed, "fuzz", "idx")
        content = bytes_of(draw, pick(draw, whole), tokens)
        file, stored = tmp_path / "x", content
        if draw.integers(2):
            file, stored = tmp_path / "x.gz", gzip.compress(content)
            stored = bytes_of(draw, stored) if draw.integers(2) else stored
        file.write_bytes(stored)
        with bounded(seed, len(stored), InputError):
            array = read_idx(file)
            try:
                written = gzip.decompress(stored) if file.suffix else stored
            except (OSError, EOFError, zlib.error):
                raise AssertionError("a damaged archive is read") from None
            assert idx_bytes(array) == written


def picture(draw, file):
    """Write a small image, now and then a damaged one or something else."""
    size = pick(draw, [(4, 4)] * 9 + [(1, 1), (4, 5)])
    mode = pick(draw, ["L"] * 12 + ["RGB", "RGBA", "1", "I;16", "P"])
    Image.new(mode, size).save(file, "PNG")
    if draw.integers(8) == 0:
        file.write_bytes(bytes_of(draw, file.read_bytes()))


@fuzzed
def test_lists_of_images(tmp_path, seeds):
    tokens = [b",", b'"', b"\n", b"\x00", b"\xff", b"file", b"label", b"../x", b"/dev/zero", b"\r"]
    names = [f"{number}.png" for number in range(4)]
    for seed in seeds:
        draw = rng(seed, "fuzz", "csv")
        for name in names:
            picture(draw, tmp_path / name)
        rows = [("file", "label"), *((name, pick(draw, "abc")) for name in names)]
        content = "\n".join(map(",".join, rows)).encode()
        if draw.integers(2):
            content = bytes_of(draw, content, tokens)
        (tmp_path / "train.csv").write_bytes(content)
        with bounded(seed, len(content), InputError):
            data = FolderData(str(tmp_path)).load("train")
            text = io.StringIO(content.decode("utf-8-sig"), newline="")
            listed = list(csv.DictReader(text, skipinitialspace=True))
            assert [row["label"] for row in listed] == [
                data.spec.labels[label] for label in data.labels.tolist()
            ]


TEXTS = {
    "users": ["a", "b"],
    "num_samples": [2, 1],
    "user_data": {"a": {"x": ["abc", "bcd"], "y": ["d", "e"]}, "b": {"x": ["xyz"], "y": ["!"]}},
}
PIXELS = {
    "users": ["a", "b"],
    "num_samples": [2, 1],
    "user_data": {
        "a": {"x": [[0, 0.5, 1, 0.25], [1, 1, 1, 1]], "y": [3, 61]},
        "b": {"x": [[0, 0, 0, 0]], "y": [0]},
    },
}
PLAIN = [value for value in ODD if not isinstance(value, bytes) and not hasattr(value, "year")]


@fuzzed
def test_leaf(tmp_path, seeds):
    for part in ("train", "test"):
        (tmp_path / part).mkdir(exist_ok=True)
    (tmp_path / "test/x.json").write_text(json.dumps(TEXTS))
    tokens = [
        b"[" * 3000,
        b"NaN",
        b"1e999",
        b"-1",
        b'"',
        b"\xff",
        b"null",
        b",",
        b"{}",
        b"9" * 5000,
    ]
    for seed in seeds:
        draw = rng(seed, "fuzz", "leaf")
        tree, usual = pick(draw, [TEXTS, PIXELS]), ["abc", "z", [0, 1, 0.5, 1], 0, 1, 0.1] * 9
        for _ in range(int(draw.integers(3))):
            tree = tree_of(draw, tree, [*usual, *PLAIN, ["abc"], [[0, 1, 0, 1]]])
        content = json.dumps(tree).encode()
        if draw.integers(3) == 0:
            content = bytes_of(draw, content, tokens)
        (tmp_path / "train/x.json").write_bytes(content)
        with bounded(seed, len(content), InputError):
            data = LEAF(str(tmp_path)).load("train")
            users = json.loads(content)["user_data"]
            assert data.group_names
            counts = np.bincount(data.groups, minlength=len(data.group_names))
            for name, count in zip(data.group_names, counts, strict=True):
                assert len(users[name]["y"]) == count
            if data.is_text:
                assert {len(x) for name in data.group_names for x in users[name]["x"]} == {
                    data.shape[0]
                }
            else:
                labels = [y for name in data.group_names for y in users[name]["y"]]
                assert data.labels.tolist() == labels


@cache
def network():
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    data = Dataset(images, torch.arange(3), 3, (0.5,), (0.5,), "made up")
    return Network(mlp(shape=(1, 2, 2), classes=3, width=4), data, torch.device("cpu"))


@fuzzed
def test_models(tmp_path, seeds):
    state = network().module.state_dict()
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    odd = [torch.int64, torch.bool, torch.float8_e4m3fn, torch.uint8]
    tokens = [b'"F32"', b'"F4"', b'"C64"', b'"X"', b"[", b"-1", b"\xff" * 8, b"999999999999", b"{"]
    for seed in seeds:
        draw = rng(seed, "fuzz", "safetensors")
        tensors = {key: value.to(pick(draw, kinds), copy=True) for key, value in state.items()}
        name = pick(draw, list(tensors))
        way = int(draw.integers(6))
        if way == 0:
            tensors[pick(draw, ["x", f"{name}x", ""])] = tensors.pop(name)
        elif way == 1:
            tensors[name] = tensors[name].to(pick(draw, odd))
        elif way == 2:
            tensors[name] = tensors[name].flatten()[: int(draw.integers(9))]
        elif way == 3:
            tensors[name].view(-1)[0] = pick(draw, [float("nan"), float("inf"), 0.0, 3e38])
        content = save({key: value.contiguous() for key, value in tensors.items()})
        if draw.integers(2):
            content = bytes_of(draw, content, tokens)
        (tmp_path / "x.safetensors").write_bytes(content)
        with bounded(seed, len(content), InputError):
            vector = read_model(tmp_path / "x.safetensors", network())
            stored = load(content)
            for entry in network().layout.entries:
                assert torch.equal(entry.view(vector), stored[entry.name].float())


@fuzzed
def test_checkpoints(tmp_path, seeds):
    file, tree = tmp_path / "x", {"a": np.arange(5.0), "b": [1, "x", None], "c": (b"y", 0.5)}
    write_tree(file, tree)
    whole = file.read_bytes()
    for seed in seeds:
        content = bytes_of(rng(seed, "fuzz", "checkpoint"), whole, [b"1", b"}", b"\xff" * 8])
        file.write_bytes(content)
        with bounded(seed, len(content), DamagedError):
            assert repr(read_tree(file)) == repr(tree)
