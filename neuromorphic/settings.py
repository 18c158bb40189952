"""[spiking]: the spiking form and its Loihi integers."""

from typing import Annotated, Literal

from pydantic import Field

from edgekit.section import Section, Share


class Spiking(Section):
    """The spiking form and its Loihi integers."""

    enabled: Literal["auto"] | bool = "auto"
    """Whether there is one; `auto`: where the network has one, else that is said and the stage left out."""
    steps: Annotated[int, Field(ge=1, le=256)] = 8
    """Time steps of one inference."""
    coding: Literal["current", "rate", "latency"] = "current"
    """Of the input."""
    input_bits: Annotated[int, Field(ge=1, le=6)] = 4
    """Of its codes."""
    scaling: Literal["channel", "layer"] = "channel"
    """Whether each channel has a threshold of its own, or a layer's channels share one."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.9
    """Of the activations, from which thresholds are set."""
    reset: Literal["soft", "hard"] = "soft"
    """What a spike does: `soft` subtracts the threshold, `hard` sets zero."""
    voltage_decay: Share = 0.0
    """Share of the voltage that a neuron loses in a step; 0 makes integrate-and-fire neurons."""
    current_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of its current that a neuron loses in a step; 1 lets the current last one step."""
    tune: bool = True
    """Surrogate-gradient tuning, where spikes lose more than a point."""
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 8
    """Of the integers."""
    chip: Literal["loihi-1", "loihi-2"] = "loihi-2"
    """The chip whose limits the network is held to."""
