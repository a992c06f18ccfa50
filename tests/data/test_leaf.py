import json

import numpy as np
import pytest
import torch

from fedalign.data.leaf import LEAF
from fedalign.data.text import LETTERS
from fedalign.errors import InputError


def write(folder, part, **users):
    """A file of users, each an x and a y, as LEAF writes it."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {name: {"x": x, "y": y} for name, (x, y) in users.items()},
    }
    number = len(list((folder / part).glob("*.json")))
    (folder / part / f"all_data_{number}.json").write_text(json.dumps(content))


def raw(folder, content):
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "data.json").write_text(content)


def test_pixels_of_writers_come_back_as_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    x = (pixels.reshape(5, -1) / 255).tolist()
    write(tmp_path, "train", f0001=(x[:2], [61, 0]), nobody=([], []))
    write(tmp_path, "train", f0002=(x[2:3], [7]), f0001=(x[3:4], [8]))
    write(tmp_path, "test", f0003=(x[4:], [9]))
    train, test = (LEAF(dir=str(tmp_path)).load(part) for part in ("train", "test"))
    assert torch.equal(train.images, torch.from_numpy(pixels[:4, None]))
    assert train.labels.tolist() == [61, 0, 7, 8]
    assert (train.groups.tolist(), train.group_names) == ([0, 0, 1, 0], ("f0001", "f0002"))
    assert (train.classes, train.mean, train.std) == (62, (0.0,), (1.0,))
    assert (test.labels.tolist(), test.group_names) == ([9], ("f0003",))
    assert train.source.startswith(f"LEAF's JSON, train part, 2 users, from {tmp_path}/train (data")


def test_text_of_speakers_comes_back_letter_by_letter(tmp_path):
    write(tmp_path, "train", A=(["To be", "o be "], [" ", "o"]), B=(["é be,"], ["\n"]))
    write(tmp_path, "test", A=(["be or"], [" "]))
    train = LEAF(dir=str(tmp_path)).load("train")
    texts = ["".join((LETTERS + "#")[code] for code in row) for row in train.images.tolist()]
    assert texts == ["To be", "o be ", "# be,"]
    assert [LETTERS[label] for label in train.labels.tolist()] == [" ", "o", "\n"]
    assert (train.is_text, train.classes) == (True, 81)
    assert train.groups.tolist() == [0, 0, 1]


def test_max_examples_limits_the_training_part_and_keeps_owners(tmp_path):
    users = {f"u{i}": ([[i / 10] * 4] * 3, [i] * 3) for i in range(5)}
    for part in ("train", "test"):
        write(tmp_path, part, **users)
    source = LEAF(dir=str(tmp_path), max_examples=6)
    assert (len(source.load("train")), len(source.load("test"))) == (6, 15)
    assert torch.equal(source.load("train").labels, source.load("train").groups)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[0.5] * 4], [1, 2], r"x and y must be lists of num_samples=2"),
        ([[0.5] * 4], [62], r"labels 62\.\.62 are outside 0\.\.61"),
        ([[0.5] * 4], [1.5], "with whole numbers as y: x"),
        ([[0.5] * 4], ["a"], "with whole numbers as y: x"),
        ([[0.5] * 4, [0.5] * 9], [1, 2], "x must be strings, or flat lists of equal length"),
        ([[[0.5] * 2] * 2], [1], "x must be strings, or flat lists"),
        ([["a", "tweet"]], [1], "x must be strings, or flat lists"),
        ([[0.5] * 5], [1], "5 pixels do not make a square"),
        ([[128] * 4], [1], r"pixels 128\.\.128 are outside 0\.\.1"),
        ([[float("nan")] * 4], [1], r"pixels nan\.\.nan are outside 0\.\.1"),
        (["ab", "c"], ["d", "e"], r"strings must have equal lengths, not \[1, 2\]"),
        ([""], ["a"], r"strings must have equal lengths, not \[0\]"),
        (["ab"], ["cd"], "each y must be one character"),
        (["ab"], [3], "each y must be one character"),
    ],
)
def test_what_a_user_may_not_have_is_named_with_file_and_user(tmp_path, x, y, message):
    for part in ("train", "test"):
        write(tmp_path, part, ann=(x, y))
    with pytest.raises(InputError, match=f"train.*{message}") as error:
        LEAF(dir=str(tmp_path)).load("train")
    if "62" not in message:
        assert f"{tmp_path}/train/all_data_0.json: user_data.ann" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"users": ["a"]}',
        '{"users": ["a"], "user_data": {"b": {"x": [], "y": []}}}',
        '{"users": ["a"], "user_data": {"a": []}}',
        '{"users": ["a"], "num_samples": [1, 2], "user_data": {"a": {"x": [], "y": []}}}',
        '{"users": ["a"], "num_samples": [0], "user_data": {"a": 5}}',
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, content):
    raw(tmp_path, content)
    with pytest.raises(InputError, match=r"train/data\.json: not JSON with users, num_samples"):
        LEAF(dir=str(tmp_path)).load("train")


def test_users_whose_examples_differ_in_form_are_refused(tmp_path):
    write(tmp_path, "train", a=([[0.5] * 4], [1]))
    write(tmp_path, "train", b=([[0.5] * 9], [1]))
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match=r"user_data\.b: x has shape \(1, 3, 3\), others \(1, 2"):
        LEAF(dir=str(tmp_path)).load("train")
    with pytest.raises(InputError, match=r"test: no \.json file holds an example"):
        LEAF(dir=str(tmp_path)).load("test")


def test_images_are_not_shakespeare(tmp_path):
    from fedalign.data.shakespeare import Shakespeare

    for part in ("train", "test"):
        write(tmp_path, part, a=([[0.5] * 4], [1]))
    with pytest.raises(InputError, match=r"holds images, not text; use data\.name: leaf"):
        Shakespeare(dir=str(tmp_path)).load("train")
