"""Whether the device's owner would have it train now, and what it may tell of itself."""

from edgekit.clients.node.folder import Condition, Fact
from edgekit.devices import sensors


def obstacle(only_when: list[Condition]) -> str | None:
    """Say why the device does not train now, as its owner wants; None if it does.

    What cannot be known here counts as not met: a wish that cannot be kept is not passed over in silence.
    """
    for condition in only_when:
        if condition == "charging":
            battery = sensors.battery()  # without one, a device hangs on mains
            if battery is not None and not battery.charging:
                return f"on battery ({battery.percent:.0f} %); its owner has it train only when charging"
        elif condition == "idle":
            load = sensors.load()
            if load > sensors.IDLE_LOAD:
                return f"busy (load {load:.2f} a core); its owner has it train only when idle"
        else:
            metered = sensors.metered()
            if metered is None:
                return "its link may be metered (NetworkManager does not say); its owner has it train only on others"
            if metered:
                return "on a metered link; its owner has it train only on others"
    return None


def facts(share: list[Fact]) -> dict[str, float | bool]:
    """Return what the owner lets the coordinator know."""
    told: dict[str, float | bool] = {}
    if "battery" in share and (battery := sensors.battery()) is not None:
        told |= {"battery": battery.percent, "charging": battery.charging}
    if "load" in share:
        told["load"] = round(sensors.load(), 2)
    if "temperature" in share and (temperature := sensors.temperature()) is not None:
        told["temperature"] = temperature
    if "memory" in share and (memory := sensors.memory_mb()) is not None:
        told["memory"] = round(memory)
    return told
