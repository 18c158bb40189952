"""Ring all-reduce: no server sums up; segments of the sum travel round the ring (Patarasuk & Yuan 2009, section 3).

A model of P numbers is cut into n segments for n members. A round of training takes 2 (n - 1) steps, each a round of
the loop: in the first n - 1 each member adds its own part to a segment and passes it on, in the others the finished
segments go round. A member sends 2 (n - 1) / n P numbers in all, whatever n is.

The coordinator passes segments on, and follows along to measure the model. It and a member's successors see partial
sums; in the first step a member's own segment goes out raw, so two neighbours together learn its whole update. A
member that does not answer is bypassed: its successor gets what it was sent itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Train, Update
from edgekit.errors import TrainingError
from edgekit.section import Section

SEGMENT, OWN, NEXT, SEEN, LIKE = "segment", "own", "next", "seen", "like"
"""The bundle that travels; what a member keeps: its part of the sum, the next model and which segments are there, and
arrays of the model's shapes."""
STEP, TURN, PLACE, MEMBERS, LENGTH = "step", "turn", "place", "members", "length"
BEFORE, WERE = "before", "were"
"""The place and the number of members in the round before."""
START, LAST = "start", "last"
"""Bundles of a first step: the model, for who does not have it; else the segment of it that was on its way yet."""
WHOLE = "whole"
"""Members that answered in all steps of the last round."""
LEAST = 3
"""Of two members each would see the other's whole update."""
Floats = NDArray[np.float32]


