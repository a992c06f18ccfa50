"""What a run starts from: `model.weights`, `model.frozen`, `model.adapters`."""

from types import SimpleNamespace

import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from safetensors.torch import save_file
from torch import nn

from fedalign.errors import InputError
from fedalign.federation.adapters import adapt
from fedalign.federation.federation import Federation
from fedalign.federation.local_data import CONSTANTS, federation_at
from fedalign.landscape.files import read as read_model
from fedalign.runs.identity import changes, identity
from fedalign.settings.common import Adapters
from fedalign.settings.config import read

MLP = {"model.depth": 1, "model.width": 4, "seed": 7}
CLASSES = {"data.classes": "0-8"}


def federation(*layers, **settings):
    return Federation(read(None, MLP, *layers, settings))


def saved(tmp_path, *layers):
    """Return a file with the first weights of a federation, and what they are."""
    module = federation(*layers, seed=1).module()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", module.state_dict()


def test_a_file_gives_the_first_weights(tmp_path):
    file, state = saved(tmp_path)
    assert not torch.equal(federation().module().fc1.weight, state["fc1.weight"])
    for place in (file, tmp_path):
        found = federation({"model.weights": str(place)})
        assert found.start.anew == ""
        own = found.network.layout.to_state(found.first, found.network.module)
        assert all(torch.equal(torch.from_numpy(own[n].numpy()), state[n]) for n in state)


def test_a_head_for_other_classes_starts_anew_and_the_rest_is_of_the_file(tmp_path):
    file, state = saved(tmp_path, CLASSES)
    found = federation({"model.weights": str(file)})
    assert found.start.anew == "head fc2.weight (10, 4) starts anew; the file has (9, 4)"
    own, drawn = found.network.module.state_dict(), federation().module().state_dict()
    assert torch.equal(own["fc1.weight"], state["fc1.weight"])
    assert torch.equal(own["fc1.bias"], state["fc1.bias"])
    assert torch.equal(own["fc2.weight"], drawn["fc2.weight"])
    assert torch.equal(own["fc2.bias"], drawn["fc2.bias"])


def test_own_starts_differ_in_what_starts_anew(tmp_path):
    file, _ = saved(tmp_path, CLASSES)
    found = federation({"model.weights": str(file), "init": "own"})
    assert found.first is found.network.initial
    layout, starts = found.network.layout, [found.own_start(client) for client in (0, 1)]
    differ = [e.name for e in layout.entries if not torch.equal(*(e.view(s) for s in starts))]
    assert differ == ["fc2.weight", "fc2.bias"]
    same, _ = saved(tmp_path)
    with pytest.raises(InputError, match=r"init: 'own' is not allowed: all clients would start"):
        federation({"model.weights": str(same), "init": "own"}).first  # noqa: B018


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.pop("fc1.bias"), "the file has no 'fc1.bias'"),
        (lambda s: s.update({"fc1.bias": torch.zeros(5)}), r"'fc1.bias' is \(5,\), not \(4,\)"),
        (lambda s: s.update({"fc2.weight": torch.zeros(9, 5)}), r"'fc2.weight' is \(9, 5\), not"),
        (lambda s: s.update({"9.bias": torch.zeros(5)}), "the model has no '9.bias'"),
        (lambda s: s["fc1.bias"].fill_(torch.nan), "4 of 4 numbers in 'fc1.bias' are not finite"),
    ],
)
def test_any_other_difference_is_an_error_with_tensor_and_file(change, problem, tmp_path):
    file, state = saved(tmp_path)
    change(state)
    save_file(state, file)
    with pytest.raises(InputError, match=problem) as raised:
        federation({"model.weights": str(file)}).network  # noqa: B018
    assert str(file) in str(raised.value)


def test_the_file_is_part_of_what_a_run_is(tmp_path):
    file, state = saved(tmp_path)
    settings = {"model.weights": str(file)}
    before = identity(federation(settings))
    assert changes(before, identity(federation(settings))) == []
    save_file(state | {"fc1.bias": torch.ones(4)}, file)
    (told,) = changes(before, identity(federation(settings)))
    assert told.startswith(f"the weights {file} has changed (")


def test_an_unset_option_changes_no_digest():
    given = {"model.weights": None, "model.frozen": "", "model.adapters": None}
    assert read(None, given | {"data.classes": None}).digest() == read(None).digest() == "93378790"
    assert read(None, {"model.frozen": "head"}).digest() != read(None).digest()


def test_frozen_parameters_never_train():
    found = federation({"model.frozen": "body"})
    assert [entry.name for entry in found.network.layout.entries] == ["fc2.weight", "fc2.bias"]
    assert found.num_constants == 64 * 4 + 4
    drawn = federation().module().state_dict()
    record = found.network.layout.to_state(found.first, found.network.module)
    assert {name: tuple(t.shape) for name, t in drawn.items()} == {
        name: array.shape for name, array in record.items()
    }
    biases = federation({"model.frozen": "*.weight"}).network.layout
    assert [entry.name for entry in biases.entries] == ["fc1.bias", "fc2.bias"]
    with pytest.raises(InputError, match=r"model\.frozen: 'x' is no tensor of the model \(head, b"):
        federation({"model.frozen": "x"}).network  # noqa: B018
    with pytest.raises(InputError, match="all of its parameters have requires_grad=False"):
        federation({"model.frozen": "*"}).network  # noqa: B018


