"""[compression]: what makes the network smaller, and when."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgekit.section import Positive, Section

Stage = Literal["prune", "ticket", "distil", "quantise"]
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Prune(Section):
    """Weights or whole channels that go, at once or by and by."""

    kind: Literal["weights", "channels"] = "weights"
    """`weights` become zeros that stay (fewer bytes sent, fewer synapses; a .tflite stays as large); `channels` go as a
    whole, and the file and its latency shrink with them."""
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Of `weights`: the share that are zero at the end, of layers with sixteen inputs an output or more: depthwise and
    first convolutions stay dense."""
    macs: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of `channels`: the share of the multiply-adds that stays."""
    scope: Literal["global", "layer"] = "global"
    """Of `weights`: whether all layers are weighed against each other, or each has the same share of zeros."""
    pattern: Annotated[str, Field(pattern=r"^$|^[1-9]\d?:[1-9]\d?$")] = ""
    """Of `weights`: `2:4` keeps two of four neighbours (Mishra et al. 2021) instead of `sparsity`."""
    begin: Part = 0.3
    """Part of the rounds after which the first cut is; 0 is before training, for networks of `model.weights`."""
    end: Part = 0.7
    """Part of the rounds after which the last cut is; what is left goes on training; 1 is after training."""
    steps: Annotated[int, Field(ge=1, le=100)] = 4
    """Cuts from `begin` to `end`, at first the larger ones (Zhu and Gupta 2017); 1 cuts once, at `end`."""
    keep: list[str] = []
    """Layers that are left whole; `*` and `?` stand for others, as in `classifier*`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"compression.prune.begin is {self.begin:g}, after its end, {self.end:g}")
        if self.pattern:
            kept, of = (int(part) for part in self.pattern.split(":"))
            if kept >= of:
                raise ValueError(f"compression.prune.pattern {self.pattern} keeps all weights: as in 2:4")
        return self


class Ticket(Section):
    """A lottery ticket (Frankle and Carbin 2019): train, prune, go back to the start, train what is left."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The share of weights that are zero."""
    scope: Literal["global", "layer"] = "global"
    """As of pruning."""
    rewind: Annotated[int, Field(ge=0)] = 2
    """Round to whose weights the ticket goes back; 0 is the start (Frankle et al. 2020: a little later is better)."""
    start: Literal["rewound", "reinitialised"] = "rewound"
    """`reinitialised` begins with other weights, to see whether the old ones mattered."""
    mask: Literal["magnitude", "random"] = "magnitude"
    """`random` draws the places, as many by layer, to see whether these mattered."""
    keep: list[str] = []
    """Layers that are left whole."""


class Distil(Section):
    """A teacher's answers beside the labels (Hinton et al. 2015)."""

    teacher: str = ""
    """The run folder of a trained network of the same classes and inputs."""
    temperature: Positive = 3.0
    """By which both networks' scores are divided."""
    share: Part = 0.7
    """Of the loss that the teacher has; the labels have the rest."""
    features: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 0.0
    """Weight of where both networks look: their last maps, square-averaged over channels and of length one (attention
    transfer, Zagoruyko and Komodakis 2017); 0 is of answers alone. Of `distil` as the only stage."""


class Quantise(Section):
    """Training a network to compute with integers (Jacob et al. 2018)."""

    format: str = "int8"
    """The preset whose file takes exactly what is trained: `int8`, `int8-full`, or `int4` (weights of four bits); it
    must be among `export.presets`."""
    ranges: Literal["calibration", "learnt"] = "calibration"
    """Of activations: from the server's own examples when the stage begins, or trained from these on (Esser et al.
    2020)."""
    begin: Part = 0.7
    """Part of the rounds after which the network begins to round; 1 is after training."""
    times: Annotated[int, Field(ge=1, le=100)] = 2
    """How often ranges are taken from examples, from `begin` on evenly, as weights move; learnt ones are once."""


class Compression(Section):
    """What makes the network smaller while it trains."""

    stages: list[Stage] = []
    """`prune`, or `ticket`, and `distil`, in any order, then `quantise`; all within `federation.rounds`, which privacy
    plans for."""
    prune: Prune = Prune()
    ticket: Ticket = Ticket()
    distil: Distil = Distil()
    quantise: Quantise = Quantise()

    @field_validator("stages")
    @classmethod
    def _once(cls, stages: list[Stage]) -> list[Stage]:
        twice = [name for name in stages if stages.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice: once is enough")
        if {"prune", "ticket"} <= set(stages):
            raise ValueError("a ticket prunes by itself: take prune or ticket")
        if "quantise" in stages[:-1]:
            raise ValueError("quantise is the last stage: integers are of the network that is delivered")
        return stages

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if "distil" in self.stages and not self.distil.teacher:
            raise ValueError("compression.distil.teacher is missing: the run folder of a trained network")
        if self.distil.features and len(self.stages) > 1:
            raise ValueError("compression.distil.features is of distil as the only stage: a change would lose the maps")
        return self
