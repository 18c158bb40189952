"""FLTrust: clients count by how far they go where the server's own examples lead (Cao et al. 2021, algorithm 2)."""

from collections.abc import Generator
from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgekit.algorithms.base import Algorithm, State
from edgekit.algorithms.robust import changes, dot, moved, summed
from edgekit.asks import WEIGHTS, Aggregate, Request, Train
from edgekit.section import Section


class FLTrustSettings(Section):
    """The method's own."""

    rate: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Alpha: the server's step size."""


class FLTrust(Algorithm):
    """The server trains too, on its own examples (`data.calibration_examples`); a client's trust is max(0, cosine).

    Every change is scaled to the server's length, and the model moves by their mean by trust; not at all where nobody
    is trusted.
    """

    Settings: ClassVar[type[Section]] = FLTrustSettings
    settings: FLTrustSettings
    reads = "each"

    def merge(self, state: State, got: Aggregate, number: int) -> Generator[Request, Any, State]:
        """Train at the server, and weigh."""
        before, each = state.bundles[WEIGHTS], changes(state, got)
        trained = yield Train(before, got.settings)
        root = {name: trained.arrays[name] - w for name, w in before.items()}
        length = dot(root, root) ** 0.5
        norms = [dot(one, one) ** 0.5 for one in each]
        cosines = [dot(one, root) / (norm * length or 1.0) for one, norm in zip(each, norms, strict=True)]
        trust = [max(0.0, cosine) for cosine in cosines]
        total = sum(trust)
        metrics = {"trusted": float(sum(one > 0 for one in trust)), **got.facts}
        if not total:
            return State({WEIGHTS: before}, {"metrics": metrics})
        far = self.settings.rate * length / total
        scales = [far * one / norm if one else 0.0 for one, norm in zip(trust, norms, strict=True)]
        return State({WEIGHTS: moved(state, summed(each, scales))}, {"metrics": metrics})
