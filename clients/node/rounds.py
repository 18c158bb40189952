"""A device's rounds: it trains or measures as a method's client half says, alone or over a stream to a split server."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Message

from edgekit import wire
from edgekit.algorithms.base import answer_like, expected_of, with_mu
from edgekit.algorithms.interactive import alone
from edgekit.algorithms.split.stream import StreamLine
from edgekit.asks import BUFFERS, WEIGHTS, Ask, Bundles, Train, Update, packed
from edgekit.clients.budget import Budget, charge_for
from edgekit.clients.halves import Answered, check_kept, client_of, keeps, leaving, measured, protected, run_halves
from edgekit.clients.node import conditions
from edgekit.clients.node.held import DeclinedError, Held, rng_of
from edgekit.clients.node.sides import Side
from edgekit.clients.trainer import LocalTask, told
from edgekit.enrolment import parse_url
from edgekit.errors import DataError, PrivacyError, RefusedError, StoppedError
from edgekit.flower.parcel import ends_of

log = logging.getLogger("edgekit.node")

LONGEST_ROUND = 86_400.0


class Rounds:
    """Answers a coordinator's rounds.

    Args:
        held: what this device trains with.
        stop: ends what waits for a split server.
    """

    def __init__(self, held: Held, stop: threading.Event) -> None:
        self._held, self._stop = held, stop

    def train(self, message: Message) -> Message:
        """Answer a round."""
        if reason := conditions.obstacle(self._held.node_settings.only_when):
            raise DeclinedError(f"not now: {reason}")
        asked = wire.read(message)
        ask = wire.ask_of(asked)
        self._held.ready(str(asked.facts.get("task", "")), ask.bundles.get(WEIGHTS))
        # Over a stream nothing is ever the same again, so each round counts.
        interacts = self._held.side is not None
        digest = b"" if interacts else self._held.digest("train", packed(ask.bundles), _told_as_text(ask))
        if reason := self._held.limits().obstacle(ask.round, digest.hex()):
            raise DeclinedError(f"not in this round: {reason}")
        if self._held.side is not None:
            return self._interact(self._held.side, asked, ask, message)
        budget = self._held.budget()
        settings = ask.settings
        if budget is None and (settings.update_noise > 0 or settings.work in ("dp-sgd", "local-dp")):
            raise PrivacyError("the round adds noise on the device, but the task plans none")
        try:
            update = self._run_half(ask, budget, digest, partial(self._go_on, ends_of(message)))
        except DataError as error:
            if budget is None:
                raise
            log.warning("this device's data does not fit the round: %s", error)
            raise RefusedError("this device's data does not fit the round; its own log says why") from None
        log.info("round %d: trained on this device's examples (%s)", ask.round, settings.work)
        told = {"device": conditions.facts(self._held.node_settings.share)}
        compacts = any(one.compacts for one in self._held.transforms)
        return self._reply(update, message, told, ask.bundles if compacts else None)

    def _interact(self, side: Side, asked: wire.Message, ask: Ask, message: Message) -> Message:
        """Run this device's half of an interactive method, over a stream to the coordinator."""
        begun = side.begin(asked, ask, self._held)
        address, token, seconds = _where(asked, self._held.node_settings.url)
        with StreamLine(address, token, side.codec, seconds, self._held.folder.authority(), self._stop) as line:
            begun.connected()
            self._held.limits().keep(ask.round)
            update = alone(begun.half, line)
            line.finish()
        update = protected(update, ask, lambda: begun.noise)
        log.info("round %d: trained on %s", ask.round, begun.about)
        told = {"device": conditions.facts(self._held.node_settings.share)} if begun.facts else {}
        return self._reply(update, message, told)

    def _go_on(self, until: float) -> None:
        """See that a round is still wanted."""
        if self._stop.is_set():
            raise StoppedError("this device was stopped in the middle of a round")
        if time.time() > until:
            raise RefusedError("the round ended before this device had trained")

    def _run_half(self, ask: Ask, budget: Budget | None, digest: bytes, go_on: Callable[[], None]) -> Update:
        """Run the client's half of the method, with what this device keeps between rounds."""
        assert self._held.trainer is not None
        assert self._held.algorithm is not None
        assert self._held.task is not None
        trainer, examples = self._held.trainer, self._held.fit(ask.settings)
        algorithm, transforms = self._held.algorithm, self._held.transforms
        kept, limits, asked = self._held.own_state(), self._held.limits(), digest.hex()
        before = kept.before(asked) if keeps(algorithm, transforms) else {}
        if before:  # what is released depends on it, too
            digest = self._held.digest(digest.hex(), packed(before), "")
        if budget is not None:
            asked_first = Train(ask.bundles[WEIGHTS], with_mu(ask), buffers=ask.bundles.get(BUFFERS))
            charge_for(trainer, budget, asked_first, examples, digest.hex()[:32])
        made = 0

        def answer(waiting: Mapping[int, Any]) -> dict[int, Answered]:
            nonlocal made
            request, made = waiting[0], made + 1
            if not isinstance(request, Train):
                limits.keep(ask.round, asked)
                return {0: told(request, self._held.trainer_of(request.module), examples)}
            own = digest if made == 1 else self._held.digest(digest.hex(), request.weights, str(made))
            task = LocalTask(examples, rng_of(own, "batches"), rng_of(own, "noise"), go_on)
            own_trainer = self._held.trainer_of(request.module)
            own_trainer.check(request, examples)
            limits.keep(ask.round, asked)
            return {0: own_trainer.train(request, task)}

        # Copies: what the half changes in place must not change what the round is begun with again.
        state = {name: {key: array.copy() for key, array in arrays.items()} for name, arrays in before.items()}
        client = client_of(ask, len(examples), trainer.learnt, state)
        found = run_halves({0: algorithm.local(ask, client)}, {0: ask}, answer)[0]
        if isinstance(found, Exception):
            if isinstance(found, StoppedError):
                raise found  # it is begun again, with the same draws
            if made == 0 or not ask.settings.update_clip:
                raise found
            # It was charged, and whether a training fails may tell of the examples: what leaves is noise alone.
            log.warning("the training failed, and noise alone is sent: %s", found)
            nothing = expected_of(algorithm, ask)
            start = {WEIGHTS: {name: ask.bundles[WEIGHTS][name] for name in nothing.get(WEIGHTS, {})}}
            zeros = {bundle: {name: np.zeros_like(a) for name, a in of.items()} for bundle, of in nothing.items()}
            found = Update({bundle: start.get(bundle, held) for bundle, held in zeros.items()})

        def draw(*purpose: object) -> np.random.Generator:
            return rng_of(digest, " ".join(map(str, purpose)))

        update = leaving(found, ask, client, algorithm, transforms, draw, partial(rng_of, digest, "noise"))
        if ask.settings.protects and not all(np.isfinite(a).all() for of in state.values() for a in of.values()):
            log.warning("what the method would keep is not finite: what it kept before stays")
            state = before
        check_kept(update, state, answer_like(algorithm, ask))
        if keeps(algorithm, transforms):
            kept.keep(asked, before, state)
        return update

    def measure(self, message: Message) -> Message:
        """Tell how good a model is on what this device holds back: nothing of it, where its data is protected."""
        asked = wire.read(message)
        ask = wire.ask_of(asked)
        self._held.ready(str(asked.facts.get("task", "")), ask.bundles.get(WEIGHTS))
        if self._held.budget() is not None:
            raise DeclinedError("this device protects its data itself: it does not tell how good a model is on it")
        if self._held.trainer is None or self._held.algorithm is None or ask.settings.protects:
            raise DeclinedError("nothing is measured in this run")
        trainer, held = self._held.trainer, self._held.whole().client_test(0)
        if not len(held):
            raise DeclinedError("this device holds no examples back to measure with")
        algorithm = self._held.algorithm
        kept = self._held.own_state().after() if keeps(algorithm, self._held.transforms) else {}
        client = client_of(ask, len(held), trainer.learnt, kept)
        half, trainer_of = self._held.algorithm.evaluate(ask, client), self._held.trainer_of
        found = measured({0: half}, {0: ask}, lambda _, request: told(request, trainer_of(request.module), held))[0]
        if isinstance(found, Exception):
            raise found
        facts = {"loss": found.loss, "score": found.score, "examples": found.examples}
        return wire.answer(facts, message)

    def _reply(
        self,
        update: Update,
        message: Message,
        more: Mapping[str, Any] = MappingProxyType({}),
        sent: Bundles | None = None,
    ) -> Message:
        facts, content = wire.telling(update, sent)
        return wire.answer({**more, **facts}, message, content)


def _told_as_text(ask: Ask) -> str:
    """Return what a round tells beside arrays."""
    return f"{ask.round} {with_mu(ask).to_json()} {json.dumps(dict(ask.config), sort_keys=True, default=str)}"


def _where(asked: wire.Message, url: str) -> tuple[str, bytes, float]:
    """Return a round's split server, the token to it, and the seconds until the round ends.

    The server is on the machine that this device knows as its coordinator, by whatever name it reaches it.
    """
    found = asked.facts.get("split") or {}
    try:
        port, token, seconds = int(found["port"]), found["token"], float(found["seconds"])
        if not (0 < port < 1 << 16 and isinstance(token, bytes) and 0 < seconds < LONGEST_ROUND):
            raise ValueError("a port, a token and a time were expected")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RefusedError(f"where the split server is cannot be read: {type(error).__name__}: {error}") from None
    return replace(parse_url(url)[0], port=port).netloc, token, seconds
