"""This device's side of an interactive method: what it trains with, and its half of a round over a stream."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit import wire
from edgekit.algorithms.base import Half, with_mu
from edgekit.algorithms.interactive import Own
from edgekit.algorithms.split.codec import Codec
from edgekit.algorithms.split.device import RELEASES, HalvesMaker, half
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Client
from edgekit.clients.node.folder import NodeSettings
from edgekit.clients.node.task import Task
from edgekit.data.batches import LocalTask
from edgekit.errors import PrivacyError, RefusedError

if TYPE_CHECKING:
    from edgekit.clients.node.held import Held


@dataclass(frozen=True)
class Begun:
    """A round that is ready to go over a stream.

    Attributes:
        half: of the method.
        noise: draws what is added to the update, if the round asks for that.
        connected: called once there is somebody to send to: then what is spent is written down.
        about: what is trained on, for the log.
        facts: whether this device tells of its state.
    """

    half: Half
    noise: np.random.Generator
    connected: Callable[[], None]
    about: str
    facts: bool


class Side(Protocol):
    """This device's side of an interactive method.

    Attributes:
        codec: how arrays travel.
        weights_like: arrays of the shapes of what this device is sent.
        told: what the coordinator is told of it.
        own_data: whether it brings the examples itself.
    """

    codec: Codec
    weights_like: Weights
    told: Mapping[str, Any]
    own_data: bool

    def begin(self, asked: wire.Message, ask: Ask, held: "Held") -> Begun:
        """Begin a round.

        Raises:
            EdgekitError: this device cannot, or must not, do what it asks.
        """

    def align(self, asked: wire.Message) -> tuple[dict[str, Any], Weights]:
        """Take part in finding out on whom all can train: return facts, and arrays.

        Raises:
            EdgekitError: there is nothing to align, or it cannot be.
        """


class SplitSide:
    """A device's parts of a network that is cut.

    Args:
        task: the coordinator's.
        kind: what this device trains with.
        modules: that the owner lets a task import.

    Raises:
        EdgekitError: this device cannot train them.
    """

    own_data = False
    told: Mapping[str, Any] = {}

    def __init__(self, task: Task, kind: str, modules: list[str]) -> None:
        assert task.facts.split is not None
        self._parts: HalvesMaker = task.halves(kind, modules)
        self._facts, self.codec, self.weights_like = task.facts.split, task.facts.split.codec, task.weights_like

    def align(self, asked: wire.Message) -> tuple[dict[str, Any], Weights]:
        """Refuse: devices have examples of their own.

        Raises:
            RefusedError: always.
        """
        raise RefusedError("the task knows no parties")

    def begin(self, asked: wire.Message, ask: Ask, held: "Held") -> Begun:
        """Begin a round on this device's examples.

        Raises:
            PrivacyError: the round does not protect them as their owner wants.
        """
        settings, budget = with_mu(ask), held.budget()
        if budget is None and settings.work == "local-dp":
            raise PrivacyError("the round adds noise on the device, but the task plans none")
        # What the server answers is never the same again, so no noise may be either, and no drawn batch.
        local = LocalTask(held.fit(settings), _fresh(), _fresh())
        self._parts.check(ask.bundles[WEIGHTS], local.examples, settings)
        if budget is not None and settings.work != "local-dp":
            raise PrivacyError(
                "this device protects its data itself, but the round's noise leaves the server to be trusted: set "
                "privacy.noise = 'client'"
            )

        def spend() -> None:
            if budget is not None:
                budget.spend(settings, secrets.token_hex(16), RELEASES)

        client = Client(len(local.examples), frozenset(), own=Own(self._parts, local, self._facts.terms))
        about = f"this device's examples ({settings.work})"
        return Begun(half(ask, client), local.noise_rng, spend, about, facts=True)


def side_of(task: Task, kind: str, node_settings: NodeSettings, *, lasting: bool) -> Side | None:
    """Return this device's side of a task's method; None of one whose clients train by themselves.

    Raises:
        EdgekitError: this device cannot take part.
    """
    if task.facts.vertical is not None:
        from edgekit.clients.node.party import Party

        return Party(task, kind, node_settings, lasting=lasting)
    return None if task.facts.split is None else SplitSide(task, kind, node_settings.modules)


def _fresh() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(secrets.randbits(128)))
