"""HeteroFL: clients train networks as wide as their devices bear (Diao et al. 2021, algorithm 1).

Running statistics of BatchNorm have no place here, as in all of edgekit's zoo: the paper leaves them out while it
trains, and takes them anew in the end; norms by example need neither.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.algorithms.slices import Sliced, SlicesSettings
from edgekit.section import Section

if TYPE_CHECKING:
    from torch import nn


class HeteroFLSettings(SlicesSettings):
    """The method's own."""

    scaler: bool = True
    """Whether narrower networks multiply their hidden layers' outputs by what they lack (section 3.2); in what is
    delivered of them it is part of the weights."""
    masked: bool = False
    """Whether a client's loss is of the classes alone that it has examples of (masked cross entropy, section 3.3), and
    others' rows of the readout are left alone: for clients with few classes each. Needs nodes with torch."""


class HeteroFL(Sliced):
    """Each weight is the mean over the clients whose network has it, by their numbers of examples."""

    Settings: ClassVar[type[Section]] = HeteroFLSettings
    settings: HeteroFLSettings

    @property
    def own_classes(self) -> bool:  # type: ignore[override]
        """Whether the cross entropy is masked."""
        return self.settings.masked

    @property
    def needs_torch(self) -> str:  # type: ignore[override]
        """The masked loss is torch's."""
        return "federation.arguments.masked" if self.settings.masked else ""

    def changed(self, networks: "Mapping[str, nn.Module]") -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Scale the narrower networks' layers."""
        from edgekit.models.slices import SCALE, scales

        if not self.settings.scaler:
            return {}
        whole = networks[self.names[0]]
        found = {name: scales(whole, networks[name]) for name in self.names[1:]}
        return {name: [{"step": SCALE, "by": by}] for name, by in found.items() if by}
