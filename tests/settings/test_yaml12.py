"""YAML 1.2 as settings are written in it; what could blow up or mean two things is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.errors import InputError
from fedalign.settings.config import from_run_config, read
from fedalign.settings.sources import read_tree, split_overrides
from fedalign.settings.yaml12 import UnusableYAMLError, dump, parse

VALUES = {
    "010": 10, "0o17": 15, "0x1f": 31, "+5": 5, "1e-3": 0.001, "1.": 1.0, ".5": 0.5, "-1E2": -100.0,
    "yes": "yes", "on": "on", "True": True, "2024-99-99": "2024-99-99", "12:30": "12:30",
    "1_000": "1_000", "0b1": "0b1", "~": None, "": None, "'010'": "010", ".inf": math.inf,
    "[1, {a: b}]": [1, {"a": "b"}],
    "a: &x {b: 1}\nc: {<<: *x, d: 2}": {"a": {"b": 1}, "c": {"b": 1, "d": 2}},
}  # fmt: skip
BOMB = "rounds: [&a0 [x,x,x,x,x,x,x,x,x,x]" + "".join(
    f", &a{i + 1} [{','.join([f'*a{i}'] * 10)}]" for i in range(9)
)
REFUSED = {
    BOMB + "]": "line 1: holds more than 100000 values",
    "&a [*a]": r"line 1: \*a stands for nothing before it",
    "[" * 3000: "line 1: nested deeper than 30 levels",
    "a: 1\nb: 2\na: 3": "line 3: 'a' is given twice",
    "x: {a: 1, a: 1}": "line 1: 'a' is given twice",
    "{1: 2}": "line 1: the key 1 is not a text",
    "null: 2": "line 1: the key None is not a text",
    "? [a]\n: 1": r"line 1: the key \['a'\] is not a text",
    "!!int x": "line 1: tags such as tag:yaml.org,2002:int are not allowed",
    "a: !!python/object:os.system x": "line 1: tags such as .* are not allowed",
    "9" * 5000: "4300 digits",
    "a\x00": "special characters are not allowed",
    "--- 1\n--- 2": "line 2: but found another document",
    "x" * (1 << 21): "holds 2097152 characters, more than 1048576",
}


@pytest.mark.parametrize("text", VALUES)
def test_what_a_text_stands_for(text):
    found = parse(text)
    assert (found, type(found)) == (VALUES[text], type(VALUES[text]))


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_is_refused(text):
    with pytest.raises(UnusableYAMLError, match=REFUSED[text]):
        parse(text)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text() | st.sampled_from(["1e5", "010", "08", "0o7", "yes", "12:30", "2024-01-01", "."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
))  # fmt: skip
def test_what_is_written_is_read_again(tree):
    assert parse(dump(tree)) == tree


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: \xff", "mine.yaml: byte 7 is not UTF-8"),
        (b"rounds: 1\nrounds: 2", "mine.yaml: is not YAML for settings: line 2: 'rounds' is gi"),
        (b"seed: 2024-99-99", "mine.yaml: seed: '2024-99-99' is not allowed"),
        (b"rounds: [" + b"x, " * 9000 + b"]", r"rounds: \['x', .* … .* is not allowed"),
    ],
)
def test_a_file_that_is_refused_is_named_with_the_place(content, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read("mine.yaml", {})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 2}}'])
def test_json_is_read_as_strictly(text):
    with pytest.raises(InputError, match="is given twice"):
        read_tree(text)


def test_json_keeps_its_characters():
    tree = {"a": "\N{GRINNING FACE} \u2028", "b": 1e-7}
    assert read_tree(json.dumps(tree)) == tree


@pytest.mark.parametrize("key", ["client.lr", "timeout", "evaluation.holdout", "partition.alpha"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "inf", "nan"])
def test_no_number_is_infinite(key, value):
    with pytest.raises(InputError, match=key):
        read(None, {key: value})


def test_values_in_a_run_config_may_hold_spaces():
    text = "name=x  data=folder data.dir=/my own/files rounds=3 client.lr=0.1"
    words = split_overrides(text)
    assert words == ["name=x", "data=folder", "data.dir=/my own/files", "rounds=3", "client.lr=0.1"]
    config = from_run_config({"overrides": text})
    assert config.data.options["dir"] == "/my own/files"
    assert config.client.options["lr"] == 0.1
