"""A task in words and numbers: what a coordinator asks a node to learn, and how."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from edgekit.algorithms.split.codec import Codec
from edgekit.algorithms.split.device import Terms
from edgekit.data.settings import Data
from edgekit.models.settings import Model
from edgekit.section import Arguments, Chosen, Section


class Planned(Section):
    """What the experiment plans to spend of a node's privacy by noise of the node's own."""

    unit: Literal["example", "client"] = "example"
    """Whose data one step protects."""
    noise_multiplier: Annotated[float, Field(ge=1e-3, le=1e6)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1, le=10**9)]
    """Over all rounds."""
    reports: Annotated[int, Field(ge=0, le=10**6)]
    """Noised statistics, over all rounds."""
    reports_noise: Annotated[float, Field(ge=0.5, le=1e6)]
    delta: Annotated[float, Field(gt=0, le=1e-3)]


class SplitFacts(Section):
    """How a network is cut; the device has the part before the first cut, and that behind the second, if there is one.

    Attributes:
        cuts: the layers behind which it is cut.
        codec: how activations and gradients travel.
        window: batches under way at once.
        crossing: shapes of one example's activation at each cut.
        activation_clip: of `local-dp`: largest l2 norm of an example's activation.
        no_peek: weight of NoPeek's penalty.
    """

    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    cuts: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    codec: Codec
    window: Annotated[int, Field(ge=1, le=64)]
    crossing: Annotated[tuple[tuple[int, ...], ...], Field(min_length=1, max_length=2)]
    activation_clip: Annotated[float, Field(gt=0, le=1e6)]
    no_peek: Annotated[float, Field(ge=0, le=1e6)]

    @property
    def terms(self) -> Terms:
        """What holds for all devices."""
        return Terms(self.window, self.crossing, self.activation_clip, self.no_peek)


class PartyFacts(Section):
    """One party of several with features of the same people.

    Attributes:
        name: of the party.
        shape: of its features.
        parameters: shapes of its network's arrays, in their order.
    """

    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]
    parameters: dict[str, tuple[int, ...]]


class VerticalFacts(Section):
    """Parties with features of the same people.

    Attributes:
        parties: in their order.
        embedding: numbers that each makes of an example.
        codec: how embeddings and gradients travel.
        window: batches under way at once.
        coverage: share of the people whom each party knows, for trying out.
    """

    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    parties: Annotated[tuple[PartyFacts, ...], Field(min_length=1, max_length=64)]
    embedding: Annotated[int, Field(ge=1, le=4096)]
    codec: Codec
    window: Annotated[int, Field(ge=1, le=64)]
    coverage: Annotated[float, Field(gt=0, le=1)]


class MethodFacts(Section):
    """A federated method whose clients do more than train plainly.

    Attributes:
        algorithm: its name or import path.
        strategy: likewise, of Flower's interface; one of the two is "".
        arguments: its own.
    """

    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    algorithm: str
    strategy: str
    arguments: Arguments


class TaskFacts(Section):
    """A task in words and numbers.

    Attributes:
        run: name of the experiment.
        run_id: of this run of it: what devices keep between rounds is of one run.
        seed: of the data's partition and the network's first weights.
        model: the [model] section.
        data: the [data] section, for how raw data becomes examples.
        shape: of one example.
        classes: names, in the order of the indices.
        parameters: shapes of the network's arrays, in their order; of a network that is cut, of the device's own.
        claimed: whose data noise by the coordinator protects, as it says.
        planned: where nodes add the noise; else None.
        counts: whether the coordinator needs to know how many examples there are.
        split: how the network is cut; None where it is not.
        vertical: parties with features of the same people; None for clients with examples of their own.
        objective: what the network is trained for, with what was fitted on the coordinator's own examples.
        method: what clients do in a round; None where they train plainly.
        transforms: what happens to their updates then.
        compression: what was done to the network that `model` tells of, before it came here (`edgekit.compression`).
    """

    # Lists become tuples on their way through JSON and back; the rest is as strict as elsewhere.
    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    run: str
    run_id: str = ""
    seed: int
    model: Model
    data: Data
    shape: tuple[int, ...]
    classes: list[str]
    parameters: dict[str, tuple[int, ...]]
    claimed: Literal["none", "example", "client"] = "none"
    planned: Planned | None
    counts: bool
    split: SplitFacts | None = None
    vertical: VerticalFacts | None = None
    objective: Chosen = Chosen(name="cross-entropy")
    method: MethodFacts | None = None
    transforms: tuple[Chosen, ...] = ()
    compression: tuple[dict[str, Any], ...] = ()
