"""[split]: split learning, where device and server each train a part of the network."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgekit.section import Section


class Split(Section):
    """Split learning: device and server each train a part of the network ([split.md](split.md))."""

    cut: str = ""
    """The layer or block behind which the server goes on; `auto` picks one for `device`; `""` for no split learning."""
    device: str = "raspberry-pi-4"
    """With `cut = "auto"`: a device profile, by name or a file NAME.toml."""
    labels: Literal["device", "server"] = "device"
    """Who has the labels; on the device, it trains the network's last part too (U-shaped)."""
    tail: str = ""
    """The layer behind which the device goes on, with `labels = "device"`; `""` leaves it the last layer."""
    halves: Literal["shared", "each"] = "shared"
    """One part of the server for all clients (SplitFed v2), or one for each, averaged after the round (v1)."""
    order: Literal["parallel", "sequential"] = "parallel"
    """Whether clients of a shared part make a step each in turn, or one client after the other all of its own."""
    codec: Literal["float32", "float16", "int8", "top-k"] = "float32"
    """How arrays travel."""
    window: Annotated[int, Field(ge=1, le=64)] = 1
    """Batches of a client under way at once: more hide a slow link, and make gradients up to window - 1 steps old."""
    parties: Annotated[int, Field(ge=0, le=64)] = 0
    """Vertical over features: so many parties have some features of every example each, and the coordinator the
    labels. 0: clients have examples, as ever."""
    embedding: Annotated[int, Field(ge=1, le=4096)] = 16
    """With `parties`: numbers that each party's network makes of an example; the server joins them."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `parties`, in simulations: share of the people whom each party knows; they train on those whom all know."""
    activation_clip: Annotated[float, Field(gt=0, le=1e4)] = 1.0
    """With `privacy.noise = "client"`: largest l2 norm of what is sent of one example, before noise."""
    no_peek: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Weight of the distance correlation between examples and activations in the loss: they tell less. No guarantee."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.tail and self.labels == "server":
            raise ValueError('split.tail is the part behind the server\'s; with split.labels = "server" there is none')
        if self.parties and (self.cut or self.tail):
            raise ValueError("split.parties have a whole network each, which the server joins: leave split.cut empty")
        if self.parties and self.labels != "server":
            raise ValueError('with split.parties the coordinator has the labels: set split.labels = "server"')
        if self.parties and self.no_peek:
            raise ValueError("split.no_peek is for clients with examples of their own: set it to 0 with split.parties")
        return self
