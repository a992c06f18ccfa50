"""Rounds that end with a fusion."""

import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.fusions.means import Slerp
from fedalign.fusions.recipe import Ingredients
from fedalign.messages.records import train_reply
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.layers import validate
from fedalign.simulation.inline import InlineGrid


def built(strategy, **more):
    tree = {"strategy": {"name": "fused"} | strategy, "model": {"name": "mlp", "width": 4}} | more
    federation = Federation(validate(Config, tree))
    return strategy_of(federation), federation


def after(strategy, federation, moves, sizes):
    """What the strategy makes of clients whose models are the start, moved."""
    layout, start = federation.network.layout, federation.network.initial
    sent = layout.to_vector(start)
    grid = InlineGrid(ClientApp(), len(moves))
    messages = strategy.configure_train(1, start, ConfigRecord(), grid)
    models = [sent + move * (sent != 0) for move in moves]
    up = [layout.to_record(model, {}) for model in models]
    losses = [{"train_loss": float(number)} for number in range(len(moves))]
    replies = [train_reply(*own) for own in zip(messages, up, sizes, losses, strict=True)]
    arrays, metrics = strategy.aggregate_train(1, replies)
    return layout.to_vector(arrays), metrics, models, sent


def test_the_new_model_is_the_fusion_to_the_bit_and_the_metrics_are_means():
    strategy, federation = built({"fusion": "slerp"})
    found, metrics, models, _ = after(strategy, federation, [0.1, -0.3, 0.7], [1, 1, 2])
    of = Ingredients(strategy._supplies, torch.stack(models))
    assert torch.equal(found, Slerp().fuse(of).model)
    assert metrics["fused_models"] == 3
    assert metrics["train_loss"] == pytest.approx((0 + 1 + 2 * 2) / 4)


def test_task_vectors_begin_at_the_model_that_was_sent_and_the_base_steps():
    """Moves of 1 and 2, half of each sum: 1.5. With a server's learning rate of 2: twice that."""
    for base, moved in (("fedavg", 1.5), ({"name": "fedavgm", "server_learning_rate": 2.0}, 3)):
        fusion = {"name": "task-arithmetic", "scale": 0.5}
        strategy, federation = built({"fusion": fusion, "base": base})
        found, _, _, sent = after(strategy, federation, [1.0, 2.0], [1, 1])
        assert (found - sent)[sent != 0].numpy() == pytest.approx(moved, abs=1e-5)


@pytest.mark.parametrize(
    ("strategy", "more", "message"),
    [
        ({"base": "krum"}, {}, "strategy.base: Krum looks at each client's model"),
        ({"fusion": "ensemble"}, {}, "strategy.fusion: 'ensemble' makes no model"),
        ({"fusion": "greedy"}, {}, "'greedy' needs held-out examples, .* give evaluation.server_"),
        ({"fusion": "greedy"}, {"partition": "replicated", "evaluation": {"holdout": 0.1}},
         "needs held-out examples, on which no client trains"),
        ({"fusion": "matched"}, {"model": {"name": "mlp", "depth": 0}},
         "'fused' needs a model whose exchangeable neurons"),
        ({"fusion": "matched"}, {"client": "moon"}, "client.name: 'moon' keeps weights from round"),
        ({"name": "fedpfn", "base": {"name": "fused", "fusion": "matched"}}, {},
         "'fedpfn' would see neurons before 'fused' moves them"),
        ({"fusion": {"name": "ties", "densty": 1}}, {}, "strategy.fusion.densty: 'ties' has no"),
        ({"fusion": "dirichlet"}, {}, "'dirichlet' is not a fusion but a partitioner"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(strategy, more, message):
    with pytest.raises(InputError, match=message):
        built(strategy, **more)


def test_a_run_with_a_greedy_soup_under_one_mask(run):
    """Masks are kept, clients' hold-outs choose, and a resumed run would find no lost state."""
    how = {
        "strategy__fusion": "greedy",
        "strategy__base.name": "fedpfn",
        "strategy__base.refresh": 0,
    }
    folder = run(strategy="fused", evaluation__holdout=0.2, **how)
    found = pd.read_csv(folder / "metrics.csv")
    assert len(found) == 3
    assert found["test_accuracy"].iloc[-1] > found["test_accuracy"].iloc[0] > 0.1
