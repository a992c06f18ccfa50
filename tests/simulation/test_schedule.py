"""Workers get few calls a round, of equal work, and none is long."""

from __future__ import annotations

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedalign.messages.groups import GroupRequest
from fedalign.simulation.costs import Costs
from fedalign.simulation.inline import InlineGrid
from fedalign.simulation.schedule import CALL_SECONDS, Batch, Schedule


def calls(count, seconds, executors, least=0.0, timeout=None):
    """Return the seconds of each call that serves `count` clients, when `seconds` are usual."""
    InlineGrid(ClientApp(), 1)  # Flower wants to know whose messages they are
    costs, batch = Costs(), Batch(GroupRequest(), timeout, kept=True)
    costs.learn("a", [], [])
    costs.learn("a", [[Message(RecordDict(), 0, "train")]], [seconds])
    schedule, found = Schedule(costs), []
    schedule.add(batch, [[Message(RecordDict(), n, "train")] for n in range(count)], True)
    with schedule.turn:
        while taken := schedule.take(executors, least):
            found.append(sum(costs.of(task.messages) for task in taken))
            for task in taken:
                schedule.finish(task)
    return found


@pytest.mark.parametrize(("count", "executors"), [(100, 2), (100, 3), (7, 4), (1000, 16), (3, 8)])
def test_quick_clients_are_one_even_call_for_each_worker(count, executors):
    a_call = calls(count, 0.002, executors)
    assert len(a_call) == min(executors, -(-count // 2))
    assert max(a_call) - min(a_call) < 0.003


@pytest.mark.parametrize("seconds", [0.003, 0.03, 0.15])
def test_long_rounds_are_calls_of_at_most_a_fifth_of_a_second(seconds):
    a_call = calls(300, seconds, 2)
    assert max(a_call) <= CALL_SECONDS + 1e-6
    assert len(a_call) <= 300 * seconds / (CALL_SECONDS - seconds if seconds < 0.1 else 0.15) + 2


def test_clients_with_a_timeout_or_of_unknown_cost_are_called_alone():
    assert len(calls(9, 0.001, 2, timeout=1.0)) == 9
    assert len(calls(9, 0.3, 2)) == 9


def test_a_worker_leaves_a_share_to_those_that_serve_beside_it():
    first, *others = calls(100, 0.002, 2, least=0.005)
    assert first == pytest.approx(0.1)
    assert others[0] == pytest.approx(0.05, abs=0.003)