def message(told):
    return SimpleNamespace(content=RecordDict({"config": ConfigRecord(told)}))


def context(config):
    return Context(0, 0, {}, RecordDict(), config.run_config())


def test_a_node_needs_the_file_only_for_what_never_trains(tmp_path):
    file, _ = saved(tmp_path)
    settings = {"model.weights": str(file)}
    file.unlink()
    found = federation(settings)
    assert found.network.layout == federation().network.layout
    with pytest.raises(InputError, match=r"model\.weights: .*model\.safetensors: no such file"):
        found.first  # noqa: B018
    with pytest.raises(
        InputError, match=r"are never sent \('fc1\.weight'\), so every machine needs"
    ):
        federation(settings, {"model.frozen": "body"}).network  # noqa: B018


def test_a_node_with_another_file_is_refused():
    config = read(None, MLP, {"model.frozen": "body"})
    own = Federation(config).constants
    assert federation_at(context(config), message({CONSTANTS: own})).constants == own
    with pytest.raises(InputError, match=r"not the same at the server \(0123\) and here"):
        federation_at(context(config), message({CONSTANTS: "0123"}))
    all_train = read(None, MLP)
    assert Federation(all_train).constants == ""
    federation_at(context(all_train), message({}))


def vit(**settings):
    small = {"model": "vit", "model.patch": 4, "model.width": 8, "model.depth": 1, "model.heads": 2}
    return Federation(read(None, small, settings))


def test_adapters_train_and_nothing_else_but_the_head():
    pytest.importorskip("peft")
    found = vit(**{"model.adapters.rank": 2, "model.adapters.targets": "*.fc? *.qkv"})
    names = [entry.name for entry in found.network.layout.entries]
    base = ["blocks.0.attention.qkv", "blocks.0.fc1", "blocks.0.fc2"]
    assert names == [
        *(f"{layer}.lora_{own}.default.weight" for layer in base for own in "AB"),
        *("fc.weight", "fc.bias"),
    ]
    plain, images = vit(), found.train.images[:5]
    run = found.network.function_of(found.network.receive(found.first))
    expected = plain.network.function_of(plain.network.receive(plain.first))(images)
    torch.testing.assert_close(run(images), expected)  # B is 0
    again = vit(**{"model.adapters.rank": 2, "model.adapters.targets": "*.fc? *.qkv"})
    assert torch.equal(again.network.receive(again.first), found.network.receive(found.first))
    assert found.network.stacking.reason == ""
    assert found.network.exchangeable.groups == ()


def test_adapters_go_on_from_those_of_a_file(tmp_path):
    pytest.importorskip("peft")
    settings = {"model.adapters.rank": 2}
    found = vit(**settings)
    vector = found.network.layout.spread(torch.randn(found.network.layout.num_values))
    record = found.network.layout.to_record(vector, {})
    state = found.network.layout.to_state(record, found.network.module)
    file = tmp_path / "model.safetensors"
    save_file({name: torch.from_numpy(array.numpy()) for name, array in state.items()}, file)
    assert torch.equal(read_model(file, found.network), vector)
    further = vit(**settings, **{"model.weights": str(file), "seed": 3})
    assert torch.equal(further.network.receive(further.first), vector)
    with pytest.raises(InputError, match=r"the model has no 'blocks\.0.*lora_A"):
        vit(**{"model.weights": str(file)}).network  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"targets": "heads.*"}, r"model\.adapters\.targets: 'heads\.\*' is no layer \(patches, b"),
        ({"targets": "fc"}, "'fc' is the head, which trains as a whole"),
        ({"also": "nothing"}, r"model\.adapters\.also: 'nothing' is no tensor of the model"),
    ],
)
def test_adapters_that_fit_nothing_are_refused(settings, problem):
    pytest.importorskip("peft")
    with pytest.raises(InputError, match=problem):
        vit(**{f"model.adapters.{key}": value for key, value in settings.items()}).network  # noqa: B018


def test_adapters_are_beside_the_layers_that_are_named_and_no_others():
    """`fc1` is the end of the name of another layer, too."""
    pytest.importorskip("peft")
    module = nn.Sequential()
    module.fc1, module.block, module.fc2 = nn.Linear(3, 3), nn.Sequential(), nn.Linear(3, 2)
    module.block.fc1 = nn.Linear(3, 3)
    adapt(module, Adapters(rank=1, targets="fc1"))
    assert isinstance(module.block.fc1, nn.Linear)
    assert not isinstance(module.fc1, nn.Linear)


def test_adapters_and_frozen_parts_are_not_for_one_run():
    with pytest.raises(InputError, match=r"model\.frozen: model\.adapters freezes all but what"):
        vit(**{"model.adapters.rank": 2, "model.frozen": "head"}).network  # noqa: B018


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(
        InputError, match=r"needs the package peft .*pip install 'fedalign\[lora\]'"
    ):
        vit(**{"model.adapters.rank": 2}).network  # noqa: B018


def test_a_mistake_in_the_table_of_adapters_is_named():
    with pytest.raises(InputError, match=r"line: model\.adapters\.rnak: 2 is not allowed: extra"):
        read(None, {"model.adapters.rnak": 2})
    with pytest.raises(InputError, match=r"line: model\.adapters\.rank: 0 is not allowed"):
        read(None, {"model.adapters.rank": 0})
