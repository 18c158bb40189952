"""[split]: split learning, where device and server each train a part of the network."""

from typing import Annotated, Any, Literal, Self

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

    @property
    def on(self) -> bool:
        """Whether clients have parts of a network and exchange messages with the server within a round."""
        return bool(self.cut or self.parties)

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


def check_together(sections: Any) -> None:
    """See that an experiment's other sections go with split learning.

    Args:
        sections: by name.

    Raises:
        ValueError: they do not; the message tells what would.
    """
    split: Split = sections.split
    plain = sections.objective.name == "cross-entropy" and not sections.objective.arguments
    if (split.on or split.parties) and not plain:
        raise ValueError("split learning takes plain cross entropy at the server: leave [objective] out")
    if split.parties or sections.data.source.startswith(("parties:", "labels:")):
        _check_parties(split, sections)
    if not split.on:
        return
    if key := sections.training.beyond_sgd:
        raise ValueError(f"split learning makes steps of plain SGD: leave training.{key} out")
    if sections.training.augment:
        raise ValueError("split learning does not augment: leave training.augment out")
    if sections.training.schedule != "constant" or sections.training.warm_up:
        raise ValueError("split learning keeps its step size: leave training.schedule and training.warm_up out")
    if sections.data.client_test_fraction:
        raise ValueError(
            "in split learning clients are not asked how good the model is: set data.client_test_fraction = 0"
        )
    if split.cut and sections.privacy.on:
        _check_private(split, sections.privacy)
    if sections.training.trainer != "auto":
        raise ValueError(
            f'split learning is a trainer of its own: set training.trainer = "auto", not {sections.training.trainer!r}'
        )
    if sections.serve.statistics_every:
        raise ValueError(
            "of a network that is split, devices have parts alone and give no statistics: set "
            "serve.statistics_every = 0"
        )


def _check_parties(split: Split, sections: Any) -> None:
    if not split.parties:
        raise ValueError("data.source names tables of several parties: set split.parties to how many they are")
    if sections.privacy.on:
        raise ValueError(
            "what parties with features of the same people send is not protected yet: set privacy.unit = "
            '"none", and see docs/split.md for what the coordinator learns'
        )
    if sections.spiking.enabled is True:
        raise ValueError("a network of several parties has no spiking form: set spiking.enabled = false")
    if sections.federation.cohort not in (0, split.parties):
        raise ValueError("federation.cohort: with split.parties all take part in each round, leave it at 0")


def _check_private(split: Split, privacy: Any) -> None:
    if privacy.expected_examples:
        raise ValueError("split learning takes means by true numbers: leave privacy.expected_examples out")
    if privacy.unit == "client":
        raise ValueError('split learning protects single examples: set privacy.unit = "example", not "client"')
    if privacy.noise == "client" and split.labels == "server":
        raise ValueError('labels would be sent as they are: with privacy.noise = "client" set split.labels = "device"')
    if privacy.noise == "server" and split.codec != "float32":
        raise ValueError(
            f"split.codec = {split.codec!r} mixes the examples of a batch, so none can be protected alone: "
            'set split.codec = "float32", or privacy.noise = "client"'
        )
    if split.no_peek:
        raise ValueError(
            "split.no_peek mixes the examples of a batch, so none can be protected alone: set it to 0, or "
            'privacy.unit = "none"'
        )
