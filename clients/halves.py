"""Runs clients' halves of a federated method: a node its own, a simulation a round's in lock step. Numpy only."""

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.algorithms.base import Algorithm, Client, expected_of
from edgekit.arrays import Array, Weights
from edgekit.asks import (
    BUFFERS,
    WEIGHTS,
    Ask,
    Bundles,
    Predict,
    Score,
    Scored,
    Train,
    Trained,
    Update,
    check_noisable,
    own_bundles,
    problem_with_update,
)
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.privacy import gaussian
from edgekit.transforms.base import Transform
from edgekit.transforms.chain import Draw, on_update

MOST_REQUESTS = 1000
"""Requests of one client in a round: a half that asks for more would never end."""
Half = Generator[Any, Any, Any]
Answered = Trained | Scored | Array | Exception
Answer = Callable[[Mapping[int, Any]], Mapping[int, Answered]]
"""Answers the requests of clients that wait, by client; an exception is that client's failure."""


def client_of(ask: Ask, examples: int, learnt: frozenset[str], state: dict[str, Weights]) -> Client:
    """Return a client as its half of a method sees it: where updates are protected, not how many examples it has."""
    return Client(1 if ask.settings.protects else examples, learnt, state)


def run_halves(halves: Mapping[int, Half], asks: Mapping[int, Ask], answer: Answer) -> dict[int, Any]:
    """Run clients' halves to their ends, all in lock step; return what each gave, an exception where it failed.

    Args:
        halves: by client.
        asks: what each was asked; of protected rounds the halves can get one training, as privacy was planned for.
        answer: called with what all clients that wait ask for, so that equal work can be done together.

    Running statistics are looked after here, so that no method has to: trainings begin with those that a client was
    sent, and an update takes along what the last one left.
    """
    ended: dict[int, Any] = {
        client: TrainingError(f"the method's client half is {type(half).__name__}, not a generator: it must yield")
        for client, half in halves.items()
        if not isinstance(half, Generator)
    }
    found: Mapping[int, Any] = {client: None for client in halves if client not in ended}
    buffers = {client: ask.bundles[BUFFERS] for client, ask in asks.items() if BUFFERS in ask.bundles}
    for client in buffers:
        if asks[client].settings.protects:
            ended[client] = TrainingError("a protected round takes no running statistics along: they tell of examples")
    found = {client: None for client in found if client not in ended}
    own: dict[int, bool] = {}
    for made in range(MOST_REQUESTS):
        waiting = {}
        for client, given in found.items():
            if isinstance(given, Exception):
                ended[client] = given
                halves[client].close()
                continue
            if isinstance(given, Trained) and own[client] and client in buffers:
                buffers[client] = given.buffers
            if isinstance(given, Trained) and asks[client].settings.protects:
                given = dataclasses.replace(given, examples=1, loss=None)
            try:
                request = halves[client].send(given)
                _check_request(request, asks[client].settings, made)
                own[client] = not request.module
                if own[client] and request.buffers is None and client in buffers:
                    request = dataclasses.replace(request, buffers=asks[client].bundles[BUFFERS])
                waiting[client] = request
            except StopIteration as end:
                ended[client] = _with(end.value, buffers.get(client))
            except Exception as error:  # a method may be the user's own
                halves[client].close()
                ended[client] = error
        if not waiting:
            return {client: ended[client] for client in halves}
        found = answer(waiting)
    for client in waiting:
        halves[client].close()
        ended[client] = TrainingError(f"the method's client half made {MOST_REQUESTS} requests without an end")
    return {client: ended[client] for client in halves}


def _with(update: object, buffers: Weights | None) -> object:
    """Return an update with running statistics, where there are any."""
    if buffers is None or not isinstance(update, Update) or not isinstance(update.bundles, Mapping):
        return update
    return dataclasses.replace(update, bundles={**update.bundles, BUFFERS: buffers})


def measured(
    halves: Mapping[int, Half], asks: Mapping[int, Ask], score: Callable[[int, Any], Answered]
) -> dict[int, Scored | Exception]:
    """Run what clients do to measure a model; return what each found, an exception where it failed.

    Args:
        halves: by client.
        asks: what each was asked.
        score: measures weights on what a client holds back, and answers what else trains nothing.
    """

    def answer(waiting: Mapping[int, Any]) -> dict[int, Answered]:
        found: dict[int, Answered] = {}
        for client, request in waiting.items():
            try:
                if isinstance(request, Train):
                    raise TrainingError("a method's way to measure may not train")
                found[client] = score(client, request)
            except Exception as error:  # torch and user modules raise many kinds
                found[client] = error
        return found

    no_score = TrainingError("the method gives no score")
    ended = run_halves(halves, asks, answer)
    return {client: one if isinstance(one, Scored | Exception) else no_score for client, one in ended.items()}


def _check_request(request: object, settings: LocalSettings, made: int) -> None:
    if not isinstance(request, Train | Score | Predict):
        raise TrainingError(f"the method's client half asks for {request!r:.80}: it may yield Train, Score or Predict")
    if not settings.protects:
        return
    if made or not isinstance(request, Train):
        raise TrainingError("privacy is planned for one training a round, but the method's client half asks for more")
    own = dataclasses.replace(settings, proximal_mu=request.settings.proximal_mu)
    if request.settings != own:
        raise TrainingError("the method's client half changes settings that privacy was planned with")


