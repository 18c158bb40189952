"""This device as a party: it has some features of people whom others know too, and the coordinator has the labels."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import plugins, wire
from edgekit.algorithms.base import with_mu
from edgekit.algorithms.interactive import Own
from edgekit.algorithms.parties.party import task_of, terms_of
from edgekit.algorithms.split.codec import Codec
from edgekit.algorithms.split.device import HalvesMaker, half
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Client
from edgekit.clients.node.folder import NodeSettings
from edgekit.clients.node.sides import Begun
from edgekit.clients.node.task import OWN_SOURCES, Task, check_allowed
from edgekit.clients.node.task_facts import PartyFacts
from edgekit.data.federated import Integers
from edgekit.data.vertical import Scale, Table, read_table, scaled
from edgekit.errors import DataError, PrivacyError, RefusedError
from edgekit.privacy.intersection import Side

if TYPE_CHECKING:
    from edgekit.clients.node.held import Held

log = logging.getLogger("edgekit.node")

MOST_NAMED = 5
"""Columns that a message names."""


class NotAlignedError(RefusedError):
    """This party was started anew: the coordinator aligns it again."""

    def __init__(self) -> None:
        super().__init__("this party has not been aligned with the others yet")


class Party:
    """A party's network and table; they stay loaded between messages.

    Args:
        task: of the coordinator, which names the parties.
        kind: what this device trains with.
        node_settings: its owner's.
        lasting: whether this process lasts over messages, as edgekit's own node does and Flower's does not.

    Attributes:
        name: of the party.
        weights_like: arrays of the shapes that its network's have.
        codec: how arrays travel.
        told: what the coordinator is told of it.

    Raises:
        EdgekitError: this device cannot take part as a party.
    """

    own_data = True

    def __init__(self, task: Task, kind: str, node_settings: NodeSettings, *, lasting: bool = True) -> None:
        if not lasting:
            raise RefusedError("a party needs edgekit's own node: join without --supernode")
        if kind != "torch":
            raise RefusedError("parties with features of the same people need torch: set trainer to torch")
        assert task.facts.vertical is not None
        self._task, self._facts = task, task.facts.vertical
        self.codec: Codec = self._facts.codec
        names = [party.name for party in self._facts.parties]
        if node_settings.epsilon:
            raise PrivacyError("what a party sends is not protected, but this device's owner limits epsilon")
        if node_settings.client >= len(names):
            raise DataError(f"client = {node_settings.client}, but there are {len(names)} parties")
        name = node_settings.party or (names[node_settings.client] if node_settings.client >= 0 else "")
        if name not in names:
            raise RefusedError(f"say which party this device is, with --party: {', '.join(names)}")
        self.name, self._place = name, names.index(name)
        self.told: Mapping[str, Any] = {"party": name}
        own = self._own
        self._read = self._made(node_settings) if node_settings.client >= 0 else _table(node_settings.data)
        self._table = self._read
        if not self._read.columns and self._read.x.shape[1:] != own.shape:
            raise DataError(f"this party's features have shape {self._read.x.shape[1:]}, the task expects {own.shape}")
        self._halves = self._network(node_settings.modules)
        self.weights_like: Weights = {name: np.empty(shape, np.float32) for name, shape in own.parameters.items()}
        self._side: Side | None = None
        self._alignment = ""

    def align(self, asked: wire.Message) -> tuple[dict[str, Any], Weights]:
        """Take part in a private set intersection: return facts, and the hidden ids of both sides.

        Raises:
            DataError: this party's columns are not those that the coordinator knows.
            RefusedError: the question cannot be read.
        """
        self._scale(asked.facts)
        points = asked.weights().get("points")
        if points is None:
            raise RefusedError("hidden ids were expected")
        side = Side(self._table.ids)
        found = {"again": side.hidden_again(points), "own": side.hidden()}
        self._side, self._alignment = side, secrets.token_hex(8)
        log.info("the coordinator asks about %d ids, hidden; this party has %d", len(points), len(self._table.ids))
        return {"alignment": self._alignment}, found

    def begin(self, asked: wire.Message, ask: Ask, held: "Held") -> Begun:
        """Begin a round with the rows that are trained on, in the order that all parties have.

        Raises:
            RefusedError: the round is no plain one, or of another alignment.
        """
        settings, number = with_mu(ask), ask.round
        if settings.work != "sgd" or settings.update_clip:
            raise RefusedError("a party makes plain rounds alone")
        if self._side is None or asked.facts.get("alignment") != self._alignment:
            raise NotAlignedError
        rows = self._side.rows(_places(asked.facts.get("places")))
        if not len(rows):
            raise RefusedError("none of this party's people is trained on")
        if number == 1:
            log.info("%d of this party's %d people are trained on", len(rows), len(self._table.ids))
        task = task_of(self._table.x[rows], self._task.facts.seed, number)
        self._halves.check(ask.bundles[WEIGHTS], task.examples, settings)
        own = Own(self._halves, task, terms_of(self._facts.window, self._facts.embedding))
        client = Client(len(rows), frozenset(), own=own)
        about = f"features of {len(rows)} people"
        return Begun(half(ask, client), task.noise_rng, lambda: None, about, facts=False)

    def _scale(self, facts: Mapping[str, Any]) -> None:
        """Scale this party's columns as those that it shows are scaled."""
        try:
            columns = [str(name) for name in facts.get("columns", ())]
            scale = Scale(*([float(value) for value in facts.get(name, ())] for name in ("mean", "std")))
            if not len(columns) == len(scale.mean) == len(scale.std) or not all(value > 0 for value in scale.std):
                raise ValueError("a mean and a deviation of each column were expected")
        except (TypeError, ValueError) as error:
            raise RefusedError(f"how columns are scaled cannot be read: {error}") from None
        if columns != list(self._read.columns):
            raise DataError(_difference(self._read.columns, columns))
        self._table = scaled(self._read, scale) if columns else self._read

    @property
    def _own(self) -> PartyFacts:
        return self._facts.parties[self._place]

    def _network(self, modules: list[str]) -> HalvesMaker:
        from edgekit.algorithms.split.by_torch import TorchDevice
        from edgekit.clients.cohort.memory import keep_freed_memory
        from edgekit.models.vertical import party_network

        check_allowed(self._task.facts.model.name, modules)
        keep_freed_memory()
        network = party_network(self._task.facts.model, self._place, self._own.shape, self._facts.embedding)
        return TorchDevice(network, None)

    def _made(self, node_settings: NodeSettings) -> Table:
        """Return a table of the experiment's own data, for trying out."""
        from edgekit.data.sources import load_vertical

        facts = self._task.facts
        check_allowed(facts.data.source, node_settings.modules)
        if not plugins.is_import_path(facts.data.source) and facts.data.source not in OWN_SOURCES:
            raise RefusedError(
                f"the task's data is {facts.data.source!r}: a task may not choose what is read on this device; "
                "give --data and --party yourself"
            )
        count = len(self._facts.parties)
        return load_vertical(facts.data, count, self._facts.coverage, facts.seed).parties[self._place]


def _table(source: str) -> Table:
    kind, _, place = source.partition(":")
    if kind not in ("csv", "npz") or not place:
        raise DataError(f"a party's data is csv:FILE or npz:FILE, a table with ids, not {source!r}")
    return read_table(Path(place))


def _difference(columns: Sequence[str], wanted: Sequence[str]) -> str:
    """Say how a table's columns are not those that were agreed."""
    if not columns or not wanted:
        return "the parties agreed on " + ("a .csv" if wanted else "an .npz")
    lacking = [name for name in wanted if name not in columns]
    more = [name for name in columns if name not in wanted]
    if lacking:
        return f"this party's table lacks the columns {', '.join(lacking[:MOST_NAMED])}"
    if more:  # whose names are nobody else's to know
        return f"this party's table has {len(more)} columns more than were agreed on"
    return f"this party's columns must come in the order {', '.join(wanted[:MOST_NAMED])} …"


def _places(found: object) -> Integers:
    if not isinstance(found, bytes) or len(found) % 8:
        raise RefusedError("a round's places cannot be read")
    return np.frombuffer(found, "<i8").astype(np.int64)
