"""An experiment's transforms in their order; its mechanism comes behind them on clients, before them at the server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from edgekit.asks import Aggregate, Ask, Bundles, Client, State, Update, mean_of, problem_with_update
from edgekit.errors import ExperimentError, TrainingError
from edgekit.registry import TRANSFORMS
from edgekit.section import Chosen, first_problem
from edgekit.transforms.base import Mechanism, Round, Seen, Transform

Draw = Callable[..., np.random.Generator]
"""Gives the random numbers that belong to a purpose."""


def make(chosen: Sequence[Chosen]) -> list[Transform]:
    """Make an experiment's transforms.

    Raises:
        ExperimentError: there is no such one, it is none, or its arguments do not fit.
    """
    made = []
    for one in chosen:
        loaded = TRANSFORMS.load(one.name)
        if not (isinstance(loaded, type) and issubclass(loaded, Transform)) or issubclass(loaded, Mechanism):
            raise ExperimentError(f"federation.transforms {one.name!r} is not an edgekit.transforms.base.Transform")
        try:
            made.append(loaded(loaded.Settings.model_validate(dict(one.arguments))))
        except ValidationError as error:
            raise ExperimentError(f"the arguments of {one.name} do not fit: {first_problem(error)}") from None
        except Exception as error:  # it may be the user's own
            raise ExperimentError(f"{one.name} cannot be made: {type(error).__name__}: {error}") from error
    return made


class Chain:
    """Transforms, and a mechanism.

    Args:
        transforms: in their order on clients.
        mechanism: of privacy; None without.

    Attributes:
        transforms: as given.
        sums: whether a method behind them gets the mean of the updates alone.

    Raises:
        ExperimentError: one looks at single updates behind one that gives their mean alone.
    """

    def __init__(self, transforms: Sequence[Transform], mechanism: Mechanism | None = None) -> None:
        self.transforms, self._mechanism = list(transforms), mechanism
        self._parts: list[Transform] = [*transforms, *([] if mechanism is None else [mechanism])]
        seen: Seen = "each"
        for one in reversed(self._parts):
            if not one.at_server:
                continue
            if one.needs == "each" and seen == "sum":
                raise ExperimentError(f"{_name(one)} looks at single clients' updates, of which it gets the mean alone")
            seen = one.gives
        self.sums = seen == "sum"

    def reads_means(self, reads: Seen) -> bool:
        """Whether nobody at the server looks at single updates, where the method `reads` so."""
        return reads == "sum" and all(one.needs == "sum" for one in self._parts if one.at_server)

    @property
    def needs_nobody(self) -> bool:
        """Whether a round without updates goes on to the method all the same, as noise alone."""
        return self._mechanism is not None and self._mechanism.at_server

    def _is_empty(self, got: Aggregate) -> bool:
        return got.updates is not None and not got.updates and not self.needs_nobody

    def begin(self, like: Bundles) -> list[State]:
        """Return what the server remembers of each before the first round."""
        return [one.begin(like) for one in self._parts]

    def prepare(self, ask: Ask, states: Sequence[State]) -> Ask:
        """Return what a client is asked instead; its settings are the mechanism's alone to change."""
        for one, state in zip(self.transforms, states, strict=False):
            prepared = one.prepare(ask, state)
            if not isinstance(prepared, Ask) or prepared.settings != ask.settings or prepared.round != ask.round:
                raise TrainingError(f"{_name(one)} gives no Ask with the round's own settings")
            ask = prepared
        return ask if self._mechanism is None else self._mechanism.prepare(ask, states[-1])

    def received(
        self,
        updates: Mapping[int, Update],
        states: Sequence[State],
        round_: Round,
        draw: Draw,
        reads: Seen,
        count: int | None = None,
    ) -> tuple[Aggregate | None, list[State]]:
        """Return what the method gets of a round's updates, and what the server remembers of each transform.

        None where there is no update, or a transform left none.

        Args:
            updates: valid ones, by client.
            states: remembered before.
            round_: of these updates.
            draw: gives random numbers.
            reads: what the method looks at.
            count: how many clients' these are; None is one each.
        """
        got, after = Aggregate({}, {}, len(updates) if count is None else count, round_.clients, updates), list(states)
        for place, one in reversed(list(enumerate(self._parts))):
            if not one.at_server:
                continue
            key = one.noise_key(round_.number) if isinstance(one, Mechanism) else ("transform", place, round_.number)
            if self._is_empty(got):
                return None, after
            given = _summed(got) if one.needs == "sum" else got
            got, after[place] = one.on_aggregate(given, states[place], round_, draw(*key))
            if not isinstance(got, Aggregate) or not isinstance(after[place], State):
                raise TrainingError(f"{_name(one)} gives no Aggregate and State")
            if (got.updates is None) != (one.gives == "sum"):
                what = "single updates" if one.gives == "each" else "the mean alone"
                raise TrainingError(f"{_name(one)} says that it gives {what}, and does not")
        if self._is_empty(got):
            return None, after
        return (_summed(got) if reads == "sum" else got), after


def _summed(got: Aggregate) -> Aggregate:
    if got.updates is None:
        return got
    bundles, facts = mean_of(list(got.updates.values()))
    return Aggregate(bundles, facts, got.count, got.clients)


def on_update(
    transforms: Sequence[Transform], update: Update, ask: Ask, client: Client, like: Bundles, draw: Draw
) -> Update:
    """Return an update as transforms leave it; what they keep goes into the client's state.

    Args:
        transforms: in their order.
        update: what the client's half gave.
        ask: of the round.
        client: with all that it keeps.
        like: arrays of the shapes that an update has.
        draw: gives random numbers.

    Raises:
        TrainingError: one gives no update of that form.
    """
    for place, one in enumerate(transforms):
        if not one.on_clients:
            continue
        own = f"transform-{place}/"
        state_of = [group for group in client.state if group.startswith(own)]
        state = {group.removeprefix(own): client.state[group] for group in state_of}
        seen = Client(client.examples, client.learnt, state)
        update = one.on_update(update, ask, seen, draw("transform", place))
        problem = problem_with_update(update, like) if isinstance(update, Update) else "it is no Update"
        if problem:
            raise TrainingError(f"{_name(one)} cannot be sent: {problem}")
        if one.keeps:
            for group in state_of:
                del client.state[group]
            client.state.update({f"{own}{group}": held for group, held in seen.state.items()})
    return update


def _name(one: Any) -> str:
    return f"the transform {type(one).__name__}"
