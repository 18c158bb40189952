"""All parties in one process, with the coordinator's part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.algorithms.base import plain_update, with_mu
from edgekit.algorithms.interactive import Line, Own, Turns
from edgekit.algorithms.parties.party import rng_of, task_of, terms_of
from edgekit.algorithms.parties.server import MeetingLine, VerticalServer
from edgekit.algorithms.split.by_torch import TorchDevice
from edgekit.algorithms.split.settings import Split
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Trained, Update
from edgekit.data import batches
from edgekit.data.batches import LocalTask
from edgekit.data.federated import Integers
from edgekit.data.vertical import VerticalDataset
from edgekit.errors import TrainingError
from edgekit.models.vertical import VerticalNetwork
from edgekit.privacy.intersection import Side, in_common, known_to_all


class PartiesTogether:
    """The coordinator's side of all parties' rounds (see `interactive.Counterpart`); they train on those whom all know.

    Args:
        split: the experiment's section.
        model: the network.
        dataset: the parties' tables, and the labels.
        seed: of the batches.
        on_notice: called with a line for people.

    Attributes:
        trainer: for people.
        device_bytes: mean size of the parties' networks.
        labels: of the people who are trained on.
        features: of the same people, of each party.

    Raises:
        TrainingError: nobody is known to all.
    """

    turns: Turns = "together"

    def __init__(
        self,
        split: Split,
        model: VerticalNetwork,
        dataset: VerticalDataset,
        seed: int,
        on_notice: Callable[[str], None],
    ) -> None:
        networks, top = model.in_parts()
        self.trainer = f"split learning with {dataset.clients} parties that hold different features"
        self._codec, self._seed = split.codec, seed
        self._terms = terms_of(split.window, split.embedding)
        self._devices = [TorchDevice(network, None) for network in networks]
        self._server = VerticalServer(top, len(networks), split.embedding, split.window)
        on_notice(f"aligning {len(dataset.ids)} ids with {len(networks)} parties by private set intersection")
        own, rows = align(dataset.ids, [Side(table.ids) for table in dataset.parties])
        if not len(own):
            raise TrainingError("no id that has a label is known to all parties")
        on_notice(f"{len(own)} of {len(dataset.ids)} ids are known to all parties: these are trained on")
        self.labels = dataset.labels[own]
        self.features = [table.x[chosen] for table, chosen in zip(dataset.parties, rows, strict=True)]
        sizes = [sum(array.nbytes for array in one.state_dict().values()) for one in networks]
        self.device_bytes = sum(sizes) // len(sizes)
        self._lines: list[MeetingLine] = []
        self._up = self._down = 0

    def task(self, client: int, number: int) -> LocalTask | None:
        """Return a party's rows, in the order that all parties have."""
        return task_of(self.features[client], self._seed, number)

    def begin(self, asks: Mapping[int, Ask], tasks: Mapping[int, LocalTask]) -> dict[int, tuple[Own, Line]]:
        """Begin a round; return what each party works with, and its line.

        Raises:
            TrainingError: one is missing.
        """
        if len(asks) < len(self._devices):
            raise TrainingError(f"all {len(self._devices)} parties must take part, {len(asks)} were asked")
        ask = next(iter(asks.values()))
        settings = with_mu(ask)
        steps = batches.draw(len(self.labels), settings, rng_of(self._seed, ask.round))
        labels = [self.labels[step] for step in steps]
        self._server.begin(ask.bundles[WEIGHTS], settings, self._seed + ask.round, labels)
        self._lines = [MeetingLine(self._server, party, self._codec) for party in range(len(self._devices))]
        return {
            party: (Own(self._devices[party], tasks[party], self._terms), self._lines[party]) for party in sorted(asks)
        }

    def end(self, ended: Mapping[int, Any], asks: Mapping[int, Ask]) -> dict[int, Any]:
        """Return the whole network after the round, the same for all parties; or why there is none."""
        self._up += sum(line.bytes_up for line in self._lines)
        self._down += sum(line.bytes_down for line in self._lines)
        problem = next((one for one in ended.values() if isinstance(one, Exception)), None)
        if problem is not None:
            return dict.fromkeys(ended, problem)
        arrays: Weights = self._server.weights()
        for update in ended.values():
            arrays = {**arrays, **update.bundles[WEIGHTS]}
        before = next(iter(asks.values())).bundles[WEIGHTS]
        loss = float(np.mean(self._server.losses))
        whole: Update = plain_update(Trained({name: arrays[name] for name in before}, len(self.labels), loss))
        return dict.fromkeys(ended, whole)

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of embeddings and gradients, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found


def align(ids: Sequence[str], parties: Sequence[Side]) -> tuple[Integers, list[Integers]]:
    """Find the ids that the coordinator and all parties have, without telling each other the rest.

    The coordinator learns which of its ids each party has, and how many that has; a party learns which of its own are
    trained on, and how many ids the coordinator has.

    Args:
        ids: the coordinator's own.
        parties: the other sides.

    Returns:
        Rows of the coordinator's own ids, ascending, and for each party the rows of its own in the same order.
    """
    found = []
    for party in parties:
        ours = Side(ids)  # a secret for each party: two of them together learn no more
        found.append(in_common(ours, party.hidden_again(ours.hidden()), party.hidden()))
    rows, places = known_to_all(found)
    return rows, [party.rows(chosen) for party, chosen in zip(parties, places, strict=True)]