def keeps(algorithm: Algorithm, transforms: Sequence[Transform]) -> bool:
    """Whether clients keep something between rounds."""
    return algorithm.keeps or any(one.keeps for one in transforms)


def leaving(
    update: object,
    ask: Ask,
    client: Client,
    algorithm: Algorithm,
    transforms: Sequence[Transform],
    draw: Draw,
    noise: Callable[[], np.random.Generator],
) -> Update:
    """Return an update as it leaves a client: through the transforms, then bounded and noised as the round asks.

    Args:
        update: what the client's half gave.
        ask: of the round.
        client: with what it keeps.
        algorithm: the method.
        transforms: in their order.
        draw: gives the transforms' random numbers.
        noise: gives what draws the noise, where there is any.

    Raises:
        TrainingError: it is no update, or one that is not bounded as the round says.
    """
    update, buffers = _without_buffers(update)
    if buffers is not None:
        if ask.settings.protects:
            raise TrainingError("running statistics tell of examples: they do not leave a protected round")
        buffers = {name: held for name, held in buffers.items() if algorithm.shares(name)}
    if any(one.on_clients for one in transforms):
        update = on_update(transforms, _well_formed(update), ask, client, expected_of(algorithm, ask), draw)
    left = protected(update, ask, noise)
    return left if buffers is None else dataclasses.replace(left, bundles={**left.bundles, BUFFERS: buffers})


def _without_buffers(update: object) -> tuple[object, Weights | None]:
    """Return an update without its running statistics, which are no method's, and these."""
    if not isinstance(update, Update) or not isinstance(update.bundles, Mapping) or BUFFERS not in update.bundles:
        return update, None
    return dataclasses.replace(update, bundles=own_bundles(update.bundles)), update.bundles[BUFFERS]


def protected(update: object, ask: Ask, noise: Callable[[], np.random.Generator]) -> Update:
    """Return an update as it leaves a client: bounded and noised, if the round asks for it.

    This is the client's half of user-level privacy (McMahan et al. 2018, section 2): what is clipped is the difference
    to the global weights, and every other bundle as it is. Protected updates weigh alike, and tell nothing else.

    Args:
        update: what the client's half gave.
        ask: of the round.
        noise: gives what draws the noise, where there is any.

    Raises:
        TrainingError: it is no update, or one that is not bounded as the round says.
    """
    update = _well_formed(update)
    settings = ask.settings
    if not settings.protects:
        return update
    bundles = dict(update.bundles)
    bounded = list(settings.update_bounds) or [*bundles][:1]
    if settings.update_clip and set(bundles) != set(bounded):
        raise TrainingError(
            f"the method sends the bundles {', '.join(bundles)}, of which the round bounds {', '.join(bounded)}"
        )
    check_noisable(bundles)
    if settings.update_clip:
        rng = noise()
        bundles = {
            name: _bounded(arrays, ask.bundles[WEIGHTS] if name == WEIGHTS else None, *_scale(name, settings), rng)
            for name, arrays in bundles.items()
        }
    return Update(bundles, grids={} if settings.update_noise else update.grids)


def check_kept(update: Update, state: Mapping[str, Weights], expected: Bundles) -> None:
    """See that an update fits and that what a client keeps can be kept, before either goes anywhere.

    Raises:
        TrainingError: one does not; then the client's state stays as it was before the round.
    """
    if problem := problem_with_update(update, expected):
        raise TrainingError(problem)
    for group, arrays in state.items():
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray | np.generic) or not np.isfinite(array).all():
                raise TrainingError(f"what it would keep between rounds is not finite: {group} {name}")


def _well_formed(update: object) -> Update:
    """Return what a client's half gave, with numpy's numbers as Python's."""
    if not isinstance(update, Update):
        raise TrainingError(f"the method's client half gave {type(update).__name__}, not an Update")
    try:
        bundles = {name: dict(arrays) for name, arrays in update.bundles.items()}
        facts = {name: fact.item() if isinstance(fact, np.generic) else fact for name, fact in update.facts.items()}
        weight = float(update.weight)
    except (TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"the method's client half gave an Update that cannot be read: {error}") from None
    for arrays in bundles.values():
        if not all(isinstance(array, np.ndarray | np.generic) for array in arrays.values()):
            raise TrainingError("the method's client half gave an Update with values that are no arrays")
    return Update(bundles, weight, facts, update.grids)


def _scale(bundle: str, settings: LocalSettings) -> tuple[float, float]:
    """Return a bundle's bound and the deviation of its noise.

    With several bundles each is clipped by itself, so their joint norm in units of the bounds is at most the root of
    their number, and so much larger is the noise.
    """
    bounds = settings.update_bounds
    if not bounds:
        return settings.update_clip, settings.update_noise
    return bounds[bundle], settings.update_noise * bounds[bundle] / settings.update_clip * len(bounds) ** 0.5


def _bounded(
    arrays: Weights, start: Weights | None, clip: float, deviation: float, rng: np.random.Generator
) -> Weights:
    change = arrays if start is None else {name: array - start[name] for name, array in arrays.items()}
    change = gaussian.clip(change, clip)
    if deviation:
        change = gaussian.add_noise(change, deviation, rng)
    return change if start is None else {name: start[name] + delta for name, delta in change.items()}
