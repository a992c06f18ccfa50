"""Whatever a configuration says, it says on the server, on the clients and in the run folder."""

import json
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedalign.deploy.superlink import write_app
from fedalign.errors import InputError
from fedalign.runs.folder import RunFolder
from fedalign.runs.paths import folder_of
from fedalign.settings.builtin import KINDS
from fedalign.settings.config import Config, from_run_config, read
from fedalign.settings.registry import HOME, names, options
from fedalign.settings.sections import Evaluation, Simulation
from fedalign.simulation import FlowerApp, simulate

POSITIVE = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)
COUNTS = st.integers(1, 10**9)
MASKED = {
    "strategy.fixed_ratio": SHARES,
    "strategy.include": st.text(),
    "strategy.exclude": st.text(),
    "strategy.sampling": st.sampled_from(["bernoulli", "exact"]),
    "strategy.reset": st.booleans(),
    "strategy.base": st.sampled_from(["fedavg", "fedadam", "fednova", "krum"]),
}
STRATEGIES = st.one_of(
    st.fixed_dictionaries({"strategy": st.just("fedpfn")}, optional=MASKED),
    st.fixed_dictionaries(
        {"strategy": st.just("fednova"), "strategy.base": st.just("fedpnu")},
        optional={
            "strategy.base.schedule.name": st.just("k_way"),
            "strategy.base.base.name": st.just("fedexp"),
            "strategy.base.base.eps": POSITIVE,
        },
    ),
    st.fixed_dictionaries({}, optional={"strategy": st.sampled_from(["fedavg", "fedyogi"])}),
)
OTHERS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63),
        "rounds": COUNTS,
        "num_clients": COUNTS,
        "clients_per_round": st.none() | COUNTS,
        "timeout": POSITIVE,
        "max_update_norm": st.none() | POSITIVE,
        "data": st.sampled_from(["digits", "cifar10", "folder"]),
        "data.max_examples": st.none() | COUNTS,
        "partition": st.sampled_from(["dirichlet", "dirichlet-balanced", "mixture"]),
        "partition.alpha": POSITIVE,
        "model": st.sampled_from(["mlp", "cnn", "vgg"]),
        "model.width": COUNTS,
        "client.lr": POSITIVE,
        "client.momentum": st.floats(0, 1, exclude_max=True),
        "evaluation.examples": st.none() | COUNTS,
        "evaluation.fusion_gap": st.booleans(),
        "simulation.address": st.none() | st.text(),
        "simulation.stack": st.just("auto") | COUNTS,
    },
)
CONFIGS = st.builds(lambda strategy, others: read_or_none(strategy | others), STRATEGIES, OTHERS)


def read_or_none(overrides):
    try:
        return read(None, overrides)
    except InputError:  # such as an option that the drawn part does not have
        return None


@given(CONFIGS.filter(bool))
def test_any_configuration_arrives(tmp_path_factory, config):
    out = tmp_path_factory.mktemp("runs")
    config = config.model_copy(update={"out": str(out)})
    carried = config.run_config()
    through_toml = tomllib.loads(tomli_w.dumps(carried))
    RunFolder(config, {})
    written = read(str(folder_of(config) / "config.yaml"), {})
    for arrived in (from_run_config(carried), from_run_config(through_toml), written):
        assert arrived == config
        assert arrived.digest() == config.digest()
        assert folder_of(arrived) == folder_of(config)


def keys_of_all_settings():
    """Every setting, with the words that choose the part whose option it is."""
    for prefix, section in (("", Config), ("evaluation.", Evaluation), ("simulation.", Simulation)):
        yield from (({}, f"{prefix}{key}") for key in section.model_fields.keys() - KINDS.keys())
    for place, kind in KINDS.items():
        for name in names(kind):
            yield from (({place: name}, f"{place}.{key}") for key in options(kind, name))


@pytest.mark.parametrize("value", [None, ""])
def test_null_and_the_empty_text_stay_what_they_are(value):
    """Where they are allowed at all; `out` is a path, of which "" is another name of "."."""
    arrived = {}
    for words, key in keys_of_all_settings():
        if config := read_or_none(words | {key: value}):
            there = from_run_config(config.run_config())
            assert there == config
            assert folder_of(there) == folder_of(config)
            found = there.model_dump()
            for step in key.split("."):
                found = found[step]
            arrived[key] = found
    wanted = {None: "evaluation.examples", "": "strategy.include"}
    assert wanted[value] in arrived
    assert len(arrived) > 4
    assert {str(found) for found in arrived.values() if found != []} == {str(value)}


def test_it_is_one_text_in_an_apps_manifest(tmp_path):
    config = read("quickstart", {"evaluation.examples": None})
    write_app(tmp_path, config.run_config())
    table = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert list(table["config"]) == ["config"]
    assert from_run_config(table["config"]) == config


def test_what_people_type_goes_over_the_file():
    typed = {"config": "quickstart", "overrides": "client.lr=0.5 evaluation.examples=null"}
    typed |= {"strategy": "fedpnu", "alpha": 0.7, "rounds": "", "model.width": 8, "data": ""}
    assert from_run_config(typed) == read(
        "quickstart",
        {
            "strategy": "fedpnu",
            "partition.alpha": 0.7,
            "model.width": 8,
            "client.lr": 0.5,
            "evaluation.examples": None,
        },
    )


def test_a_short_name_and_the_full_one_are_refused_together():
    with pytest.raises(InputError, match=r"alpha: is short for partition\.alpha"):
        from_run_config({"alpha": 1.0, "partition.alpha": 1.0})


def test_a_text_may_be_yaml_or_json():
    assert from_run_config({"config": "rounds: 3\nmodel: {name: cnn}\n"}).rounds == 3
    assert from_run_config({"config": "{rounds: 3, model: cnn}"}).model.name == "cnn"
    assert from_run_config({"config": '{"client": {"lr": 1e-05}}'}).client.options["lr"] == 1e-5
    with pytest.raises(InputError, match="given as text: ruonds: no such setting"):
        from_run_config({"config": "{ruonds: 3}"})


def test_an_empty_text_is_a_value_where_none_is_meant_by_it():
    assert from_run_config({"seed": ""}) == Config()
    arrived = from_run_config({"strategy": "fedpfn", "strategy.include": ""})
    assert arrived.strategy.options["include"] == ""


@pytest.mark.parametrize("nodes", [3, 5])
def test_another_number_of_nodes_is_the_same_in_folder_settings_and_manifest(tmp_path, nodes):
    small = {"data.max_examples": 200, "model.width": 8, "evaluation.alphas": 0, "rounds": 1}
    config = read(None, small | {"num_clients": 4, "partition": "iid", "out": str(tmp_path)})
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, nodes, config.run_config())
    (folder,) = tmp_path.iterdir()
    written = read(str(folder / "config.yaml"), {})
    assert written.num_clients == nodes
    assert folder == folder_of(written)
    assert json.loads((folder / "manifest.json").read_text())["settings"] == written.digest()
