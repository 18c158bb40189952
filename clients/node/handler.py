"""Answers a coordinator's messages on a device. The resident node and Flower's stock SuperNode both use it."""

import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Message

from edgekit import wire
from edgekit.arrays import to_bytes
from edgekit.clients.budget import ACCOUNTANT, Budget, PlannedRun
from edgekit.clients.node import conditions, delivery, statistics, task
from edgekit.clients.node.agreement import words
from edgekit.clients.node.folder import NodeFolder
from edgekit.clients.node.held import DeclinedError, Held, rng_of
from edgekit.clients.node.party import NotAlignedError
from edgekit.clients.node.rounds import Rounds
from edgekit.clients.node.task import LacksTaskError, Task
from edgekit.enrolment import version_problem
from edgekit.errors import EdgekitError, PrivacyError, RefusedError, StoppedError
from edgekit.flower import CLIENT_DECLINED, CLIENT_RAISED, NODE_LACKS_TASK, NODE_NOT_ALIGNED
from edgekit.flower.parcel import error_reply
from edgekit.privacy import Charge, epsilon
from edgekit.version import __version__

log = logging.getLogger("edgekit.node")


STATISTICS_EPSILON = 10.0
"""What noised statistics may spend in all where neither the plan nor the owner limits the device."""
MOST_REPORTS = 1 << 20
PATH = re.compile(r"(?<![\w:/.)])(?:~|\.{1,2}|[A-Za-z]:)?[/\\][^\s:'\",;()]+")


CODES: dict[type[EdgekitError], int] = {LacksTaskError: NODE_LACKS_TASK, NotAlignedError: NODE_NOT_ALIGNED}
"""Errors that a coordinator acts upon; by code, since words are for people."""


