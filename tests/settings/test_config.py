import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.errors import InputError
from fedalign.federation.federation import federation_of
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import from_run_config, read
from fedalign.settings.layers import flatten
from fedalign.settings.sources import find, parse_overrides


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return str(path)

    return write


def refused(path, overrides=None):
    with pytest.raises(InputError) as caught:
        read(path, overrides or {})
    return str(caught.value)


def test_defaults_are_complete():
    config = read(None, {})
    assert config.strategy.name == "fedavg"
    assert config.data.name == "digits"
    assert config.partition.options["alpha"] == 0.5


def test_a_name_alone_is_a_part(write):
    config = read(write("model: cnn\nstrategy: {name: fedpfn, base: fedadam}"), {})
    assert config.model.name == "cnn"
    assert config.strategy.options["base"].options["eta"] == 0.1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "strategy: {name: fedpfm}",
            "strategy.name: 'fedpfm' is not a strategy; did you mean 'fedpfn'?",
        ),
        ("strategy: fedpfm", "strategy.name: 'fedpfm' is not a strategy"),
        (
            "partition: {alpha: 0}",
            "partition.alpha: 0 is not allowed: input should be greater than 0",
        ),
        (
            "partition: {alhpa: 1}",
            "partition.alhpa: 'dirichlet' has no such option; did you mean 'alpha'?",
        ),
        ("ruonds: 3", "ruonds: no such setting; did you mean 'rounds'?"),
        ("evaluation: {pair: 3}", "evaluation.pair: no such setting; did you mean 'pairs'?"),
        ("rounds: many", "rounds: 'many' is not allowed"),
        ("model: {name: mlp, width: [1, 2]}", "model.width: [1, 2] is not allowed"),
        (
            "evaluation: {alphas: 2}",
            "evaluation.alphas: 2 is not allowed: a path, or a side of a plane, has at least 3",
        ),
        ("model: 3", "model: 3 is not a name, or a table with a name"),
        (
            "strategy: {name: fedpfn, base: {name: fedadma}}",
            "strategy.base.name: 'fedadma' is not a",
        ),
        ("simulation: {backend: rya}", "simulation.backend: 'rya' is not allowed"),
        (
            "simulation: {stack: 0}",
            "simulation.stack: 0 is not allowed: input should be 'auto', or input should",
        ),
        ("- 1", "holds list, not a table of settings"),
        ("a: [1", "is not YAML"),
        ("client: {name: 'nosuch.module:Thing'}", "'nosuch.module:Thing' cannot be imported"),
        (
            "client: scaffold",
            "strategy.name: 'fedavg' is not the strategy of client 'scaffold': it needs 'scaffold'",
        ),
        (
            "strategy: {name: fedpfn, base: feddyn}",
            "client.name: 'local' is not the client of the strategy: it needs 'feddyn'",
        ),
        (
            "client: feddyn\nstrategy: scaffold",
            "client.name: 'feddyn' is not the client of the strategy: it needs 'scaffold'",
        ),
        (
            "client: feddyn\nstrategy: {name: fedpfn, base: {name: feddyn, alpha: 0.1}}",
            "client.alpha: 0.01 is not the 0.1 of strategy 'feddyn'",
        ),
        (
            "strategy: {name: fedpfn, base: {name: fednova, base: fedbabu}}",
            "strategy: 'fedpfn' and 'fedbabu' both plan masks, and clients can follow one",
        ),
    ],
)
def test_the_file_is_refused_with_its_place(write, text, told):
    path = write(text)
    message = refused(path)
    assert message.startswith(path)
    assert told in message


@pytest.mark.parametrize(
    "text",
    [
        "client: scaffold\nstrategy: {name: fedpnu, base: {name: scaffold, base: fedadam}}",
        "client: {name: feddyn, alpha: 0.1}\nstrategy: {name: feddyn, alpha: 0.1}",
        "client: {name: 'clients.scaffold:Scaffold'}\nstrategy: scaffold",
        "client: moon\nstrategy: {name: fedexp, base: {name: fednova, base: fedpfn}}",
    ],
)
def test_halves_that_belong_together(write, text):
    config = read(write(text), {"data.max_examples": 20, "partition": "iid"})
    assert from_run_config(config.run_config()) == config
    assert strategy_of(federation_of(config.run_config())).base


def test_the_command_line_is_named_when_it_is_at_fault(write):
    path = write("partition: {alpha: 0.3}")
    assert refused(path, {"partition.alpha": 0}).startswith(
        "command line: partition.alpha: 0 is not"
    )
    assert refused(path, {"strategy": "fedpfm"}).startswith("command line: strategy.name: 'fedpfm'")
    assert refused(path, {"rounds.x": 1}).startswith("command line: rounds: ")


