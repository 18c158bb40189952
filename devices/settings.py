"""[devices]: simulated devices, with a virtual clock."""

from typing import Annotated

from pydantic import Field

from edgekit.section import Count, Section


class Devices(Section):
    """Simulated devices: of what kinds clients are, when they are there, how long they take and what it costs, by a
    virtual clock ([simulated-devices.md](simulated-devices.md))."""

    population: dict[str, Count] = {}
    """Profiles (`edgekit devices list`, or files `NAME.toml`) and how many clients are of each; `{}` simulates clients
    without devices: all are there at all times, and no time passes."""
    availability: str = "day"
    """When devices take part: by a `day`'s pattern (phones mostly at night, when they charge; Bonawitz et al. 2019),
    `always`, or by a file: CSV with `device,start,end` in hours, or JSON as FedScale's traces have it, in seconds."""
    start_hour: Annotated[float, Field(ge=0, lt=24)] = 0.0
    """Hour of the day at which round 1 begins."""
    least_battery: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of a battery below which a device takes part only when charging."""
    metered: bool = False
    """Whether devices take part when their network is metered."""
    deadline_seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """A round waits so long for its devices, by the virtual clock; 0 as long as it takes. Where privacy counts on a
    secret draw it must be set: a round then always lasts so long."""
    over_selection: Annotated[float, Field(ge=1, le=10)] = 1.0
    """Times the cohort that are asked, of whom the first to answer count; 1.3 in the field (Bonawitz et al. 2019)."""
    every_seconds: Annotated[float, Field(ge=0, le=1e7)] = 0.0
    """Rounds begin at least so far apart; 0 one right after the other."""
    fit_work: bool = False
    """Whether devices that would be late take fewer steps, so that they are done by the deadline."""
    wait_minutes: Annotated[float, Field(ge=0, le=100_000)] = 60.0
    """How long a round waits for a whole cohort to be there before it goes on with fewer."""
    spread: Annotated[float, Field(ge=0, le=2)] = 0.25
    """How much devices of one kind differ in speed and link: the deviation of the logarithm; 0 makes them equal."""
    grid_gco2e_per_kwh: Annotated[float, Field(ge=0, le=5000)] = 0.0
    """Grams of CO2 equivalent that a kWh of your grid stands for, for an estimate; 0 makes none."""

    @property
    def on(self) -> bool:
        """Whether devices are simulated."""
        return bool(self.population)
