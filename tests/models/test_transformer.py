"""Pretrained encoders: what fills up counts for nothing, and only what fits is taken."""

import pytest
import torch

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.models.transformer import transformer
from fedalign.network.network import Network

CPU = torch.device("cpu")
transformers = pytest.importorskip("transformers")


def tiny(length=6, **options):
    torch.manual_seed(0)
    return transformer((length,), 3, 20, weights="random", **options).eval()


def saved(folder, kind="Bert", **options):
    """Save a random encoder as transformers do; return it."""
    torch.manual_seed(1)
    known = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    known |= {"intermediate_size": 32, "max_position_embeddings": 9}
    config = getattr(transformers, f"{kind}Config")(**known | options)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(folder)
    return model


def test_what_fills_up_changes_nothing():
    model = tiny()
    tokens = torch.tensor([[2, 7, 3, 0, 0, 0], [2, 7, 3, 9, 9, 4], [0] * 6])
    logits = model(tokens)
    torch.testing.assert_close(logits[:1], model(tokens[:1, :3]))
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    assert logits.isfinite().all()  # an empty text too
    assert model.head.weight.shape == (3, 32)
    assert sum(name.startswith("body.encoder.layer.1.") for name, _ in model.named_parameters())


@pytest.mark.parametrize(("kind", "pad"), [("Bert", 0), ("Roberta", 1)])
def test_a_saved_encoder_and_the_mean_of_its_tokens(tmp_path, kind, pad):
    """As transformers computes it, with the number of its own token that fills up."""
    theirs = saved(tmp_path, kind, pad_token_id=pad)
    length = 7 if kind == "Roberta" else 9
    model = transformer((length,), 3, 20, weights=str(tmp_path)).eval()
    own = torch.tensor([[5, 7, pad + 2, 11, *[pad] * (length - 4)], [4] * length])
    mask = (own != pad).long()
    states = theirs(input_ids=own, attention_mask=mask).last_hidden_state
    expected = model.head((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    stored = torch.where(own == pad, 0, torch.where(own == 0, pad, own))
    torch.testing.assert_close(model(stored), expected)


def test_the_first_layers_and_what_trains(tmp_path):
    whole = saved(tmp_path)
    model = transformer((9,), 3, 20, weights=str(tmp_path), layers=1)
    names = dict(model.named_parameters())
    layer = "encoder.layer.0.output.dense.weight"
    assert torch.equal(names[f"body.{layer}"], whole.get_parameter(layer))
    assert not [name for name in names if "layer.1" in name or "pooler" in name]
    fixed = [name for name, parameter in names.items() if not parameter.requires_grad]
    assert len(fixed) == 5
    assert all(name.startswith("body.embeddings.") for name in fixed)
    assert list(names)[-2:] == ["head.weight", "head.bias"]
    trained = transformer((9,), 3, 20, weights=str(tmp_path), train_embeddings=True)
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_a_bert_of_pretrained_form_runs_stacked_mixed_and_matched():
    """Three models at once, with constants that all of them share, are each as if alone."""
    torch.manual_seed(0)
    draw, more = torch.Generator().manual_seed(0), {"vocabulary": 20, "label_sets": (0, 0, 1, 1)}
    tokens = torch.randint(0, 20, (12, 6), generator=draw, dtype=torch.int32)
    data = Dataset(tokens, torch.arange(12) % 4, 4, (), (), "made up", **more)
    network = Network(transformer((6,), 4, 20, weights="random", hidden=16), data, CPU)
    assert network.stacking.reason == network.mixing.reason == ""
    layout = network.layout
    assert [entry.name for entry in layout.layers[-1]] == ["head.weight", "head.bias"]
    assert not [entry.name for entry in layout.entries if "embeddings" in entry.name]
    block = layout.to_vector(network.initial).repeat(3, 1)
    block += layout.spread(0.1 * torch.randn(3, layout.num_values, generator=draw))
    out, own = torch.zeros(3, layout.parameter_size), torch.zeros(1, layout.parameter_size)
    labels = data.labels.expand(3, -1)
    losses = network.gradients(block.clone(), tokens.expand(3, -1, -1), labels, [12] * 3, out)
    for k, vector in enumerate(block):
        loss = network.gradients(vector.clone()[None], tokens[None], labels[:1], [12], own)
        torch.testing.assert_close(loss[0], losses[k])
        torch.testing.assert_close(own[0], out[k], rtol=1e-3, atol=1e-5)
    # 2 layers: the heads, two groups in each of 2 heads, and hidden neurons; each tried by Network
    assert len(network.symmetry) == 2 * (1 + 2 * 2 + 1)


def test_dropout_is_in_training_alone_and_in_layers_alone():
    model = tiny(dropout=0.5)
    tokens = torch.arange(2, 8)[None]
    assert torch.equal(model(tokens), model(tokens))
    assert not torch.equal(model.train()(tokens), model(tokens))
    own = {name: part.p for name, part in model.named_modules() if hasattr(part, "p")}
    assert {share for name, share in own.items() if name.endswith("self.dropout")} == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 19, "weights": "HERE"}, None),  # a table may be rounded up
        ({"vocabulary": 21, "weights": "HERE"}, "the model knows 20 tokens, and the data have a v"),
        ({"shape": (10,), "weights": "HERE"}, "data.length: 10 tokens are more than the model's 9"),
        ({"layers": 4, "weights": "HERE"}, "model.layers: 4 is not allowed: .* has 3"),
        ({"hidden": 16, "weights": "HERE"}, "model.hidden: 16 is for weights=random"),
        ({"weights": "no-such-package"}, "^model.weights: the package 'no-such-package' is not i"),
        ({"weights": "EMPTY"}, "^model.weights: .* holds no config.json"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    saved(tmp_path / "here")
    (tmp_path / "empty").mkdir()
    places = {"HERE": str(tmp_path / "here"), "EMPTY": str(tmp_path / "empty")}
    told = {"shape": (9,), "classes": 2, "vocabulary": 20} | options
    told["weights"] = places.get(told["weights"], told["weights"])
    if message is None:
        assert transformer(**told).head.out_features == 2
        return
    with pytest.raises(InputError, match=message):
        transformer(**told)
