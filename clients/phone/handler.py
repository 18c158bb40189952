"""Answers a coordinator's messages for phones: what they mean is settled here, the work is done in the page."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from edgekit import wire
from edgekit.algorithms.base import with_mu
from edgekit.arrays import Weights, problem_with, to_bytes
from edgekit.asks import WEIGHTS
from edgekit.clients.node import task
from edgekit.clients.node.agreement import words
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.node.handler import replying
from edgekit.clients.node.held import DeclinedError
from edgekit.clients.node.task import Task
from edgekit.clients.phone.activity import told
from edgekit.clients.phone.frames import Frame
from edgekit.clients.phone.line import Line, PausedError
from edgekit.errors import EdgekitError, RefusedError
from edgekit.export.metadata import read_metadata
from edgekit.flower.parcel import ends_of
from edgekit.version import __version__

log = logging.getLogger("edgekit.phone")

LARGEST_WEIGHT = 1e6
"""Weights beyond this are nobody's: they would drag the average with them."""
MOST_EXAMPLES = 10_000
"""That anybody made by hand."""


class Board:
    """What all phones of a gateway share: the task, and how the federation gets on.

    Args:
        folder: where tasks are kept over restarts.
        signing_key: of the coordinator.
        on_news: called when one of them changed.
    """

    def __init__(self, folder: Path, signing_key: str, on_news: Callable[[], None] = lambda: None) -> None:
        self._folder, self.signing_key, self._on_news = folder, signing_key, on_news
        self._lock, self._taking = threading.Lock(), threading.Lock()
        self.name = ""
        self.task: Task | None = None
        self.training: dict[str, Any] = {}
        self.progress: dict[str, Any] = {}
        kept = sorted(folder.glob("*.task"), key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(RefusedError):
            self.holds(kept[-1].stem if kept else "")

    def take(self, content: bytes, signature: object) -> None:
        """Take a task, if the coordinator signed it.

        Raises:
            RefusedError: it did not, or this is no task for phones.
        """
        task.verify(self.signing_key, content, signature)
        name = task.name_of(content)
        with self._taking:  # after a restart of the coordinator, every phone is sent it
            if name != self.name:
                self._use(name, Task.from_bytes(content))
                task.keep(self._folder, content)

    def holds(self, name: str) -> bool:
        """Whether this task is here; one that was kept is loaded."""
        if name and name != self.name and (found := task.kept(self._folder, name)) is not None:
            self._use(name, found)
        return bool(name) and name == self.name

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Take how the federation gets on."""
        if dict(progress) != self.progress:
            self.progress = dict(progress)
            self._on_news()

    def whole(self, weights: Weights) -> Weights:
        """Return all parameters of the training graph, in its order: those that are trained, and the task's others."""
        with self._lock:
            fixed = {} if self.task is None else self.task.fixed
            names = [parameter["name"] for parameter in self.training["parameters"]]
        held = {**fixed, **weights}
        if missing := [name for name in names if name not in held]:
            raise RefusedError(f"the task lacks the parameter {missing[0]!r} of its training graph")
        return {name: held[name] for name in names}

    def frame(self, has: str = "") -> Frame | None:
        """Return the task for a page; without its training graph if it `has` this task. None if there is no task."""
        with self._lock:
            name, made, training = self.name, self.task, self.training
        if made is None or made.training is None:
            return None
        graph = {} if has == name else {"graph": np.frombuffer(made.training, np.uint8)}
        return Frame("task", {"name": name, "task": told(made.facts), "training": training}, graph)

    def _use(self, name: str, made: Task) -> None:
        training = read_metadata(made.training) if made.training is not None else None
        if training is None or training.get("kind") != "training":
            raise RefusedError("the task came without the training graph that phones need")
        with self._lock:
            self.name, self.task, self.training = name, made, training
        log.info("the task: %s. %s", made.facts.run, words(made.facts))
        self._on_news()


class GatewayHandler:
    """The gateway's own node: it takes the task and the progress for its phones, and trains nothing.

    Args:
        board: that the phones share.
        name: of the gateway.
    """

    def __init__(self, board: Board, name: str) -> None:
        self._board, self._name = board, name

    def answer(self, message: Message) -> Message:
        """Return the reply to a message."""
        return replying(self._answer, message)

    def _answer(self, message: Message) -> Message:
        asked = wire.read(message)
        action = asked.facts.get("action")
        if action == "install":
            self._board.take(asked.content, asked.facts.get("signature"))
        elif action != "prepare":
            raise RefusedError("this node stands for phones: it trains nothing itself")
        progress = asked.facts.get("progress")
        if isinstance(progress, dict):
            self._board.tell(progress)
        tasks = asked.facts.get("tasks")
        wanted = str(tasks.get("gateway", "")) if isinstance(tasks, dict) else ""
        holds = action == "install" or self._board.holds(wanted)
        return wire.answer({"version": __version__, "kind": "gateway", "name": self._name, "holds": holds}, message)


class PhoneHandler:
    """One phone's node.

    Args:
        board: that all phones share.
        line: to the phone's page.
        name: of the phone.
        stopped: whether its node is to end.
    """

    def __init__(self, board: Board, line: Line, name: str, stopped: Callable[[], bool]) -> None:
        self._board, self._line, self._name, self._stopped = board, line, name, stopped

    def answer(self, message: Message) -> Message:
        """Return the reply to a message."""
        return replying(self._answer, message)

    def _answer(self, message: Message) -> Message:
        if message.metadata.message_type == "train":
            return self._train(message)
        asked = wire.read(message)
        action = str(asked.facts.get("action"))
        if action == "prepare":
            tasks = asked.facts.get("tasks")
            return wire.answer(self._told(str(tasks.get("phone", "")) if isinstance(tasks, dict) else ""), message)
        if action == "install":
            self._board.take(asked.content, asked.facts.get("signature"))
            return wire.answer(self._told(self._board.name), message)
        if action == "deliver":
            return wire.answer(self._deliver(asked, message), message)
        raise RefusedError(f"phones (edgekit {__version__}) do not know {action[:40]!r}")

    def _told(self, wanted: str) -> dict[str, Any]:
        facts = self._board.task.facts if self._board.task is not None else None
        counts = facts is not None and facts.counts and facts.planned is None
        return {
            "version": __version__,
            "kind": "phone",
            "name": self._name,
            "holds": self._board.holds(wanted),
            "problem": "" if self._line.is_ready else "its person has not started it",
            "examples": self._line.examples if counts else -1,
            "statistics": False,
            "model": self._line.model,
        }

    def _train(self, message: Message) -> Message:
        asked = wire.read(message)
        ask = wire.ask_of(asked)
        settings, weights = with_mu(ask), ask.bundles[WEIGHTS]
        if not self._board.holds(str(asked.facts.get("task", ""))):
            raise task.LacksTaskError
        made = self._board.task
        assert made is not None
        if problem := problem_with(weights, made.weights_like):
            raise RefusedError(f"the weights are not of the task's network: {problem}")
        whole = self._board.whole(weights)
        flat = np.concatenate([array.ravel() for array in whole.values()])
        facts = {
            "id": message.metadata.message_id,
            "task": self._board.name,
            "round": ask.round,
            "settings": dataclasses.asdict(settings),
        }
        reply = self._ask(Frame("train", facts, {"w": flat}), message, "update")
        arrays = {name: array for name, array in update_of(reply, whole).items() if name in weights}
        return wire.answer(_figures(reply, private=settings.protects), message, to_bytes(arrays))

    def _deliver(self, asked: wire.Message, message: Message) -> dict[str, Any]:
        task.verify(self._board.signing_key, asked.content, asked.facts.get("signature"))
        delivery = Delivery.from_bytes(asked.content)
        facts = {
            "id": message.metadata.message_id,
            "run": delivery.run,
            "version": delivery.version,
            "accuracy": delivery.accuracy,
            "tolerance": delivery.tolerance,
        }
        model: Weights = {
            "model": np.frombuffer(delivery.model, np.uint8),
            "probe": np.asarray(delivery.probe, np.float32),
            "scores": np.asarray(delivery.scores, np.float32),
        }
        reply = self._ask(Frame("deliver", facts, model), message, "delivered")
        if problem := reply.facts.get("problem"):
            return {
                **self._line.model,
                "problem": f"version {delivery.version} was not taken: {wire.one_line(problem)}",
            }
        self._line.model = {"run": delivery.run, "version": delivery.version}
        return dict(self._line.model)

    def _ask(self, frame: Frame, message: Message, wanted: str) -> Frame:
        until = ends_of(message)
        try:
            reply = self._line.ask(frame, until, self._stopped)
        except PausedError as error:
            raise DeclinedError(str(error)) from None
        if reply.type == "declined":
            raise DeclinedError(wire.one_line(reply.facts.get("problem", "the page does not train now")))
        if reply.type != wanted:
            raise EdgekitError(f"the page: {wire.one_line(reply.facts.get('problem', 'it gave no reason'))}")
        return reply


def update_of(reply: Frame, weights: Weights) -> Weights:
    """Return a page's update as named arrays.

    Args:
        reply: with `w`, all arrays one after the other.
        weights: of the network: names, shapes, and their order.

    Raises:
        RefusedError: it does not fit, or no training gives such numbers.
    """
    flat = reply.arrays.get("w")
    size = sum(array.size for array in weights.values())
    if flat is None or list(reply.arrays) != ["w"] or flat.dtype != np.float32 or flat.shape != (size,):
        raise RefusedError(f"the page's update is not one float32 array 'w' of {size} values")
    if not np.abs(flat).max(initial=0.0) <= LARGEST_WEIGHT:
        raise RefusedError(f"the page's update holds values beyond {LARGEST_WEIGHT:g}")
    pieces = np.split(flat, np.cumsum([array.size for array in weights.values()])[:-1])
    return {
        name: np.array(piece.reshape(like.shape)) for (name, like), piece in zip(weights.items(), pieces, strict=True)
    }


def _figures(reply: Frame, *, private: bool) -> dict[str, Any]:
    """Return the figures of an update; of protected examples, none."""
    if private:
        return {"num-examples": 1}
    count, loss = reply.facts.get("examples"), reply.facts.get("loss")
    if type(count) is not int or not 0 < count <= MOST_EXAMPLES:
        raise RefusedError("the page does not say how many examples it trained on")
    told_too = {"train_loss": float(loss)} if isinstance(loss, int | float) and abs(loss) < 1e9 else {}
    return {"num-examples": count, **told_too}
