"""[serve]: rounds with real devices."""

from typing import Annotated

from pydantic import Field

from edgekit.section import Count, Section


class Serve(Section):
    """Rounds with real devices (`edgekit serve`; [devices.md](devices.md))."""

    nodes: Count = 2
    """Nodes that must be there before a round begins."""
    deadline_seconds: Annotated[float, Field(ge=5, le=86_400)] = 600.0
    """A round ends after this time with the updates that came."""
    deliver_every: Annotated[int, Field(ge=0)] = 0
    """Rounds between deliveries of the int8 model to the nodes; 0 delivers at the end alone."""
    statistics_every: Annotated[int, Field(ge=0)] = 0
    """Rounds between reports of noised input statistics, which show drift; 0 for none."""
    statistics_noise: Annotated[float, Field(ge=0.5, le=1000)] = 8.0
    """Noise multiplier of these reports; where nodes protect their own data, they are charged for them too."""
