"""[attack]: simulated clients that attack."""

from typing import Annotated, Literal

from pydantic import Field

from edgekit.section import Section

Kind = Literal["", "label-flip", "backdoor", "replacement", "sign", "scale", "noise", "little", "min-max", "free-rider"]


class Attack(Section):
    """Simulated clients that attack, to see what a method stands ([methods.md](methods.md))."""

    kind: Kind = ""
    """What they do: train on wrong labels (`label-flip`), or a `backdoor` by examples with a trigger, boosted with
    `replacement`; send their change the other way (`sign`), longer (`scale`), or noise of its length (`noise`); agree
    on a small step aside (`little`, `min-max`); send back what they were sent (`free-rider`). `""` is nobody."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Of the clients; drawn by the seed."""
    start: Annotated[int, Field(ge=1)] = 1
    """The first round in which they attack."""
    strength: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Times its length that a change becomes (`sign`, `scale`, `noise`, `replacement`), or deviations aside
    (`little`); 0 is 1 for `sign`, 10 for `scale` and `noise`, and what the papers take for the others."""
    target: Annotated[int, Field(ge=0)] = 0
    """Class that a backdoor leads to."""
    poisoned: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of an attacker's examples that get a trigger."""

    @property
    def on(self) -> bool:
        """Whether anybody attacks."""
        return bool(self.kind)

    @property
    def backdoor(self) -> bool:
        """Whether examples get a trigger."""
        return self.kind in ("backdoor", "replacement")
