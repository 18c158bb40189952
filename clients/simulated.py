"""Simulated clients: they answer a round's asks with the data of one dataset, in this process."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from edgekit.algorithms import interactive
from edgekit.algorithms.base import Algorithm, Client, answer_like, with_mu
from edgekit.algorithms.interactive import Counterpart
from edgekit.asks import Ask, Reply, Scored, Train
from edgekit.clients.draws import once
from edgekit.clients.halves import Answered, check_kept, client_of, leaving, measured, run_halves
from edgekit.clients.others import Others
from edgekit.clients.states import ClientStates
from edgekit.clients.trainer import CohortTrainer, LocalTask, OneTrainer, told
from edgekit.data import Examples, FederatedDataset
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.randomness import generator
from edgekit.transforms.base import Transform

Trainers = tuple[OneTrainer, CohortTrainer | None]
"""What trains one client of a network, and what trains a cohort together, where its layers allow."""


class SimulatedClients:
    """Clients of one federated dataset.

    Args:
        dataset: whose data.
        algorithm: whose client half they run.
        trainer: trains one client at a time.
        cohort: trains clients with equal settings together, if the model allows.
        seed: of the batches (and of the noise that clients add).
        states: what clients keep between rounds; None where the method keeps nothing.
        on_notice: called with a line for people when the common step fails and clients train one by one.
        transforms: what happens to their updates then.
        others: trainers of the method's further networks, as `trainer` and `cohort` are of the run's own.
        counterpart: of an interactive method, the server's side.
    """

    def __init__(
        self,
        dataset: FederatedDataset,
        algorithm: Algorithm,
        trainer: OneTrainer,
        cohort: CohortTrainer | None,
        seed: int,
        states: ClientStates | None = None,
        on_notice: Callable[[str], None] = lambda line: None,
        transforms: Sequence[Transform] = (),
        others: Others[Trainers] | None = None,
        counterpart: Counterpart | None = None,
    ) -> None:
        self.dataset, self.algorithm, self.trainer, self.cohort = dataset, algorithm, trainer, cohort
        self.seed, self.states, self.on_notice = seed, states, on_notice
        self._joined = False
        self.transforms, self.others, self.counterpart = transforms, others, counterpart

    def trainers(self, module: str) -> Trainers:
        """Return what trains a network of the method's.

        Raises:
            TrainingError: there is none of this name.
        """
        if not module:
            return self.trainer, self.cohort
        if self.others is None:
            raise TrainingError(f"clients here train the run's own network alone, not {module!r}")
        return self.others[module]

    def train(self, asks: Mapping[int, Ask]) -> list[Reply]:
        """Return the clients' updates, in the order of the asks; one that fails says why."""
        round_ = _Round(self, asks)
        ended = {**round_.failed, **round_.ended()}
        replies = []
        for client, ask in asks.items():
            found = ended[client]
            try:
                if isinstance(found, Exception):
                    raise found
                known = round_.clients[client]
                draw = partial(generator, self.seed, ask.round, client)
                noise = partial(round_.noise, client, with_mu(ask), 0)
                update = leaving(found, ask, known, self.algorithm, self.transforms, draw, noise)
                if self.states is not None:  # else the loop's own check is enough
                    check_kept(update, known.state, answer_like(self.algorithm, ask))
                    self.states.save(client, ask.round, known.state)
                replies.append(Reply(client, update))
            except Exception as error:  # of its data, its training or the method: it costs this client's update
                replies.append(failed(client, error))
        return replies

    def say_joined(self, examples: int, settings: LocalSettings) -> None:
        """Say once that a client's last batch, too small by itself, joins the one before it."""
        left = examples % settings.batch_size
        if self._joined or settings.work != "sgd" or not 0 < left < settings.least_batch or examples == left:
            return
        self._joined = True
        self.on_notice("BatchNorm cannot take a single example: a client's last batch of one joins that before it")

    def measure(self, asks: Mapping[int, Ask]) -> dict[int, Scored]:
        """Return how good models are on what clients hold back; a client that cannot tell is left out."""
        halves, held = {}, {}
        for client, ask in asks.items():
            try:
                examples = self.dataset.client_test(client)
                # As the client is after this round, whose model this is.
                state = {} if self.states is None else self.states.load(client, ask.round + 1)
            except Exception as error:
                self.on_notice(f"client {client} measures nothing: {error}")
                continue
            if len(examples):
                held[client] = examples
                known = client_of(ask, len(examples), self.trainer.learnt, state)
                halves[client] = self.algorithm.evaluate(ask, known)
        found = measured(
            halves, asks, lambda client, request: told(request, self.trainers(request.module)[0], held[client])
        )
        return {client: scored for client, scored in found.items() if isinstance(scored, Scored)}


