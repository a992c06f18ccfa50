"""The round loop around the hooks of a Flower strategy: sample, train, aggregate, evaluate.

Flower's own loop samples clients from the global random state, sums replies in order of arrival,
lets dtypes drift, and carries on if no client answered. This one does not, for any strategy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedalign.errors import named
from fedalign.messages.codec import Codec
from fedalign.messages.decoder import ReplyDecoder, encode
from fedalign.messages.groups import GroupGrid, GroupReplies, GroupRequest
from fedalign.messages.late_bytes import late_bytes
from fedalign.messages.partial_sums import averages
from fedalign.messages.records import total_size_of
from fedalign.messages.round_replies import RoundReplies, receive_metrics, receive_models
from fedalign.messages.rules import ReplyRules, update_limit
from fedalign.messages.validation import Bounds, check_made, metrics_in
from fedalign.seeding import preserved, seeded
from fedalign.server.callbacks import CallbackRunner
from fedalign.server.client_metrics import spread
from fedalign.server.client_states import ClientStates, HeldStates, RemoteStates
from fedalign.server.exchange import RoundFailedError, exchange
from fedalign.server.meter import Meter
from fedalign.server.nodes import Nodes, config_for
from fedalign.server.participation import USED, Participation
from fedalign.server.round import Round, RoundSettings, Sampled
from fedalign.server.sampling import Sample, sample
from fedalign.server.strategies import chain, expect, rules_of

HUGE = 1e4  # no weight of a network that learns is larger
log = logging.getLogger("fedalign")


@dataclass
class RoundLoop:
    """The rounds of a federated run.

    Attributes:
        strategy: any Flower strategy; it sees only the nodes sampled for the round.
        grid: any Flower grid.
        nodes: of the federation.
        settings: the same for every round.
        codec: how models travel; None: as they are.
        callbacks: called after each round.
        counts_known: `nodes` knows how many examples each client has, and replies must say so too.
        bounds: of a client's metrics, given its partition and its number of examples, see
            `BoundsMetrics`; None: unknown.
        participation: who has taken part so far.
        states: what clients store from round to round; None: what the grid holds, if it does.
        steps: how many steps a client makes, given the same; None: unknown.
        is_over: asked before each round; it may also raise.
    """

    strategy: Strategy
    grid: Grid
    nodes: Nodes
    settings: RoundSettings
    codec: Codec | None = None
    callbacks: CallbackRunner = field(default_factory=CallbackRunner)
    counts_known: bool = False
    bounds: Callable[[int, int], Mapping[str, Bounds]] | None = None
    participation: Participation = field(default_factory=Participation)
    states: ClientStates | None = None
    steps: Callable[[int, int], int] | None = None
    is_over: Callable[[], bool] = lambda: False
    _logged: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        held = HeldStates(self.grid) if isinstance(self.grid, GroupGrid) else RemoteStates(False)
        self._states = self.states or held

    def run(self, model: ArrayRecord, first: int = 1) -> ArrayRecord:
        """Return the global model after the last round, or when it `is_over`.

        Args:
            model: the global model before round `first`.
            first: 1, or the round after a checkpoint, from which `strategy` has come too.

        Raises:
            RoundFailedError: too few clients answered with a model that can be used.
        """
        with self.callbacks, preserved():
            for number in range(first, self.settings.rounds + 1):
                if self.is_over():
                    break
                meter = Meter(self.grid)
                present = self.nodes.present()
                clients = self.sample(number, present)
                outcome = self.aggregate(number, model, *self.train(number, model, clients))
                if self.settings.clients_evaluate(number):
                    outcome = self.evaluate(outcome, present)
                self.callbacks.call(outcome, meter)
                model = outcome.after
        return model

    def sample(self, number: int, present: Mapping[int, int]) -> Sample:
        """Return the clients that train in a round."""
        settings = self.settings
        return sample(present, settings.clients_per_round, settings.seed, "sample", number)

    def train(self, number: int, model: ArrayRecord, clients: Sample) -> tuple[RoundReplies, int]:
        """Send the global model to the clients; return their replies, and the bytes sent.

        Raises:
            RoundFailedError: there are fewer usable replies than `min_replies`.
        """
        settings, config = self.settings, config_for(self.nodes)
        names = [entry.name for entry in self.codec.layout.parameters] if self.codec else None
        limit = settings.max_update_norm or update_limit(model, names)
        expect(self.strategy, len(clients.nodes))
        shown = clients.grid(self.grid)
        wanted = self.callbacks.models_wanted(number, list(clients.nodes))
        models_of = frozenset(clients.nodes[partition] for partition in wanted)
        partial_sums = settings.partial_sums and averages(self.strategy)
        request = GroupRequest(settings.stack, partial_sums, models_of, limit)
        place = named(f"round {number}: strategy.configure_train", RoundFailedError)
        with place, seeded(settings.seed, "configure", number):
            ordered = clients.ordered(self.strategy.configure_train(number, model, config, shown))
        sent = self._states.address(encode(ordered, self.codec), clients)
        try:
            came = exchange(self.grid, sent, clients, number, settings.timeout, request)
        except RoundFailedError as error:
            self.participation.add(clients.nodes, (), error.failures)
            raise
        self._log_once(came, number)
        known = self.nodes.train_examples if self.counts_known else None
        rules = rules_of(self.strategy, known, self.bounds)
        decoder = ReplyDecoder(ordered, self.codec, limit, rules)
        replies = receive_models(came, decoder, clients.partition_of, models_of)
        used = [clients.partition_of[node] for node in replies.used]
        why = came.failures | replies.left_out
        replies.outcomes = self.participation.add(clients.nodes, used, why)
        _check_enough(replies, number, settings.min_replies, model)
        replies.states = {node: came.states[node] for node in replies.used & came.states.keys()}
        if self.codec and (private := self.codec.private):
            replies.models = {
                client: private.whole(own, replies.states.get(clients.nodes[client], {}))
                for client, own in replies.models.items()
            }
        return replies, total_size_of(sent)

    def aggregate(
        self, number: int, model: ArrayRecord, replies: RoundReplies, bytes_down: int
    ) -> Round:
        """Return the round with the new global model that the strategy makes of the replies.

        Clients whose models it used then have their new states; all others have their old ones.

        Raises:
            RoundFailedError: the strategy made none.
        """
        # Flower's differential privacy draws its noise from NumPy's global state.
        expect(self.strategy, len(replies.replies))
        with seeded(self.settings.seed, "flower", number):
            result, metrics = self._made(number, model, replies)
        counts = {"clients": replies.num_clients, "dropped": replies.num_left_out}
        counts |= {"bytes_down": bytes_down, "bytes_up": replies.num_bytes}
        self._states.keep(replies.states)
        sampled = {
            client: Sampled(self.nodes.train_examples.get(client), replies.losses.get(client), end)
            for client, end in replies.outcomes.items()
        }
        counts |= self._steps(sampled)
        return Round(number, model, result, replies.models, _scalars(metrics) | counts, sampled)

    def _steps(self, sampled: Mapping[int, Sampled]) -> dict[str, int]:
        """Return how many optimiser steps are in the models that were used, if that is known."""
        if self.steps is None:
            return {}
        used = ((k, own.examples or 0) for k, own in sampled.items() if own.outcome == USED)
        return {"client_steps": sum(self.steps(client, examples) for client, examples in used)}

    def _made(
        self, number: int, model: ArrayRecord, replies: RoundReplies
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        """Return what the strategy makes of the replies, if it is a model; it may empty them."""
        name = " around ".join(type(own).__name__ for own in chain(self.strategy))
        count = len(replies.replies)
        failed = named(f"round {number}: strategy {name} failed", RoundFailedError)
        # What is not finite is named below.
        with failed, late_bytes(), np.errstate(all="ignore"):
            result, metrics = self.strategy.aggregate_train(number, replies.replies)
        if result is None and replies.left_out:  # nobody ends a run by being left out
            line = "round %d: strategy %s makes no model of %d replies; the model stays as it was"
            log.warning(line, number, name, count)
            return model, None
        if result is None:
            raise RoundFailedError(f"round {number}: strategy {name} made no model of the replies")
        private = self.codec.private if self.codec else None
        try:
            return check_made(private.kept(result, model) if private else result, model), metrics
        except ValueError as error:
            raise RoundFailedError(
                f"round {number}: strategy {name} made a model that cannot be used: {error}"
            ) from None

    def evaluate(self, outcome: Round, present: Mapping[int, int]) -> Round:
        """Return the round with what a sample of the clients measures of its new model."""
        settings, number = self.settings, outcome.number
        able = {p: node for p, node in present.items() if self.nodes.test_examples[p] > 0}
        count = max(1, round(settings.evaluate_fraction * len(able)))
        clients = sample(able, count, settings.seed, "evaluate", number)
        if not clients.nodes:  # all of them may have left
            return outcome
        config, shown = config_for(self.nodes), clients.grid(self.grid)
        with seeded(settings.seed, "configure evaluate", number):
            messages = self.strategy.configure_evaluate(number, outcome.after, config, shown)
            ordered: Sequence[Message] = clients.ordered(messages)
        if self.codec and self.codec.private:  # whose values clients find in their states
            ordered = self._states.address(ordered, clients)
        try:
            came = exchange(self.grid, ordered, clients, number, settings.timeout)
        except RoundFailedError as error:  # the model is there all the same
            log.warning("nobody evaluates: %s", error)
            return outcome
        self._states.keep(came.states)
        known = self.nodes.test_examples if self.counts_known else {}
        replies = receive_metrics(came, clients.partition_of, ReplyRules(examples=known))
        if replies.left_out:
            log.warning("round %d: of those that evaluate, %s", number, replies.summary())
        evaluations = {
            clients.partition_of[r.metadata.src_node_id]: _scalars(metrics_in(r.content))
            for r in replies.replies
        }
        place = named(f"round {number}: strategy.aggregate_evaluate", RoundFailedError)
        with place, seeded(settings.seed, "aggregate evaluate", number):
            means = _scalars(self.strategy.aggregate_evaluate(number, replies.replies))
        means |= spread(list(evaluations.values()))
        added = {f"client_{key}": value for key, value in means.items()}
        return replace(outcome, evaluations=evaluations, metrics={**outcome.metrics, **added})

    def _log_once(self, came: GroupReplies, number: int) -> None:
        for note in came.notes:
            if note not in self._logged:
                self._logged.add(note)
                log.warning("round %d: %s", number, note)


def _check_enough(replies: RoundReplies, number: int, min_replies: int, sent: ArrayRecord) -> None:
    """Log the clients that are left out; raise if fewer than `min_replies` remain."""
    if not replies.replies:
        reasons = f"{replies.summary()}{_remark_on(sent)}"
        raise RoundFailedError(f"round {number}: no reply is usable: {reasons}")
    usable = replies.num_clients - replies.num_left_out
    if usable < min_replies:
        reasons = f"; {replies.summary()}" if replies.left_out else ""
        raise RoundFailedError(
            f"round {number}: {usable} usable replies, not {min_replies}{reasons}"
        )
    if replies.left_out:
        log.warning("round %d: %s", number, replies.summary())


def _remark_on(sent: ArrayRecord) -> str:
    """Return a remark on a model that was sent to clients, if its numbers are huge."""
    largest = max(np.abs(array.numpy()).max(initial=0) for array in sent.values())
    return f"; the model they were sent has numbers up to {largest:.3g}" if largest > HUGE else ""


def _scalars(record: MetricRecord | None) -> dict[str, float]:
    """Return the metrics that are single numbers."""
    return {k: v for k, v in (record or {}).items() if isinstance(v, int | float)}