def test_overrides_reach_every_depth(write):
    path = write("strategy: {name: fedpfn, base: fedadam}")
    config = read(path, {"strategy.base.eta": 0.5, "evaluation.pairs": 1, "seed": 9})
    assert config.strategy.options["base"].options["eta"] == 0.5
    assert (config.evaluation.pairs, config.seed) == (1, 9)


def test_another_part_drops_the_options_it_does_not_have(write):
    path = write("strategy: {name: fedpfn, fixed_ratio: 0.7, refresh: 2}")
    assert read(path, {"strategy.name": "fedavg"}).strategy.options == {}
    assert read(path, {"strategy": "fedpnu"}).strategy.options["fixed_ratio"] == 0.7
    other = {"strategy": "flwr.serverapp.strategy:FedAvgM"}
    assert set(read(path, other).strategy.options) == {"server_learning_rate", "server_momentum"}
    for words in (
        {"strategy": "fedbabu", "strategy.refresh": 1},
        {"strategy.refresh": 1, "strategy": "fedbabu"},
    ):
        assert "strategy.refresh: 'fedbabu' has no such option" in refused(path, words)


def test_a_whole_configuration_travels_in_flowers_run_config():
    config = read("quickstart", {"strategy.base": "fedadam", "clients_per_round": 5})
    carried = config.run_config()
    assert all(isinstance(value, bool | int | float | str) for value in carried.values())
    assert from_run_config(carried) == config


def test_empty_strings_mean_unset_and_overrides_hold_more():
    config = from_run_config(
        {
            "config": "configs/quickstart.yaml",
            "rounds": 2,
            "seed": "",
            "overrides": "partition.alpha=9",
        }
    )
    assert (config.rounds, config.seed, config.partition.options["alpha"]) == (2, 0, 9)


def test_where_a_run_is_computed_does_not_name_it():
    config = read(None, {})
    assert config.digest() == read(None, {"out": "/x", "simulation.backend": "flower"}).digest()
    assert config.digest() != read(None, {"seed": 1}).digest()


def test_younger_settings_do_not_rename_older_runs():
    config = read(None, {})
    assert config.digest() == "93378790"  # before tf32, deterministic, and a batch size of null
    assert config.digest() == read(None, {"evaluation.batch_size": 200}).digest()
    assert config.digest() == read(None, {"client.augment": [], "client.mixup": 0}).digest()
    others = {
        **{"tf32": False, "deterministic": False, "evaluation.batch_size": 100},
        **{"client.augment": "flip", "client.mixup": 0.1, "client.label_smoothing": 0.1},
        **{"client.lr_within_round": "linear", "client.warmup": 0.1},
    }
    digests = {read(None, {key: value}).digest() for key, value in others.items()}
    assert len(digests - {config.digest()}) == len(others)


def test_every_config_shipped_is_valid():
    folder = find("quickstart").parent
    assert all(read(str(path), {}) for path in folder.glob("*.yaml"))


def test_a_missing_file_is_named():
    assert "nowhere.yaml: no such file, nor one in configs" in refused("nowhere.yaml")
    assert "scaffold: no such file; did you mean 'algorithms/scaffold'?" in refused("scaffold")
    assert "did you mean 'quickstart'?" in refused("quikstart")


@pytest.mark.parametrize("word", ["rounds", "=3", "a=[1"])
def test_bad_words_are_refused(word):
    with pytest.raises(InputError, match="command line"):
        parse_overrides([word])


def test_words_are_yaml():
    assert parse_overrides(["a.b=0.1", "c=null", "d=x=y"]) == {"a.b": 0.1, "c": None, "d": "x=y"}
    assert parse_overrides(["a="]) == {"a": ""}  # the empty text, as in `strategy.include=`


@given(
    st.recursive(st.integers(), lambda t: st.dictionaries(st.sampled_from("abc"), t, min_size=1))
)
def test_flatten_keeps_every_leaf(tree):
    def leaves(node):
        return sum(map(leaves, node.values())) if isinstance(node, dict) else 1

    assert len(flatten({"root": tree})) == leaves({"root": tree})


def test_no_more_clients_are_sampled_than_there_are():
    with pytest.raises(
        InputError, match="clients_per_round: 20 is not allowed: there are 10 clients"
    ):
        read("quickstart", {"clients_per_round": 20})
    assert read("quickstart", {"clients_per_round": 10}).clients_per_round == 10


def test_more_replies_than_clients_in_a_round_are_refused():
    with pytest.raises(InputError, match="min_replies: 4 is not allowed: 3 clients are in a round"):
        read("quickstart", {"clients_per_round": 3, "min_replies": 4})
