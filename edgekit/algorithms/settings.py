"""[federation]: rounds, cohorts and the federated method."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgekit.section import Arguments, Chosen, Count, Section


class Federation(Section):
    """Rounds, cohorts and the federated method."""

    rounds: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Of training."""
    cohort: Annotated[int, Field(ge=0)] = 0
    """Clients a round; 0 is all of them."""
    selector: str = ""
    """Who takes part: `uniform`, `poisson`, `round-robin`, or `package.module:Class`; `""` is what privacy counts on:
    `poisson` where a trusted server protects clients, else `uniform`."""
    algorithm: str = ""
    """The method: `fedavg` (which `""` is, too), `fedprox`, `scaffold`, `fednova`, `personal`,
    `heterofl`, `fjord`, or
    `package.module:Class` ([federation.md](federation.md))."""
    strategy: str = ""
    """In place of `algorithm`: a strategy of Flower's by its class name, or `package.module:Class`."""
    arguments: Arguments = {}
    """The method's own."""
    transforms: list[Chosen] = []
    """What happens to updates on their way, in this order on clients: names, or `package.module:Class`, each alone or
    with `arguments`."""
    keep: Literal["last", "best", "average"] = "last"
    """Which global model is released: the last, the one that is best on the server's own examples
    (`data.calibration_examples`, which no client owns; never the test set), or the mean of the last ones."""
    stop_at: Annotated[float, Field(ge=0, le=1)] = 0.0
    """End early once the accuracy on the server's own examples is so high; 0 never does."""
    average_last: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the rounds, the last ones, whose global models' mean is released; 0 is the last model alone, and a
    quarter with `keep = "average"`."""
    outliers: Literal["auto", "none", "clip", "leave-out"] = "auto"
    """What becomes of updates that would move the mean much further than the median one; `clip` leaves out those
    five times as long, `auto` clips those of real devices alone, and none where a trusted server adds noise."""
    outlier_norm: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.5
    """Times the median that an update may move the mean, by its length and its weight."""
    largest_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of all weight that one client may have in a mean; 0 lets no real device count for more than three times the
    median, and simulated clients for what they have."""
    engine: Literal["local", "ray"] = "local"
    """Where simulated clients train: on this machine, or as Ray's actors on it or a cluster, with the same results."""
    ray_address: str = ""
    """Of a running Ray cluster, `HOST:PORT` as `ray start` tells it, or `auto`; `""` starts Ray on this machine."""
    evaluate_every: Count = 1
    """Rounds between measurements."""

    @property
    def averaged(self) -> float:
        """The fraction of the rounds whose models are averaged."""
        return self.average_last or (0.25 if self.keep == "average" else 0.0)

    @property
    def validates(self) -> bool:
        """Whether models are measured on the server's own examples."""
        return self.keep == "best" or self.stop_at > 0

    @property
    def method(self) -> str:
        """The name of the method, of ours or of Flower's."""
        return self.strategy or self.algorithm or "fedavg"

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.ray_address and self.engine != "ray":
            raise ValueError("ray_address is of engine = 'ray': set it, or leave the address out")
        if self.algorithm and self.strategy:
            raise ValueError(
                f"algorithm = {self.algorithm!r} and strategy = {self.strategy!r} are two methods: leave one out"
            )
        if self.keep == "best" and self.average_last:
            raise ValueError(
                "keep = 'best' and average_last release two models: set average_last = 0, or leave keep out"
            )
        return self
