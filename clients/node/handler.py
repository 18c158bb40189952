"""Answers a coordinator's messages on a device. The resident node and Flower's stock SuperNode both use it."""

import hashlib
import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Message

from edgekit import __version__, wire
from edgekit.algorithms.base import Algorithm, facts_of, with_mu
from edgekit.arrays import Weights, problem_with, to_bytes
from edgekit.asks import WEIGHTS, Ask, LocalSettings, Score, Scored, Train, Trained, Update, packed
from edgekit.clients.budget import ACCOUNTANT, Budget, charge_for
from edgekit.clients.halves import Answered, check_kept, client_of, protected, run_halves
from edgekit.clients.node import conditions, delivery, statistics, task
from edgekit.clients.node.folder import NodeFolder, Wishes
from edgekit.clients.node.party import Party
from edgekit.clients.node.task import Task
from edgekit.clients.split.device import RELEASES, Device, HalvesMaker
from edgekit.clients.split.stream import StreamLine
from edgekit.clients.states import OwnState
from edgekit.clients.trainer import LocalTask, Trainer
from edgekit.data import Examples, FederatedDataset
from edgekit.enrolment import parse_url
from edgekit.errors import EdgekitError, PrivacyError, RefusedError
from edgekit.flower import CLIENT_DECLINED, CLIENT_RAISED
from edgekit.flower.fleet import error_reply
from edgekit.privacy import Charge, Ledger
from edgekit.privacy.accounting import epsilon
from edgekit.split.codec import Codec

log = logging.getLogger("edgekit.node")


STATISTICS_EPSILON = 10.0
"""What noised statistics may spend in all where neither the plan nor the owner limits the device."""
LONGEST_ROUND = 86_400.0


class DeclinedError(EdgekitError):
    """The device does not train now, as its owner wants."""


