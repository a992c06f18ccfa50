import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from fedalign.masks.phases import phases, update_mask
from fedalign.messages.records import TrainTask
from fedalign.network.layout import Entry, Layout
from fedalign.settings.contracts import FLOWER_SAMPLING
from fedalign.simulation.inline import InlineGrid
from strategies.fedpfn import FedPFN
from strategies.fedpnu import FedPNU

LAYOUT = Layout((Entry("w", (50, 20), 0), Entry("b", (7,), 1008)), (Entry("mean", (3,), 1024),), ())
GENERATOR = np.random.default_rng(0)


def model():
    shapes = {entry.name: entry.shape for entry in LAYOUT.entries}
    return ArrayRecord(
        {k: Array(GENERATOR.normal(size=s).astype(np.float32)) for k, s in shapes.items()}
    )


def sent_and_replies(strategy, server_round=3, clients=7):
    """Send a model; clients change what they may, as far as the mask lets them."""
    grid, sent = InlineGrid(ClientApp(), clients), model()
    messages = list(strategy.configure_train(server_round, sent, ConfigRecord(), grid))
    plan = TrainTask.read(messages[0]).plan
    trains = phases(plan, LAYOUT, 2)[0].trains.numpy()
    replies = []
    for number, message in enumerate(messages):
        arrays = ArrayRecord(dict(sent))
        for entry in LAYOUT.parameters:
            free = trains[entry.start : entry.stop].reshape(entry.shape)
            change = GENERATOR.normal(size=entry.shape).astype(np.float32)
            arrays[entry.name] = Array(sent[entry.name].numpy() + free * change)
        metrics = MetricRecord({"num-examples": 10 + number, "train_loss": 1.0})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        replies.append(Message(content, reply_to=message))
    return sent, trains, replies


def fedpfn(base, **options):
    return FedPFN(base(**FLOWER_SAMPLING), LAYOUT, ArrayRecord(), seed=1, **options)


@pytest.mark.parametrize("base", [FedAvg, FedAdam, FedMedian])
def test_fixed_entries_are_copied_and_trained_ones_are_the_bases(base):
    strategy = fedpfn(base)
    sent, trains, replies = sent_and_replies(strategy)
    plain = base(**FLOWER_SAMPLING)
    if hasattr(plain, "current_arrays"):
        plain.current_arrays = {key: array.numpy() for key, array in sent.items()}
    copies = [Message(RecordDict(dict(r.content)), metadata=r.metadata) for r in replies]
    for copy in copies:
        copy.content["arrays"] = ArrayRecord(dict(copy.content["arrays"]))
    expected, _ = plain.aggregate_train(3, copies)
    arrays, _ = strategy.aggregate_train(3, replies)
    for entry in LAYOUT.parameters:
        free = trains[entry.start : entry.stop].reshape(entry.shape)
        before, after = sent[entry.name].numpy(), arrays[entry.name].numpy()
        assert np.array_equal(after[~free], before[~free])
        assert np.array_equal(after[free], expected[entry.name].numpy()[free])
    assert np.array_equal(arrays["mean"].numpy(), expected["mean"].numpy())


def test_averaging_alone_would_move_them():
    """Why they are copied: float32 averages of equal numbers are not those numbers."""
    sent, trains, replies = sent_and_replies(fedpfn(FedAvg))
    averaged, _ = FedAvg(**FLOWER_SAMPLING).aggregate_train(3, replies)
    fixed = ~trains[:1000].reshape(50, 20)
    assert (averaged["w"].numpy() != sent["w"].numpy())[fixed].any()


def test_all_clients_of_a_round_get_one_plan_and_rounds_differ():
    strategy, grid = fedpfn(FedAvg), InlineGrid(ClientApp(), 4)

    def plans(server_round):
        sent = strategy.configure_train(server_round, model(), ConfigRecord(), grid)
        return {TrainTask.read(message).plan for message in sent}

    (first,), (second,) = plans(1), plans(2)
    assert not np.array_equal(update_mask(first, LAYOUT), update_mask(second, LAYOUT))


@pytest.mark.parametrize(
    ("refresh", "draws"), [(1, [0, 1, 2, 3, 4]), (2, [0, 0, 1, 1, 2]), (0, [0, 0, 0, 0, 0])]
)
def test_refresh_is_how_long_a_mask_is_kept(refresh, draws):
    strategy = fedpfn(FedAvg, refresh=refresh)
    assert [strategy.plan(t).mask_index for t in range(1, 6)] == draws


def test_fedpnu_averages_everything():
    strategy = FedPNU(FedAvg(**FLOWER_SAMPLING), LAYOUT, ArrayRecord(), seed=1)
    sent, _, replies = sent_and_replies(strategy)
    expected, _ = FedAvg(**FLOWER_SAMPLING).aggregate_train(3, replies)
    arrays, _ = strategy.aggregate_train(3, replies)
    assert strategy.plan(3).schedule == "complement_half"
    assert all(np.array_equal(arrays[k].numpy(), expected[k].numpy()) for k in sent)


def test_no_usable_reply_stays_none():
    strategy = fedpfn(FedAvg)
    sent_and_replies(strategy)
    assert strategy.aggregate_train(3, [])[0] is None
