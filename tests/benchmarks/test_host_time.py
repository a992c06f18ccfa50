"""The host's time in a round: captured work runs once, and everything else in every round."""

from fedalign.network.network import Network
from fedalign.network.scorer import Scorer


def test_steps_run_until_they_are_captured_and_not_again(monkeypatch):
    from host_time import SMALL, WARM, milliseconds
    from workloads import settings_of

    from clients.local import Local

    steps, step = [], Local.step
    monkeypatch.setattr(Local, "step", lambda *args: steps.append(1) or step(*args))
    words = [f"{key}={value}" for key, value in SMALL.items()]
    few = ["num_clients=8", "clients_per_round=4", "data.size=160", "data.tests=10"]
    before = Network.graphs, Scorer.__init__
    found = milliseconds(settings_of("W2", [*words, *few]), rounds=3)
    assert len(found) == 3
    assert min(found) > 0
    # Two steps a round: those of the trials aside, each number of clients is captured once, and
    # then whole rounds.
    assert 0 < len(steps) < 2 * WARM
    assert (Network.graphs, Scorer.__init__) == before
