"""Every algorithm a second time, as its paper writes it: one client after the other.

Whole runs in float64: five clients of different sizes, of whom three take part in each of three
rounds, with batches of which the last is small. Only the draws are the product's: who takes part,
in which order a client sees its examples, and which weights are fixed.
"""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.nn import functional

from clients.calibrated import BalancedSoftmax, FedLC
from clients.feddyn import FedDyn as FedDynClient
from clients.fedprox import FedProx
from clients.fedsam import FedSAM
from clients.local import Local
from clients.moon import MOON
from clients.scaffold import Scaffold as ScaffoldClient
from fedalign.messages.private import VALUES
from fedalign.network.layout import Layout
from fedalign.rng import rng
from fedalign.settings.contracts import FLOWER_SAMPLING
from strategies.feddyn import FedDyn
from strategies.fedexp import FedExP
from strategies.fednova import FedNova
from strategies.fedpfn import FedPFN
from strategies.fedpnu import FedPNU
from strategies.scaffold import Scaffold
from tests.pairs import combinations

SIZES, BATCH, ROUNDS, PART, RATIO, CLASSES = [10, 7, 6, 4, 2], 4, 3, 3, 0.4, 4
SHAPES = {"0.weight": (6, 5), "0.bias": (6,), "2.weight": (CLASSES, 6), "2.bias": (CLASSES,)}
ROWS = np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])
PLAIN = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": BATCH, "epochs": 2}
# A step's rate is float32, and the processor decides on its last bit.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}
HEAVY = PLAIN | {"momentum": 0.9, "weight_decay": 0.01}


def mlp(w, x):
    """Return logits and features of 5 numbers, by one hidden layer of 6."""
    w1, b1, w2, b2 = w.split([30, 6, 6 * CLASSES, CLASSES])
    z = torch.tanh(x @ w1.view(6, 5).T + b1)
    return z @ w2.view(CLASSES, 6).T + b2, z


def examples():
    draw = torch.Generator().manual_seed(5)
    images = torch.randn(sum(SIZES), 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, CLASSES - 1, (sum(SIZES),), generator=draw)
    labels[: SIZES[0]] = CLASSES - 1 - labels[: SIZES[0]]  # so nobody has all classes
    return SimpleNamespace(images=images, labels=labels, classes=CLASSES)


class Network:
    """The network as fedalign's clients ask for it."""

    device, graphs, stacked = torch.device("cpu"), None, "it runs any number of models"
    draws, traits = SimpleNamespace(used=False), SimpleNamespace(needs_two="")

    def restart(self):
        """It keeps nothing beside its weights."""

    def __init__(self):
        self.layout = Layout.of(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)))

    def receive(self, arrays):
        named = [torch.from_numpy(arrays[name].numpy()).flatten() for name in SHAPES]
        return self.layout.spread(torch.cat(named))

    def features(self, block, images):
        weights = self.layout.compact(block)
        return torch.stack([mlp(w, x)[1] for w, x in zip(weights, images, strict=True)])

    def gradients(self, block, images, labels, sizes, out, keep=0.0, loss=None, _counts=None):
        losses = []
        for k, size in enumerate(sizes):
            w, own = self.layout.compact(block[k]).requires_grad_(), labels[k : k + 1, :size]
            logits, seen = mlp(w, images[k, :size])
            mean = functional.cross_entropy(logits, own[0])
            if loss is not None:
                mean = loss(logits[None], own, seen[None], slice(k, k + 1)).mean()
            gradient = self.layout.spread(torch.autograd.grad(mean, w)[0])
            out[k] = keep * out[k] + gradient if keep else gradient
            losses.append(mean.detach())
        return torch.stack(losses)