class _Round:
    """A round under way.

    Args:
        whole: whose clients.
        asks: of the round.

    Attributes:
        clients: those that have data.
        failed: why others have none.
    """

    def __init__(self, whole: SimulatedClients, asks: Mapping[int, Ask]) -> None:
        self._whole, self._asks = whole, asks
        self._examples: dict[int, Examples] = {}
        self._own: dict[int, LocalTask] = {}
        """What an interactive method has its clients train on."""
        self._made: dict[int, int] = dict.fromkeys(asks, 0)
        self.clients: dict[int, Client] = {}
        self.failed: dict[int, Exception] = {}
        learnt = whole.trainer.learnt
        for client, ask in asks.items():
            try:
                own = None if whole.counterpart is None else whole.counterpart.task(client, ask.round)
                if own is not None:
                    self._own[client] = own
                drop = ask.settings.work != "sgd"
                examples = whole.dataset.at(ask.round).client(client, drop_unfit=drop) if own is None else own.examples
                state = {} if whole.states is None else whole.states.load(client, ask.round)
                self.clients[client] = client_of(ask, len(examples), learnt, state)
                self._examples[client] = examples
                whole.say_joined(len(examples), ask.settings)
            except Exception as error:  # a dataset may be the user's own
                self.failed[client] = error

    def ended(self) -> Mapping[int, Any]:
        """Run the clients' halves; return what each gave, an exception where it failed."""
        asks, local = {client: self._asks[client] for client in self.clients}, self._whole.algorithm.local
        counterpart = self._whole.counterpart
        if counterpart is None:
            halves = {client: local(asks[client], known) for client, known in self.clients.items()}
            return run_halves(halves, asks, self.answer)
        tasks = {client: self._task(client, with_mu(ask)) for client, ask in asks.items()}
        return interactive.run(local, counterpart, asks, self.clients, tasks)

    def answer(self, waiting: Mapping[int, Any]) -> dict[int, Answered]:
        """Answer what clients ask for: those that train with equal settings together, where that is possible."""
        found: dict[int, Answered] = {}
        groups: dict[tuple[str, str, bool], list[int]] = {}
        for client, request in waiting.items():
            if isinstance(request, Train):
                how = request.module, _as_text(request.settings), request.taught is not None
                groups.setdefault(how, []).append(client)
            else:
                found[client] = _tried(partial(self._told, client, request))
        for (module, _, taught), group in groups.items():
            found |= self._train(module, {client: waiting[client] for client in group}, taught)
        for client in waiting:
            self._made[client] += 1
        return found

    def _told(self, client: int, request: Any) -> Answered:
        return told(request, self._whole.trainers(request.module)[0], self._examples[client])

    def _train(self, module: str, asked: Mapping[int, Train], taught: bool) -> dict[int, Answered]:
        try:
            trainer, cohort = self._whole.trainers(module)
        except Exception as error:  # the network may be the user's own
            return dict.fromkeys(asked, error)
        if cohort is not None and not taught:
            try:
                tasks = [self._task(client, request.settings) for client, request in asked.items()]
                return dict(zip(asked, cohort.train_cohort(list(asked.values()), tasks), strict=True))
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                self._whole.on_notice(
                    f"the cohort's common step failed ({reason}): its clients train one at a time this round"
                )
        return {
            client: _tried(partial(trainer.train, request, self._task(client, request.settings)))
            for client, request in asked.items()
        }

    def _task(self, client: int, settings: LocalSettings) -> LocalTask:
        if client in self._own:
            return self._own[client]
        made = self._made[client]
        more = (made,) if made else ()
        return LocalTask(
            self._examples[client],
            generator(self._whole.seed, "batches", self._asks[client].round, client, *more),
            once(partial(self.noise, client, settings, made)),
        )

    def noise(self, client: int, settings: LocalSettings, made: int) -> np.random.Generator:
        """Return the generator of a client's noise.

        Noise of other settings is other noise: the same at two scales could be taken off by subtraction.
        """
        more = (made,) if made else ()
        return generator(self._whole.seed, "client noise", _as_text(settings), self._asks[client].round, client, *more)


def failed(client: int, error: Exception) -> Reply:
    """Return a failure as a reply."""
    return Reply(client, None, f"{type(error).__name__}: {error}")


def _tried(answer: Callable[[], Any]) -> Answered:
    try:
        found: Answered = answer()
    except Exception as error:  # torch and user modules raise many kinds
        return error
    return found


@lru_cache(maxsize=4)
def _as_text(settings: LocalSettings) -> str:
    """Return the settings as JSON: the same for all clients of a round, so made once."""
    return settings.to_json()
