"""FedProx: clients are pulled towards the global model (Li et al. 2020, algorithm 2)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from edgekit.algorithms.base import PROXIMAL, State
from edgekit.algorithms.fedavg import FedAvg
from edgekit.asks import WEIGHTS, Ask
from edgekit.section import Section


class ProximalSettings(Section):
    """FedProx's own."""

    proximal_mu: Annotated[float, Field(ge=0, le=1e3)] = 0.1
    """Weight of mu / 2 |w - w_global|^2 in each client's loss."""


class FedProx(FedAvg):
    """Federated averaging of clients with a proximal term."""

    Settings: ClassVar[type[Section]] = ProximalSettings
    settings: ProximalSettings
    proximal = True

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Tell the clients mu."""
        ask = Ask({WEIGHTS: state.bundles[WEIGHTS]}, {PROXIMAL: self.settings.proximal_mu})
        return dict.fromkeys(clients, ask)
