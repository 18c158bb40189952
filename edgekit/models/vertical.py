"""Networks for features that lie with several parties: one of each party's own, and one that joins what they give.

(Ceballos et al. 2020, SplitNN-driven vertical partitioning, section 3: merging by concatenation.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.data.federated import Floats
from edgekit.models.registry import begin, build
from edgekit.models.settings import Model


class PartyNetwork(nn.Module):
    """One party's network; its arrays have the names that they have in the whole one.

    Args:
        place: of the party.
        network: from its features to an embedding.
    """

    def __init__(self, place: int, network: nn.Module) -> None:
        super().__init__()
        self._place = str(place)
        self.parties = nn.ModuleDict({self._place: network})

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings."""
        found: Tensor = self.parties[self._place](x)
        return found


class TopNetwork(nn.Module):
    """Joins the parties' embeddings: (examples, parties x embedding) to scores.

    Args:
        inputs: numbers of all embeddings together.
        classes: how many.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.ReLU(), nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        found: Tensor = self.top(x)
        return found


class VerticalNetwork(nn.Module):
    """All parties' networks and the one that joins them; features lie side by side along the last axis.

    Args:
        networks: of the parties.
        top: joins them.
        widths: of the parties' features.
    """

    def __init__(self, networks: Sequence[nn.Module], top: TopNetwork, widths: Sequence[int]) -> None:
        super().__init__()
        self.parties = nn.ModuleDict({str(place): network for place, network in enumerate(networks)})
        self.top = top.top
        self.widths = list(widths)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        pieces = torch.split(x, self.widths, -1)
        embeddings = [network(piece) for network, piece in zip(self.parties.values(), pieces, strict=True)]
        found: Tensor = self.top(torch.cat(embeddings, 1))
        return found

    def in_parts(self) -> tuple[list[PartyNetwork], TopNetwork]:
        """Return the parties' networks and the one that joins them; they share this one's arrays."""
        top = TopNetwork(1, 1)
        top.top = self.top
        return [PartyNetwork(place, self.parties[str(place)]) for place in range(len(self.widths))], top


def party_network(settings: Model, place: int, shape: tuple[int, ...], embedding: int) -> PartyNetwork:
    """Build one party's network alone; what its weights are, the coordinator says.

    Args:
        settings: the experiment's [model] section.
        place: of the party.
        shape: of its features.
        embedding: numbers that it makes of an example.

    Raises:
        EdgekitError: as of `build`.
    """
    return PartyNetwork(place, build(settings, shape, embedding, 0))


def build_vertical(
    settings: Model,
    shape: Sequence[int],
    widths: Sequence[int],
    embedding: int,
    classes: int,
    seed: int,
    calibration: Floats | None = None,
) -> VerticalNetwork:
    """Build a network for features of several parties.

    Args:
        settings: the experiment's [model] section, for the network of each party.
        shape: of one example of all parties together.
        widths: of the parties' features, along the last axis.
        embedding: numbers that each party makes of an example.
        classes: how many.
        seed: of the initial values.
        calibration: examples to scale them by, of all parties together.

    Raises:
        EdgekitError: as of `build`; the network cannot take a party's features, for example.
    """
    plain = settings.model_copy(update={"activation": "relu"})  # the whole network's are exchanged below
    networks = [
        build(plain, (*shape[:-1], width), embedding, (seed + place) % 2**63) for place, width in enumerate(widths)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((seed + len(widths)) % 2**63)
        top = TopNetwork(len(widths) * embedding, classes)
    model = VerticalNetwork(networks, top, widths).eval()
    begin(model, settings, calibration)
    return model
