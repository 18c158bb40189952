"""[model]: the network."""

from typing import Annotated, Literal

from pydantic import Field

from edgekit.section import Arguments, Positive, Section

AdapterKind = Literal["lora", "bottleneck"]


class Model(Section):
    """The network."""

    name: str = "dscnn"
    """A name of the zoo (`edgekit models`), or `package.module:Class`."""
    norm: Literal["group", "weight-standardised", "none"] = "none"
    """Normalisation of the layers, by example: none mixes clients' examples."""
    width: Positive = 1.0
    """Multiplies the channels."""
    activation: Literal["relu", "qcfs"] = "relu"
    """`qcfs` trains the ReLUs as the spikes that will stand for them (Bu et al. 2022; [spiking.md](spiking.md))."""
    levels: Annotated[int, Field(ge=1, le=256)] = 4
    """Levels of `qcfs`; with as many time steps each spike stands for one."""
    weights: str = ""
    """What to begin with: a run folder, a .safetensors, or what `torch.save` made of a state_dict."""
    new: list[str] = []
    """Layers that do not come from that file, such as `["head"]` for other classes."""
    only: list[str] = []
    """Layers that learn, such as `["head"]`; all else stays, statistics of BatchNorm too. Empty is all."""
    adapters: list[str] = []
    """Linear layers and convolutions that get an adapter, such as `["layers.*"]`: few numbers to train beside what was
    trained elsewhere ([federation.md](federation.md#adapters)). Those of layer `fc` are called `fc.adapter`."""
    adapter: AdapterKind = "lora"
    """Beside a layer (`lora`; Hu et al. 2022), or behind it (`bottleneck`; Houlsby et al. 2019)."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 4
    """Width of adapters."""
    arguments: Arguments = {}
    """Of the network's constructor."""