class Handler:
    """One node's side of the conversation; network, interpreter and examples stay loaded between messages.

    Args:
        folder: of the node.
        stop: ends what waits for a split server; None makes one.
        lasting: whether this process lasts over messages.
    """

    def __init__(self, folder: NodeFolder, stop: threading.Event | None = None, *, lasting: bool = True) -> None:
        self._lasting = lasting
        self.folder = folder
        self.stop = stop or threading.Event()
        self.wishes: Wishes = folder.wishes()
        self.kind = task.choose_kind(self.wishes.trainer)
        self._secret = folder.secret()
        self._ledger = Ledger(folder.ledger)
        self._name = ""
        self._task: Task | None = None
        self._trainer: Trainer | None = None
        self._algorithm: Algorithm | None = None
        self._parts: HalvesMaker | None = None
        self._party: Party | None = None
        self._examples: Examples | None = None
        self._owned = ""

    def answer(self, message: Message) -> Message:
        """Return the reply to a message; what goes wrong becomes an error reply that says so."""
        return replying(self._answer, message)

    def _answer(self, message: Message) -> Message:
        if message.metadata.message_type == "train":
            return self._train(message)
        if message.metadata.message_type == "evaluate":
            return self._measure(message)
        asked = wire.read(message)
        actions = {
            "prepare": self._prepare,
            "install": self._install,
            "deliver": self._deliver,
            "statistics": self._statistics,
        }
        if asked.facts.get("action") == "align":
            return self._align(asked, message)
        action = str(asked.facts.get("action"))
        if action not in actions:
            raise RefusedError(f"this node (edgekit {__version__}) does not know {action[:40]!r}: update it")
        return wire.answer(actions[action](asked), message)

    def _prepare(self, asked: wire.Letter) -> dict[str, Any]:
        """Say what this node is, and whether it holds the task."""
        tasks = asked.facts.get("tasks")
        name = str(tasks.get(self.kind, "")) if isinstance(tasks, dict) else ""
        problem = ""
        try:
            holds = bool(name) and (name == self._name or self._load(name))
        except EdgekitError as error:
            holds, problem = True, str(error)
            log.warning("%s", problem)
        return self._told(holds, problem)

    def _install(self, asked: wire.Letter) -> dict[str, Any]:
        """Take a task, if the coordinator signed it."""
        content = asked.content
        task.verify(self.folder.membership().signing_key, content, asked.facts.get("signature"))
        made = Task.from_bytes(content)  # refused before it is kept
        log.info("the task: %s. %s", made.facts.run, made.facts.privacy)
        problem = ""
        try:
            self._load(task.keep(self.folder.tasks, content))
        except EdgekitError as error:
            problem = str(error)
            log.warning("%s", problem)
        return self._told(True, problem)

    def _told(self, holds: bool, problem: str) -> dict[str, Any]:
        facts = self._task.facts if self._task is not None else None
        # How many there are tells of them: only where another protects the data, and the owner set no limit.
        counts = facts is not None and facts.counts and facts.planned is None and not self.wishes.epsilon
        return {
            "version": __version__,
            "kind": self.kind,
            "name": self.wishes.name,
            "holds": holds,
            "problem": problem,
            "examples": len(self._examples) if counts and self._examples is not None else -1,
            "statistics": "statistics" in self.wishes.share,
            "model": {key: value for key, value in delivery.current(self.folder).items() if key in ("run", "version")},
            **({"party": self._party.name} if self._party is not None else {}),
            **conditions.facts(self.wishes.share),
        }

    def _load(self, name: str) -> bool:
        """Make a task that is kept here ready for training; return whether it is there."""
        found = task.kept(self.folder.tasks, name)
        if found is None or (self.kind == "litert" and found.training is None):
            return False
        trainer = parts = party = examples = None
        if found.facts.vertical is not None:
            party = Party(found, self.kind, self.wishes, lasting=self._lasting)
        elif found.facts.split is not None:
            parts = found.halves(self.kind, self.wishes.modules)
        else:
            trainer = found.trainer(self.kind, self.wishes.modules)
        algorithm = found.algorithm(self.wishes.modules)
        if party is None:
            examples = found.examples(self.wishes)
            self._owned = _fingerprint(examples)
        self._trainer, self._parts, self._party, self._examples = trainer, parts, party, examples
        self._algorithm = algorithm
        self._task, self._name = found, name
        return True

    def _align(self, asked: wire.Letter, message: Message) -> Message:
        """Take part in finding whom all parties know."""
        self._ready(str(asked.facts.get("task", "")), None)
        if self._party is None:
            raise RefusedError("the task knows no parties")
        facts, points = self._party.align(asked)
        return wire.answer(facts, message, to_bytes(points))

    def _train(self, message: Message) -> Message:
        if reason := conditions.obstacle(self.wishes.only_when):
            raise DeclinedError(f"not now: {reason}")
        asked = wire.read(message)
        ask = wire.ask_of(asked)
        self._ready(str(asked.facts.get("task", "")), ask.bundles.get(WEIGHTS, {}))
        if self._party is not None:
            device = self._party.begin(asked, ask.bundles[WEIGHTS], with_mu(ask), ask.round)
            trained = self._over_stream(device, asked, self._party.codec)
            log.info("round %d: trained on features of %d people", ask.round, trained.examples)
            return self._reply(_plain(trained), message)
        digest = self._digest("train", packed(ask.bundles), _told_as_text(ask))
        budget = self._budget()
        settings = ask.settings
        own_noise = settings.work == "local-dp" or settings.update_noise > 0
        if budget is None and (own_noise or (settings.work == "dp-sgd" and self._parts is None)):
            raise PrivacyError("the round adds noise on the device, but the task plans none")
        if self._parts is not None:
            local = LocalTask(self._fit(settings), _rng(digest, "batches"), _rng(digest, "noise"))
            trained = self._train_parts(self._parts, asked, budget, ask.bundles[WEIGHTS], local, with_mu(ask))
            update = protected(_plain(trained), ask, local.noise_rng)
        else:
            update = self._run_half(ask, budget, digest)
        log.info("round %d: trained on this device's examples (%s)", ask.round, settings.work)
        return self._reply(update, message, {"device": conditions.facts(self.wishes.share)})

    def _run_half(self, ask: Ask, budget: Budget | None, digest: bytes) -> Update:
        """Run the client's half of the method, with what this device keeps between rounds."""
        assert self._trainer is not None
        assert self._algorithm is not None
        assert self._task is not None
        trainer, examples = self._trainer, self._fit(ask.settings)
        kept, asked = self._own_state(), digest.hex()
        before = kept.before(asked) if self._algorithm.keeps else {}
        if before:  # what is released depends on it, too
            digest = self._digest(digest.hex(), packed(before), "")
        if budget is not None:
            charge_for(trainer, budget, Train(ask.bundles[WEIGHTS], with_mu(ask)), examples, digest.hex()[:32])
        made = 0

        def answer(waiting: Mapping[int, Any]) -> dict[int, Answered]:
            nonlocal made
            request, made = waiting[0], made + 1
            if isinstance(request, Score):
                return {0: trainer.score(request, examples)}
            own = digest if made == 1 else self._digest(digest.hex(), request.weights, str(made))
            task = LocalTask(examples, _rng(own, "batches"), _rng(own, "noise"))
            trainer.check(request, examples)
            return {0: trainer.train(request, task)}

        state = {name: dict(arrays) for name, arrays in before.items()}
        client = client_of(ask, len(examples), trainer.learnt, state)
        found = run_halves({0: self._algorithm.local(ask, client)}, {0: ask}, answer)[0]
        if isinstance(found, Exception):
            raise found
        update = protected(found, ask, _rng(digest, "noise"))
        check_kept(update, state, self._algorithm.expects(ask))
        if self._algorithm.keeps:
            kept.keep(asked, before, state)
        return update

    def _measure(self, message: Message) -> Message:
        """Tell how good a model is on what this device holds back: nothing of it, where its data is protected."""
        asked = wire.read(message)
        ask = wire.ask_of(asked)
        self._ready(str(asked.facts.get("task", "")), ask.bundles.get(WEIGHTS, {}))
        if self._budget() is not None:
            raise DeclinedError("this device protects its data itself: it does not tell how good a model is on it")
        if self._trainer is None or self._algorithm is None or ask.settings.protects:
            raise DeclinedError("nothing is measured in this run")
        trainer, held = self._trainer, self._whole().client_test(0)
        if not len(held):
            raise DeclinedError("this device holds no examples back to measure with")
        kept = self._own_state().after() if self._algorithm.keeps else {}
        client = client_of(ask, len(held), trainer.learnt, kept)

        def answer(waiting: Mapping[int, Any]) -> dict[int, Answered]:
            if not isinstance(waiting[0], Score):
                raise RefusedError("a method's way to measure may ask for scores alone")
            return {0: trainer.score(waiting[0], held)}

        found = run_halves({0: self._algorithm.evaluate(ask, client)}, {0: ask}, answer)[0]
        if not isinstance(found, Scored):
            raise found if isinstance(found, Exception) else RefusedError("the method gives no score")
        facts = {"loss": found.loss, "accuracy": found.accuracy, "examples": found.examples}
        return wire.answer(facts, message)

    def _own_state(self) -> OwnState:
        assert self._task is not None
        return OwnState(self.folder.states / f"{self._task.state_name()}.safetensors")

    def _reply(self, update: Update, message: Message, more: Mapping[str, Any] = MappingProxyType({})) -> Message:
        facts, content = wire.telling(update)
        return wire.answer({**more, **facts}, message, content)

    def _train_parts(
        self,
        parts: HalvesMaker,
        asked: wire.Letter,
        budget: Budget | None,
        weights: Weights,
        local: LocalTask,
        settings: LocalSettings,
    ) -> Trained:
        """Train this device's parts of a network, over a stream to the coordinator's split server."""
        parts.check(weights, local.examples, settings)
        if budget is not None and settings.work != "local-dp":
            raise PrivacyError(
                "this device protects its data itself, but the round's noise leaves the server to be trusted: set "
                "privacy.noise = 'client'"
            )
        # What the server answers is never the same again, so no noise may be either, and no drawn batch.
        local = LocalTask(local.examples, _fresh(), _fresh())
        assert self._task is not None
        split = self._task.facts.split
        assert split is not None
        device = Device(parts, split.terms, weights, local, settings)

        def spend() -> None:
            if budget is not None:
                budget.spend(settings, secrets.token_hex(16), RELEASES)

        return self._over_stream(device, asked, split.codec, spend)

    def _over_stream(
        self, device: Device, asked: wire.Letter, codec: Codec, connected: Callable[[], None] = lambda: None
    ) -> Trained:
        """Train over a stream to the coordinator's split server; `connected` is called once there is one to send to."""
        address, token, seconds = _where(asked, self.wishes.url)
        with StreamLine(address, token, codec, seconds, self.folder.authority(), self.stop) as line:
            connected()
            for _ in device.train(line):
                pass
            line.finish()
        return device.update()

    def _ready(self, name: str, weights: Weights | None) -> None:
        """See that this node holds a task, and that the weights are of its network."""
        if name != self._name:
            self._load(name)
        if self._task is None or name != self._name:
            raise RefusedError(task.NO_TASK)
        like = self._task.weights_like if self._party is None else self._party.weights_like
        if weights is not None and (problem := problem_with(weights, like)):
            raise RefusedError(f"the weights are not of the task's network: {problem}")

    def _fit(self, settings: LocalSettings) -> Examples:
        """Return the examples; where they are protected, single unfit ones are left out, as in simulation."""
        return self._whole().client(0, drop_unfit=settings.work != "sgd")

    def _whole(self) -> FederatedDataset:
        assert self._task is not None
        assert self._examples is not None
        return task.fitting(self._task.facts, self._examples)

    def _budget(self) -> Budget | None:
        """Return what limits this device; None where another protects the data, and the owner set no limit."""
        assert self._task is not None
        planned = self._task.facts.planned
        if self.wishes.epsilon:
            delta = min(self.wishes.delta, planned.delta) if planned else self.wishes.delta
            return Budget(self._ledger, self.wishes.epsilon, delta)
        if planned is None:
            return None
        # As much as the plan takes, reckoned as this device reckons.
        history = [(planned.noise_multiplier, planned.sample_rate, planned.steps)]
        if planned.reports:
            history.append((planned.reports_noise, 1.0, planned.reports))
        most = epsilon(history, planned.delta, ACCOUNTANT)
        return Budget(self._ledger, most * (1 + 1e-9), planned.delta)

    def _deliver(self, asked: wire.Letter) -> dict[str, Any]:
        record = delivery.accept(self.folder, asked.content, asked.facts.get("signature"))
        if "problem" in record:
            log.warning("%s", record["problem"])
        else:
            log.info("model version %d is in use", record["version"])
        return {key: record[key] for key in ("run", "version", "problem") if key in record}

    def _statistics(self, asked: wire.Letter) -> dict[str, Any]:
        if "statistics" not in self.wishes.share:
            raise DeclinedError("this device's owner does not share statistics")
        weights = asked.weights()
        self._ready(str(asked.facts.get("task", "")), weights)
        if self._trainer is None:
            raise DeclinedError("of a network that is cut, this device has parts alone: it gives no statistics")
        assert self._examples is not None
        noise = float(asked.facts.get("noise", 0.0))
        if not (np.isfinite(noise) and noise >= statistics.LEAST_NOISE):
            raise PrivacyError(f"statistics need a noise multiplier of at least {statistics.LEAST_NOISE}")
        digest = self._digest("statistics", weights, f"{noise!r}")
        draw = digest.hex()[:32]
        number = self._ledger.round_of(draw) or self._ledger.rounds + 1
        # Where nothing else is limited, so many reports are, that the noise cannot be averaged out.
        budget = self._budget() or Budget(self._ledger, STATISTICS_EPSILON, self.wishes.delta)
        budget.charge(Charge(number, "example", "client", noise, 1.0, 1, None, draw))
        each = statistics.contributions(self._examples, self._trainer.scores(weights, self._examples.x))
        return {"sum": statistics.noised_sum(each, noise, _rng(digest, "noise")).tolist()}

    def _digest(self, purpose: str, weights: Weights, settings: str) -> bytes:
        """Return what this node's random numbers for a piece of work come from.

        The same work on the same weights and examples gives the same numbers, so that a round repeated after a crash
        releases nothing new; anything else, by one bit, gives others. Nobody without the node's secret can tell them.
        """
        mac = hmac.new(self._secret.to_bytes(32, "big"), digestmod=hashlib.sha256)
        for part in (purpose, self._name, self.kind, self._owned, settings):
            mac.update(len(part).to_bytes(4, "big") + part.encode())
        for name, array in weights.items():
            mac.update(name.encode() + b"\0" + np.ascontiguousarray(array).tobytes())
        return mac.digest()


