"""Configurations, overrides, run configs and sweeps that are nearly right."""

import json
import math

import yaml
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.errors import InputError
from fedalign.rng import rng
from fedalign.settings.config import from_run_config, read
from fedalign.settings.layers import flatten
from fedalign.settings.registry import HOME
from fedalign.simulation import parse_run_config
from fedalign.studies.plan import plan
from fedalign.studies.sweep import read_sweep
from tests.fuzz.harness import bounded, fuzzed
from tests.fuzz.mutation import ODD, bytes_of, pick, text_of, tree_of

FILES = sorted((HOME / "configs").glob("*.yaml")) + sorted((HOME / "configs/algorithms").glob("*"))
TOKENS = [
    *(b"&a", b"*a", b"&a [*a, *a]", b"<<: *a", b"!!int x", b"!!python/name:os.system", b"!!binary"),
    *(b": ", b"\n", b"\n  ", b"- ", b"? ", b"| ", b"{", b"}", b"[" * 3000, b"\x00", b"\xff\xfe"),
    *(b"\xff", b"\t", b"#", b"2024-99-99", b"010", b"1e3", b".inf", b".nan", b"0x1F", b"~", b"'"),
    *(b"rounds: 3\nrounds: 4\n", b"1:20", b"---\n", b"%YAML 9\n", b"\xe2\x80\xa8", b"name: "),
]
SWEEP = {
    "rounds": 2,
    "model": {"width": 8},
    "sweep": {
        "title": "t",
        "base": "quickstart",
        "grid": {"strategy.fixed_ratio": [0.2, 0.4]},
        "pairs": {"client.lr": [0.1, 0.2], "rounds": [1, 2]},
        "seeds": [0, 1],
        "arms": {
            "A": {"strategy": "fedavg"},
            "B": {"strategy": "fedpnu", "grid": {"strategy.fixed_ratio": [0.3]}},
        },
        "baseline": "A",
        "figure": {"kind": "sweep", "x": "strategy.fixed_ratio", "log": True},
        "table": ["accuracy"],
    },
}
FULL = read("quickstart", {}).model_dump()
KEYS = [*flatten(FULL), *FULL, "alpha", "config", "overrides"]


def arrives(config):
    """A configuration is of finite numbers, and survives its way to the clients."""
    there = from_run_config(config.run_config())
    assert there == config
    assert there.digest() == config.digest()
    for place, value in flatten(config.model_dump()).items():
        assert not isinstance(value, float) or math.isfinite(value), f"{place} is {value}"


def means(tree, config):
    """What was written stands where it was written; a second reader sees all of it as text."""
    found = flatten(config.model_dump())
    for place, text in flatten(tree).items():
        there = found.get(place, found.get(f"{place}.name", text))
        assert same(text, there), (place, text, there)


def same(text, there):
    """Whether a value is what was written as this text."""
    if text == str(there) or text == there:
        return True
    if isinstance(there, list):  # one thing needs no list
        texts = text if isinstance(text, list) else [text]
        return len(texts) == len(there) and all(map(same, texts, there))
    if there is None:
        return text.lower() in ("null", "none", "~", "")
    if isinstance(there, bool):
        return text.lower() in (("true", "1", "yes", "on"), ("false", "0", "no", "off"))[not there]
    if isinstance(there, int | float):
        text = {"true": "1", "false": "0"}.get(text.lower(), text)
        return float(there) == float(int(text, 0) if "x" in text or "o" in text else text)
    return False


@fuzzed
def test_bytes_of_yaml(tmp_path, seeds):
    file = tmp_path / "x.yaml"
    for seed in seeds:
        draw = rng(seed, "fuzz", "yaml")
        content = bytes_of(draw, pick(draw, FILES).read_bytes(), TOKENS)
        file.write_bytes(content)
        with bounded(seed, len(content), InputError):
            config = read(str(file), {})
            arrives(config)
            means(yaml.load(content, yaml.BaseLoader) or {}, config)


@fuzzed
def test_trees(tmp_path, seeds):
    file = tmp_path / "x.yaml"
    for seed in seeds:
        tree = tree_of(rng(seed, "fuzz", "tree"), FULL)
        file.write_text(yaml.safe_dump(tree, allow_unicode=True), "utf-8")
        with bounded(seed, file.stat().st_size, InputError):
            config = read(str(file), {})
            arrives(config)
            means(yaml.load(file.read_text("utf-8"), yaml.BaseLoader), config)


def words_of(draw):
    """Return some settings as they are typed, most of them nearly right."""
    words = []
    for _ in range(1 + int(draw.integers(2))):
        key, odd = pick(draw, KEYS), pick(draw, ODD)
        if draw.integers(3) == 0:
            key = text_of(draw, key, [b".", b"..", b"name"])
        value = flatten(FULL).get(key, odd) if draw.integers(3) == 0 else odd
        text = str(value) if draw.integers(2) else json.dumps(value, default=str)
        if draw.integers(4) == 0:
            text = bytes_of(draw, text.encode(), [b",", b"[", b"&a", b": "]).decode(
                "utf-8", "replace"
            )
        words.append(f"{key}={text}")
    return words


@fuzzed
def test_overrides(seeds):
    """On the command line: nothing on standard error, or one line."""
    run = CliRunner()
    for seed in seeds:
        words = words_of(rng(seed, "fuzz", "words"))
        with bounded(seed, len(str(words)), ()):
            done = run.invoke(app, ["validate", "quickstart", "--", *words], catch_exceptions=False)
            assert done.exit_code in (0, 2), (words, done.output)
            if done.exit_code:
                (line,) = done.stderr.splitlines()
                assert line.startswith("error: "), (words, line)
                assert len(line) < 2000, words


@fuzzed
def test_run_configs(seeds):
    for seed in seeds:
        draw = rng(seed, "fuzz", "run config")
        pairs = [word.split("=", 1) for word in words_of(draw)]
        text = " ".join(f"{key}={json.dumps(value)}" for key, value in pairs)
        if draw.integers(2):
            text = bytes_of(draw, text.encode(), [b'"', b"'", b"=", b"\\"]).decode(
                "utf-8", "replace"
            )
        with bounded(seed, len(text), InputError):
            arrives(from_run_config(parse_run_config([text])))


@fuzzed
def test_sweeps(tmp_path, seeds):
    file, odd = tmp_path / "x.yaml", [*ODD, "A", "seed", "rounds", "sweep", "differences", [1, "x"]]
    for seed in seeds:
        draw = rng(seed, "fuzz", "sweep")
        content = yaml.safe_dump(tree_of(draw, SWEEP, odd), sort_keys=False).encode()
        if draw.integers(3) == 0:
            content = bytes_of(draw, content, TOKENS)
        file.write_bytes(content)
        with bounded(seed, len(content), InputError):
            for run in plan(read_sweep(str(file)), ["rounds=1"]):
                arrives(run.config)