class Handler:
    """One node's side of the conversation; network, interpreter and examples stay loaded between messages.

    Args:
        folder: of the node.
        stop: ends what waits for a split server; None makes one.
        lasting: whether this process lasts over messages.
    """

    def __init__(self, folder: NodeFolder, stop: threading.Event | None = None, *, lasting: bool = True) -> None:
        self.folder = folder
        self.stop = stop or threading.Event()
        self.held = Held(folder, lasting=lasting)
        self.kind = self.held.kind
        self._rounds = Rounds(self.held, self.stop)

    def answer(self, message: Message) -> Message:
        """Return the reply to a message; what goes wrong becomes an error reply that says so."""
        return replying(self._answer, message)

    def _answer(self, message: Message) -> Message:
        if message.metadata.message_type == "train":
            return self._rounds.train(message)
        if message.metadata.message_type == "evaluate":
            return self._rounds.measure(message)
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

    def _prepare(self, asked: wire.Message) -> dict[str, Any]:
        """Say what this node is, and whether it holds the task."""
        tasks = asked.facts.get("tasks")
        name = str(tasks.get(self.kind, "")) if isinstance(tasks, dict) else ""
        problem = version_problem(asked.facts.get("version", __version__), "the coordinator")
        if problem:
            log.warning("%s", problem)
            return self._told(False, problem)
        try:
            holds = bool(name) and (name == self.held.name or self.held.load(name))
        except EdgekitError as error:
            holds, problem = True, str(error)
            log.warning("%s", problem)
        return self._told(holds, problem)

    def _install(self, asked: wire.Message) -> dict[str, Any]:
        """Take a task, if the coordinator signed it."""
        content = asked.content
        task.verify(self.folder.membership().signing_key, content, asked.facts.get("signature"))
        made = Task.from_bytes(content)  # refused before it is kept
        log.info("the task: %s. %s", made.facts.run, words(made.facts))
        problem = ""
        try:
            self.held.load(task.keep(self.folder.tasks, content))
        except EdgekitError as error:
            problem = str(error)
            log.warning("%s", problem)
        return self._told(True, problem)

    def _told(self, holds: bool, problem: str) -> dict[str, Any]:
        facts = self.held.task.facts if self.held.task is not None else None
        # How many there are tells of them: only where another protects the data, and the owner set no limit.
        counts = facts is not None and facts.counts and facts.planned is None and not self.held.node_settings.epsilon
        return {
            "version": __version__,
            "kind": self.kind,
            "name": self.held.node_settings.name,
            "holds": holds,
            "problem": problem,
            "examples": len(self.held.examples) if counts and self.held.examples is not None else -1,
            "statistics": "statistics" in self.held.node_settings.share,
            "model": {key: value for key, value in delivery.current(self.folder).items() if key in ("run", "version")},
            **(self.held.side.told if self.held.side is not None else {}),
            **conditions.facts(self.held.node_settings.share),
        }

    def _align(self, asked: wire.Message, message: Message) -> Message:
        """Take part in finding out on whom all can train."""
        self.held.ready(str(asked.facts.get("task", "")), None)
        if self.held.side is None:
            raise RefusedError("the task knows no parties")
        facts, points = self.held.side.align(asked)
        return wire.answer(facts, message, to_bytes(points))

    def _deliver(self, asked: wire.Message) -> dict[str, Any]:
        record = delivery.accept(self.folder, asked.content, asked.facts.get("signature"))
        if "problem" in record:
            log.warning("%s", record["problem"])
        else:
            log.info("model version %d is in use", record["version"])
        return {key: record[key] for key in ("run", "version", "problem") if key in record}

    def _statistics(self, asked: wire.Message) -> dict[str, Any]:
        if "statistics" not in self.held.node_settings.share:
            raise DeclinedError("this device's owner does not share statistics")
        weights = asked.weights()
        self.held.ready(str(asked.facts.get("task", "")), None)
        assert self.held.task is not None
        buffers = {name: weights[name] for name in weights if name not in self.held.task.weights_like}
        self.held.ready(self.held.name, {name: weights[name] for name in weights if name not in buffers})
        if self.held.trainer is None:
            raise DeclinedError("this device has a part of the network alone: it gives no statistics")
        assert self.held.examples is not None
        facts = self.held.task.facts
        if "client" in (facts.claimed, facts.planned.unit if facts.planned else ""):
            raise DeclinedError("statistics are counted as single examples', but the task protects whole devices")
        noise = float(asked.facts.get("noise", 0.0))
        if not (np.isfinite(noise) and noise >= statistics.LEAST_NOISE):
            raise PrivacyError(f"statistics need a noise multiplier of at least {statistics.LEAST_NOISE}")
        digest = self.held.digest("statistics", weights, f"{noise!r}")
        draw = digest.hex()[:32]
        number = self.held.ledger.round_of(draw) or self.held.ledger.rounds + 1
        # Where nothing else is limited, so many reports are, that the noise cannot be averaged out.
        delta = self.held.node_settings.delta
        budget = self.held.budget() or Budget(
            self.held.ledger, STATISTICS_EPSILON, delta, planned=reports_within(STATISTICS_EPSILON, noise, delta)
        )
        budget.charge(Charge(number, "example", "client", noise, 1.0, 1, None, draw))
        each = statistics.contributions(self.held.examples, self.held.trainer.scores(weights, self.held.examples.x))
        return {"sum": statistics.noised_sum(each, noise, rng_of(digest, "noise")).tolist()}


def reports_within(limit: float, noise: float, delta: float) -> PlannedRun:
    """Return the plan of as many reports with this noise as a limit has room for."""
    low, high = 1, 2
    while epsilon([(noise, 1.0, high)], delta, ACCOUNTANT) <= limit and high < MOST_REPORTS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon([(noise, 1.0, middle)], delta, ACCOUNTANT) <= limit else (low, middle)
    return PlannedRun("reports", {(noise, 1.0): low})


def without_paths(text: str) -> str:
    """Return a text without names of files: what a device's owner keeps where is nobody's business."""
    return PATH.sub("a file", text)


def replying(answer: Callable[[Message], Message], message: Message) -> Message:
    """Return the reply to a message; what goes wrong becomes an error reply that says so."""
    try:
        return answer(message)
    except DeclinedError as error:
        log.info("declined: %s", error)
        return error_reply(CLIENT_DECLINED, str(error), message)
    except StoppedError:
        raise
    except EdgekitError as error:
        log.warning("%s", error)
        return error_reply(CODES.get(type(error), CLIENT_RAISED), without_paths(str(error)), message)
    except MemoryError:
        log.warning("out of memory")
        return error_reply(CLIENT_RAISED, "this device has too little memory for the task", message)
    except OSError as error:
        log.warning("%s", error)
        return error_reply(CLIENT_RAISED, f"the device's disk or system: {error.strerror or 'see its log'}", message)
    except Exception:  # whatever a message or a user's module brings: the node goes on
        log.exception("a message could not be answered")
        return error_reply(CLIENT_RAISED, "the device failed at it; its own log says why", message)