def replying(answer: Callable[[Message], Message], message: Message) -> Message:
    """Return the reply to a message; what goes wrong becomes an error reply that says so."""
    try:
        return answer(message)
    except DeclinedError as error:
        log.info("declined: %s", error)
        return error_reply(CLIENT_DECLINED, str(error), message)
    except EdgekitError as error:
        log.warning("%s", error)
        return error_reply(CLIENT_RAISED, str(error), message)
    except MemoryError:
        log.warning("out of memory")
        return error_reply(CLIENT_RAISED, "this device has too little memory for the task", message)
    except OSError as error:
        log.warning("%s", error)
        return error_reply(CLIENT_RAISED, f"the device's disk or system: {error.strerror or error}", message)
    except Exception as error:  # whatever a message or a user's module brings: the node goes on
        log.exception("a message could not be answered")
        return error_reply(CLIENT_RAISED, f"{type(error).__name__}: {error}", message)


def _plain(trained: Trained) -> Update:
    """Return what a plain training made, as an update."""
    return Update({WEIGHTS: trained.arrays}, trained.examples, facts_of(trained))


def _told_as_text(ask: Ask) -> str:
    """Return what a round tells beside arrays."""
    return f"{ask.round} {with_mu(ask).to_json()} {json.dumps(dict(ask.config), sort_keys=True, default=str)}"


def _where(asked: wire.Letter, url: str) -> tuple[str, bytes, float]:
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


def _fingerprint(examples: Examples) -> str:
    """Return what changes when a single value of the examples does."""
    content = hashlib.sha256(np.ascontiguousarray(examples.x).tobytes())
    content.update(np.ascontiguousarray(examples.y).tobytes())
    return content.hexdigest()


def _fresh() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(secrets.randbits(128)))


def _rng(digest: bytes, purpose: str) -> np.random.Generator:
    seed = hmac.new(digest, purpose.encode(), hashlib.sha256).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(int.from_bytes(seed, "big"))))