class Naive:
    """A federation; a model is one vector `w`, and `masks` are held for a round or half of it.

    Each client keeps its own weights where `own` is true, which `mine` holds.
    """

    def __init__(self, client, server, masks, start, own=False):
        self.shared, self.mine = ~(torch.zeros(len(start)).bool() | own), {}
        self.client, self.server, self.masks, self.data = client, server, masks, examples()
        self.w, self.c, self.h = start, torch.zeros_like(start), torch.zeros_like(start)
        self.state = dict.fromkeys(range(len(SIZES)), self.c)  # SCAFFOLD's c_i, FedDyn's gradients
        self.last = {}  # MOON's models

    def round(self, t):
        chosen = rng(0, "sample", t).choice(len(SIZES), PART, replace=False)
        came = [self.local(t, i) for i in sorted(chosen.tolist())]
        changes = [w - self.w for w, _, _ in came]
        n = [1 if self.server in ("scaffold", "feddyn") else SIZES[i] for i in sorted(chosen)]
        p = [own / sum(n) for own in n]
        mean = sum(share * d for share, d in zip(p, changes, strict=True))
        new = self.w + mean
        if self.server == "scaffold":
            self.c = self.c + sum(moved for _, _, moved in came) / len(SIZES)
        if self.server == "feddyn":
            self.h = self.h - self.client.alpha / len(SIZES) * sum(changes)
            new = new - self.h / self.client.alpha
        if self.server == "fednova":
            tau = sum(share * a for share, (_, a, _) in zip(p, came, strict=True))
            rates = [d / a for d, (_, a, _) in zip(changes, came, strict=True)]
            new = self.w + tau * sum(share * d for share, d in zip(p, rates, strict=True))
        if self.server == "fedexp":
            above = sum(share * d.dot(d) for share, d in zip(p, changes, strict=True))
            new = self.w + max(1, above / (2 * (mean.dot(mean) + 1e-3))) * mean
        self.w = torch.where(self.mask(t), new, self.w) if self.masks == "hold" else new

    def mask(self, t):
        drawn = [rng(0, "mask", t - 1, name).random(shape) for name, shape in SHAPES.items()]
        return torch.from_numpy(np.concatenate([own.ravel() for own in drawn]) >= RATIO)

    def local(self, t, i):
        """Return the client's model, what its steps are worth, and how its c_i changed."""
        told, stream, batches = self.client, rng(0, "batches", t, i), []
        for _ in range(told.epochs):
            order = stream.permutation(ROWS[i])
            batches += [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        T = len(batches)  # noqa: N806
        shares = stream.beta(told.mixup, told.mixup, T) if told.mixup else np.ones(T)
        rates = [1 - t / T if told.lr_within_round == "linear" else 1 for t in range(T)]
        batches = list(zip(batches, shares.astype(np.float32).tolist(), rates, strict=True))
        half = -(-T // 2)
        stretches = {"hold": [(self.mask(t), batches)], None: [(self.mask(t) | True, batches)]}
        stretches["half"] = [(self.mask(t), batches[:half]), (~self.mask(t), batches[half:])]
        self.sent = torch.where(self.shared, self.w, self.mine.get(i, self.w))
        w, steps, worth = self.sent.clone().requires_grad_(), torch.zeros_like(self.w), 0.0
        for mask, stretch in stretches[self.masks]:
            optimizer = self.optimizer(w)
            for rows, share, rate in stretch:
                before = w.detach().clone()
                batch = i, torch.from_numpy(rows), share
                w.grad = mask * self.gradient(w, batch, mask)
                optimizer.param_groups[0]["lr"] = told.lr * rate
                if told.clip_norm:
                    w.grad *= min(1, told.clip_norm / w.grad.norm())
                optimizer.step()
                w.data = torch.where(mask, w.data, before)
            rates, rho = [rate for _, _, rate in stretch], told.momentum
            steps = steps + sum(rates) * mask
            worth += sum(
                rate * rho ** (t - s) for t, rate in enumerate(rates) for s in range(t + 1)
            )
        w, moved = w.detach(), None
        self.last[i] = self.mine[i] = w
        w = torch.where(self.shared, w, self.w)
        if self.server == "scaffold":
            fresh = self.state[i] - self.c + (self.w - w) / (steps * told.lr)
            moved = torch.where(steps > 0, fresh - self.state[i], 0)
            self.state[i] = self.state[i] + moved
        if self.server == "feddyn":
            self.state[i] = self.state[i] - told.alpha * (w - self.w)
        return w, worth, moved

    def optimizer(self, w):
        told = self.client
        if told.optimizer == "adam":
            return torch.optim.Adam([w], told.lr, weight_decay=told.weight_decay)
        if told.optimizer == "adamw":
            return torch.optim.AdamW([w], told.lr, weight_decay=told.weight_decay)
        return torch.optim.SGD([w], told.lr, told.momentum, weight_decay=told.weight_decay)

    def gradient(self, w, batch, mask):
        i = batch[0]
        (gradient,) = torch.autograd.grad(self.loss(w, *batch), w)
        if isinstance(self.client, FedSAM):
            up = mask * gradient
            above = (w + self.client.rho * up / up.norm()).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(above, *batch), above)
        return gradient - self.state[i] + self.c if self.server == "scaffold" else gradient

    def loss(self, w, i, rows, share):
        told, x, y = self.client, self.data.images[rows], self.data.labels[rows]
        x = share * x + (1 - share) * x.roll(-1, 0)
        logits, z = mlp(w, x)
        if isinstance(told, FedLC | BalancedSoftmax):
            n = torch.bincount(self.data.labels[ROWS[i]], minlength=CLASSES).double()
            weight = n if isinstance(told, BalancedSoftmax) else (-told.tau / n**0.25).exp()
            weight = torch.where(n > 0, weight, 0)
            own = (weight * logits.exp()).gather(1, y[:, None])[:, 0]
            return -(own / (weight * logits.exp()).sum(1)).log().mean()
        soft = functional.one_hot(y, CLASSES).double()
        soft = share * soft + (1 - share) * soft.roll(-1, 0)
        loss = functional.cross_entropy(logits, soft, label_smoothing=told.label_smoothing)
        away = self.shared * (w - self.w)
        if isinstance(told, FedProx):
            loss = loss + told.mu / 2 * away.dot(away)
        if isinstance(told, FedDynClient):
            loss = loss - self.state[i].dot(w) + told.alpha / 2 * away.dot(away)
        if isinstance(told, MOON):
            near, far = (
                (functional.cosine_similarity(z, mlp(other, x)[1]) / told.temperature).exp()
                for other in (self.sent, self.last.get(i, self.sent))
            )
            loss = loss - told.mu * (near / (near + far)).log().mean()
        return loss


def around(kind, **options):
    return lambda base: lambda layout: kind(base(layout), layout, **options)


SERVERS = {
    "fedavg": lambda base: base,
    "scaffold": around(Scaffold, num_clients=len(SIZES)),
    "feddyn": around(FedDyn, num_clients=len(SIZES), alpha=0.1),
    "fednova": around(FedNova),
    "fedexp": around(FedExP),
}
MASKS = {
    None: lambda base: base,
    "hold": around(FedPFN, initial=ArrayRecord(), seed=0, fixed_ratio=RATIO),
    "half": around(FedPNU, initial=ArrayRecord(), seed=0, fixed_ratio=RATIO),
}
CLIENTS = {
    "sgd": (Local(**PLAIN), "fedavg"),
    "momentum": (Local(**HEAVY), "fedavg"),
    "clipped": (Local(**HEAVY, clip_norm=0.3), "fedavg"),
    "adam": (Local(**PLAIN | {"optimizer": "adam", "weight_decay": 0.01}), "fedavg"),
    "adamw": (
        Local(**PLAIN | {"optimizer": "adamw", "weight_decay": 0.5}, lr_within_round="linear"),
        "fedavg",
    ),
    "fedsam mixed": (FedSAM(**HEAVY, rho=0.2, label_smoothing=0.2, mixup=0.5), "fedavg"),
    "moon mixed": (MOON(**HEAVY, mu=2.0, label_smoothing=0.2, mixup=0.5), "fedavg"),
    "scaffold falling": (ScaffoldClient(**PLAIN, lr_within_round="linear"), "scaffold"),
    "fedprox": (FedProx(**HEAVY, mu=0.5), "fedavg"),
    "fedsam": (FedSAM(**HEAVY, rho=0.2), "fedavg"),
    "fedlc": (FedLC(**HEAVY, tau=0.8), "fedavg"),
    "balanced softmax": (BalancedSoftmax(**HEAVY), "fedavg"),
    "moon": (MOON(**HEAVY, mu=2.0), "fedavg"),
    "scaffold": (ScaffoldClient(**PLAIN | {"weight_decay": 0.01}), "scaffold"),
    "feddyn": (FedDynClient(**PLAIN, alpha=0.1), "feddyn"),
    "fednova": (Local(**HEAVY), "fednova"),
    "fedexp": (Local(**HEAVY), "fedexp"),
}


@pytest.mark.parametrize(("name", "masks", "stack"), combinations(CLIENTS, MASKS, [1, 3]))
def test_a_whole_run(federate, name, masks, stack):
    client, server = CLIENTS[name]
    network = Network()
    start = torch.randn(64, generator=torch.Generator().manual_seed(3)).double() / 2
    naive = Naive(client, server, masks, start)
    strategy = MASKS[masks](SERVERS[server](lambda _: FedAvg(**FLOWER_SAMPLING)))
    for t in range(1, ROUNDS + 1):
        naive.round(t)
    settings = {"rounds": ROUNDS, "clients_per_round": PART, "stack": stack}
    seen = federate(strategy, client, network, naive.data, ROWS, start.numpy(), **settings)
    assert np.linalg.norm(seen.models[-1] - start.numpy()) > 0.1
    np.testing.assert_allclose(seen.models[-1], naive.w, **CLOSE)
    check_states(seen, naive, name)


OWN = {"head": torch.arange(64) >= 36, "0.*": torch.arange(64) < 36, "*": torch.ones(64).bool()}


QUICK = {
    *(("momentum", "head", "half"), ("scaffold", "head", "hold"), ("feddyn", "0.*", None)),
    *(("moon", "0.*", "half"), ("fedprox", "*", None), ("fednova", "head", "hold")),
}


@pytest.mark.parametrize(
    ("name", "private", "masks"),
    [
        pytest.param(*own, marks=[] if own in QUICK else [pytest.mark.slow])
        for own in product(CLIENTS, OWN, MASKS)
    ],
)
def test_a_whole_run_in_which_clients_keep_a_part_to_themselves(federate, name, private, masks):
    """Their own part trains on from where it stood, free of all that ties clients together."""
    client, server = CLIENTS[name]
    start = torch.randn(64, generator=torch.Generator().manual_seed(3)).double() / 2
    naive = Naive(client, server, masks, start, OWN[private])
    strategy = MASKS[masks](SERVERS[server](lambda _: FedAvg(**FLOWER_SAMPLING)))
    for t in range(1, ROUNDS + 1):
        naive.round(t)
    settings = {"rounds": ROUNDS, "clients_per_round": PART, "stack": 3, "private": private}
    seen = federate(strategy, client, Network(), naive.data, ROWS, start.numpy(), **settings)
    own = OWN[private].numpy()
    assert np.array_equal(seen.models[-1][own], start.numpy()[own])
    np.testing.assert_allclose(seen.models[-1], naive.w, **CLOSE)
    check_states(seen, naive, name)
    for i, model in naive.mine.items():
        mine = seen.client_state(i)[VALUES]
        assert np.linalg.norm(mine - start.numpy()[own]) > 0.01
        np.testing.assert_allclose(mine, model.numpy()[own], **CLOSE)


def check_states(seen, naive, name):
    """Check what clients keep for their algorithm."""
    kept = naive.last if isinstance(CLIENTS[name][0], MOON) else naive.state
    for i in range(len(SIZES)):
        for key, value in seen.client_state(i).items():
            assert i in naive.last
            if key != VALUES:
                np.testing.assert_allclose(value, kept[i], **CLOSE)
