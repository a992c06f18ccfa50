from flwr.app import ConfigRecord, RecordDict
from flwr.clientapp import ClientApp

from fedalign.messages.contexts import place_of, places_of, state_at, states_of
from fedalign.simulation.inline import InlineGrid


def grid_with_state():
    grid = InlineGrid(ClientApp(), 4, {"lr": 0.1})
    grid.keep_states({1002: RecordDict({"me": ConfigRecord({"visits": 3})})})
    return grid


def test_contexts_are_those_of_the_grid_and_made_when_they_are_asked_for():
    grid = grid_with_state()
    made = []
    grid.context, make = lambda node: made.append(node) or make(node), grid.context
    contexts, whole = grid.contexts([1003, 1002, 1000]), list(map(make, [1003, 1002, 1000]))
    assert places_of(contexts) == places_of(whole) == list(map(place_of, whole))
    assert states_of(contexts) == states_of(whole)
    assert [state_at(contexts, place) for place in range(3)] == [None, whole[1].state, None]
    assert made == [1002]  # only a client with a state needs its context
    assert contexts[0] is contexts[0]
    assert contexts[:2] == whole[:2]
    assert made == [1002, 1003]


def test_what_clients_store_is_in_their_states_until_it_is_taken_back():
    contexts = grid_with_state().contexts([1001, 1002])
    contexts[0].state["me"] = ConfigRecord({"visits": 1})
    del contexts[1].state["me"]
    assert [len(state) for state in states_of(contexts).values()] == [1, 0]
    contexts.restore()
    assert [len(state) for state in states_of(contexts).values()] == [0, 1]
