"""[privacy]: whose data one step protects, and who adds the noise."""

from typing import Annotated, Literal

from pydantic import Field

from edgekit.section import Positive, Section


class Privacy(Section):
    """Whose data one step protects (`unit`), and who adds the noise."""

    unit: Literal["none", "example", "client"] = "none"
    """Whose data one step protects."""
    noise: Literal["server", "client"] = "server"
    """Who adds it: a trusted server, or each client."""
    epsilon: Annotated[float, Field(gt=0, le=100)] = 8.0
    """What all rounds may spend."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """The other half of the guarantee."""
    clip: Positive = 1.0
    """l2 bound on one unit's contribution."""
    clips: dict[str, Positive] = {}
    """With `unit = "client"` and a method that sends more than weights: bounds of the further bundles, by name."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Chance of each example to be in a step (unit example)."""
    expected_examples: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Examples of a client, as anybody may know, by which means of unit example are taken: then adding or removing an
    example is covered. 0 takes the true numbers, which are public then."""
    learning_rate: Positive = 1.0
    """Step of the noised mean gradient (unit example, noise by the server)."""
    accountant: Literal["pld", "prv", "rdp"] = "pld"
    """`pld` is dp-accounting's, `prv` and `rdp` Opacus's."""
    randomness: Literal["seed", "system"] = "seed"
    """`seed` can be repeated; `system` is secret, for a model to be released."""

    ledger: str = ""
    """A file over all runs on the same data, made by `edgekit privacy ledger FILE --epsilon E`: it fixes what they may
    spend together; "" counts this run alone. Needs `randomness = "system"`."""

    @property
    def on(self) -> bool:
        """Whether the run is private at all."""
        return self.unit != "none"
