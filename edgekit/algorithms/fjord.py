"""FjORD: ordered dropout (Horvath et al. 2021, algorithm 1), without its distillation between widths.

At each step a client draws one of the widths that its device bears, and trains the leading channels of that width: the
first channels learn what matters most, so that narrower networks are good by themselves.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.algorithms.slices import Sliced
from edgekit.errors import ExperimentError

if TYPE_CHECKING:
    from torch import nn


class FjORD(Sliced):
    """Each weight is the mean over the clients whose widest network has it, by their numbers of examples."""

    needs_torch = "FjORD draws a width at each step, which a training graph cannot: it"

    def name_of(self, width: float) -> str:
        """Return the name of a width's network; clients train none of them as it is."""
        return f"{width:g}"

    def changed(self, networks: "Mapping[str, nn.Module]") -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Let each network leave out the outputs that narrower ones lack.

        Raises:
            ExperimentError: what is left of a network then is not the narrower one.
        """
        from edgekit.models.slices import ORDERED, counts, problem_with_order

        found: dict[str, Sequence[Mapping[str, Any]]] = {}
        for place, name in enumerate(self.names[:-1]):
            narrower = [networks[other] for other in self.names[place + 1 :]]
            if problem := problem_with_order(networks[name], narrower, self._tried()):
                raise ExperimentError(
                    f"fjord leaves channels out of one network, and {problem}: set model.norm = 'none', use another "
                    "network, or federation.algorithm = 'heterofl'"
                )
            found[name] = [{"step": ORDERED, "outputs": counts(networks[name], narrower)}]
        return found
