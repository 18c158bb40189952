"""FedBN: norms stay with their client, for clients whose features differ (Li et al. 2021, section 3)."""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.algorithms.base import Client, Half, State
from edgekit.algorithms.personal import Personal
from edgekit.asks import WEIGHTS, Ask, Bundles, Request, Scored
from edgekit.errors import ModelError, TrainingError
from edgekit.models.settings import Model
from edgekit.section import Section

if TYPE_CHECKING:
    from torch import nn

STAY = "norms"
"""Key of the norms' names, JSON, in what a client is told."""
NORMS = ("BatchNorm", "GroupNorm", "LayerNorm", "InstanceNorm", "RMSNorm")
"""Parts of the class names of layers that normalise."""


class FedBN(Personal):
    """Federated averaging of all but the norms, with their statistics: as `personal` with the norms' names."""

    Settings: ClassVar[type[Section]] = Section
    norms: Sequence[str] = ()

    def prepare(
        self,
        model: Model,
        shape: Sequence[int],
        build: "Callable[[Model], nn.Module]",
        *,
        released: bool,
        seed: int,
    ) -> None:
        """Find the network's norms.

        Raises:
            ModelError: it has none.
        """
        layers = build(model).named_modules()
        self.norms = [name for name, layer in layers if any(one in type(layer).__name__ for one in NORMS)]
        if not self.norms:
            raise ModelError("fedbn keeps norms with their clients, and the network has none: set model.norm = 'group'")

    @property
    def patterns(self) -> Sequence[str]:
        """The norms' names."""
        return self.norms

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Send all weights, and which stay: devices need not know the network's layers."""
        return dict.fromkeys(clients, Ask({WEIGHTS: state.bundles[WEIGHTS]}, {STAY: json.dumps(list(self.norms))}))

    def local(self, ask: Ask, client: Client) -> Half:
        """Train all layers, and send all but norms."""
        self._told(ask)
        return (yield from super().local(ask, client))

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the shared layers together with the client's own norms."""
        self._told(ask)
        return (yield from super().evaluate(ask, client))

    def expects(self, ask: Ask) -> Bundles:
        """Expect what is shared."""
        self._told(ask)
        return super().expects(ask)

    def _told(self, ask: Ask) -> None:
        """Take the norms' names, on a device that has not seen the network.

        Raises:
            TrainingError: they are no names.
        """
        try:
            names = json.loads(str(ask.config.get(STAY, "[]")))
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TrainingError(f"{STAY} is not a list of layers' names")
        self.norms = names