class Ring(Algorithm):
    """The model is the members' mean, by their numbers of examples, as of federated averaging."""

    Settings: ClassVar[type[Section]] = Section
    reads = "each"
    bundles = (SEGMENT,)
    keeps = True
    relays = True

    def rounds_for(self, clients: int) -> int:
        """Return the steps of a round of training."""
        return 2 * (clients - 1)

    def batches(self, ask: Ask) -> int | None:
        """Return that members train in the first step alone."""
        return None if ask.config.get(STEP) == 0 else 0

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Begin before the first step; nobody has the model yet."""
        return State({WEIGHTS: weights}, {STEP: 0, TURN: 0, MEMBERS: [], WHOLE: []})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Pass segments on; in the first step begin with whoever is there, or wait for more."""
        step, turn = int(state.facts[STEP]), int(state.facts[TURN])
        members = sorted(clients) if step == 0 else [int(one) for one in state.facts[MEMBERS]]
        if len(members) < LEAST:
            if number == 1:
                raise TrainingError(f"a ring needs at least {LEAST} members, there are {len(members)}: take fedavg")
            members = []
        self._members = members
        n, length = len(members), _length(state.bundles[WEIGHTS], max(len(members), LEAST))
        before, whole = [int(one) for one in state.facts[MEMBERS]], set(state.facts[WHOLE])
        asks = {}
        for client in clients:
            config: dict[str, Any] = {STEP: step, TURN: turn, MEMBERS: n, LENGTH: length}
            config[PLACE] = members.index(client) if client in members else -1
            coming = state.bundles.get(f"to-{client}")
            bundles: dict[str, Weights] = {}
            if config[PLACE] < 0:
                pass  # it came when this ring was closed, or there are too few for one
            elif step == 0 and client in whole:
                bundles[LAST] = coming or {}
                config |= {BEFORE: before.index(client), WERE: len(before)}
            elif step == 0:
                bundles[START] = state.bundles[WEIGHTS]
            else:
                bundles[SEGMENT] = coming or {SEGMENT: np.zeros(length + 1, np.float32)}
            asks[client] = Ask(bundles, config)
        return asks

    def expects(self, ask: Ask) -> Bundles:
        """Return that what is passed on is one segment, and its weight."""
        return {SEGMENT: {SEGMENT: np.zeros(_config(ask, LENGTH) + 1, np.float32)}}

    def local(self, ask: Ask, client: Client) -> Half:
        """Train in the first step; add to a segment, or pass it on."""
        step, turn, place, n, length = (_config(ask, name) for name in (STEP, TURN, PLACE, MEMBERS, LENGTH))
        takes_part = step == 0 or float(client.state.get(OWN, {}).get(TURN, np.array([-1.0]))[0]) == turn
        nothing, facts = np.zeros(length + 1, np.float32), dict[str, Any]()
        coming = np.asarray(ask.bundles.get(SEGMENT, {}).get(SEGMENT, nothing), np.float32)
        if place < 0:
            going = nothing
        elif not takes_part:  # it missed the first step, and passes on what comes
            going = _mean(coming) if step == n - 1 else coming
        elif step == 0:
            trained = yield Train(_start(ask, client), ask.settings)
            flat, weight = _flat(trained.arrays), np.float32(client.examples)
            own = np.zeros(n * length, np.float32)
            own[: len(flat)] = flat * weight
            client.state[OWN] = {"sum": own, "weight": np.array([weight], np.float32), TURN: np.array([float(turn)])}
            client.state[NEXT] = {"model": np.zeros(n * length, np.float32), SEEN: np.zeros(n, np.float32)}
            client.state[LIKE] = dict(trained.arrays)
            facts, going = facts_of(trained), _added(client, nothing, place)
        elif step < n:
            going = _added(client, coming, (place - step) % n)
            if step == n - 1:  # the segment is complete
                going = _mean(going)
                _keep(client, going, (place + 1) % n)
        else:
            _keep(client, coming, (place - (step - n)) % n)
            going = coming
        return Update({SEGMENT: {SEGMENT: going}}, facts=facts)

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Pass on what came; what a member did not answer goes past it."""
        assert got.updates is not None
        step, turn, members = int(state.facts[STEP]), int(state.facts[TURN]), self._members
        if not members:  # too few for a ring: the model stays, and who has it whole does too
            return State(state.bundles, {**state.facts, "metrics": {}})
        n = len(members)
        length = _length(state.bundles[WEIGHTS], n)
        going: dict[int, Floats] = {}
        for member in members:
            if member in got.updates:
                going[member] = np.asarray(got.updates[member].bundles[SEGMENT][SEGMENT], np.float32)
            else:
                nothing = np.zeros(length + 1, np.float32)  # what is under way at a first step is of the round before
                missed = nothing if step == 0 else state.bundles.get(f"to-{member}", {}).get(SEGMENT, nothing)
                going[member] = _mean(missed) if step == n - 1 else np.asarray(missed, np.float32)
        whole = set(members if step == 0 else state.facts[WHOLE]) & set(got.updates)
        weights = state.bundles[WEIGHTS]
        if step == n - 1:  # all segments are complete, one with each member
            segments = {(place + 1) % n: going[member] for place, member in enumerate(members)}
            if all(segments[place][-1] > 0 for place in range(n)):
                weights = _like(np.concatenate([segments[place][:-1] for place in range(n)]), weights)
            else:  # of one segment nobody answered anything: all begin from the old model
                whole = set()
        passed = {f"to-{members[(place + 1) % n]}": {SEGMENT: going[member]} for place, member in enumerate(members)}
        after = (step + 1) % (2 * (n - 1))
        facts = {STEP: after, TURN: turn + (after == 0), MEMBERS: members, WHOLE: sorted(whole)}
        return State({WEIGHTS: weights, **passed}, {**facts, "metrics": {"ring_step": step, **got.facts}})


def _config(ask: Ask, name: str) -> int:
    value = ask.config[name]
    if not isinstance(value, int):
        raise TrainingError(f"the step's {name} is {value!r}; it must be a whole number")
    return value


def _length(weights: Weights, n: int) -> int:
    """Return how many numbers a segment has."""
    return -(-sum(array.size for array in weights.values()) // n)


def _flat(weights: Weights) -> Floats:
    found: Floats = np.concatenate([np.ravel(array).astype(np.float32) for array in weights.values()])
    return found


def _like(flat: Floats, like: Weights) -> Weights:
    found, place = {}, 0
    for name, array in like.items():
        found[name] = flat[place : place + array.size].reshape(array.shape).astype(array.dtype)
        place += array.size
    return found


def _added(client: Client, coming: Floats, segment: int) -> Floats:
    """Return a partial sum with the member's own part; its last number is the sum of the weights."""
    own, length = client.state[OWN], len(coming) - 1
    part = own["sum"][segment * length : (segment + 1) * length]
    found: Floats = coming + np.append(part, own["weight"]).astype(np.float32)
    return found


def _mean(total: Floats) -> Floats:
    """Return a complete segment as a mean, with 1 for its weight; 0 where nobody added to it."""
    weight = float(total[-1])
    found: Floats = np.append(total[:-1] / np.float32(weight), np.float32(1)) if weight > 0 else np.zeros_like(total)
    return found.astype(np.float32)


def _keep(client: Client, segment: Floats, place: int) -> None:
    """Write a finished segment into the next model."""
    kept, length = client.state[NEXT], len(segment) - 1
    if segment[-1] > 0:
        kept["model"][place * length : (place + 1) * length] = segment[:-1]
        kept[SEEN][place] = 1.0


def _start(ask: Ask, client: Client) -> Weights:
    """Return the model to train from: what the member was sent, or what the last round left with it.

    Raises:
        TrainingError: it has none, or lacks a segment.
    """
    if START in ask.bundles:
        return ask.bundles[START]
    if NEXT in client.state and LIKE in client.state and SEGMENT in ask.bundles.get(LAST, {}):
        place, n = _config(ask, BEFORE), _config(ask, WERE)
        _keep(client, np.asarray(ask.bundles[LAST][SEGMENT], np.float32), (place + 2) % n)
        if client.state[NEXT][SEEN].all():
            return _like(client.state[NEXT]["model"], client.state[LIKE])
    raise TrainingError("this member does not have the model any more, which it had before")
