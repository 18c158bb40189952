"""What a device can tell of itself: battery, load, temperature, whether its link is metered. Linux's own files."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys")
IDLE_LOAD = 0.5
"""Load a core below which a device counts as idle."""


@dataclass(frozen=True)
class Battery:
    """A device's battery.

    Attributes:
        percent: charge.
        charging: whether it is charging, or full on mains.
    """

    percent: float
    charging: bool


def battery(system: Path = SYSTEM) -> Battery | None:
    """Return the battery, or None where there is none (or none that can be read)."""
    for supply in sorted(system.glob("class/power_supply/*")):
        if _read(supply / "type") != "Battery" or _read(supply / "scope") == "Device":
            continue
        try:
            percent = float(_read(supply / "capacity"))
        except ValueError:
            continue
        return Battery(percent, _read(supply / "status") in ("Charging", "Full", "Not charging"))
    return None


def load() -> float:
    """Return the load a core, of the last minute: 1.0 is a machine that is just busy."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def memory_mb() -> float | None:
    """Return the memory of the whole device in MB; None if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (ValueError, OSError):
        return None


def temperature(system: Path = SYSTEM) -> float | None:
    """Return the warmest sensor's temperature in degrees Celsius; None if no sensor can be read."""
    found = []
    for zone in system.glob("class/thermal/thermal_zone*/temp"):
        try:
            found.append(int(_read(zone)) / 1000)
        except ValueError:
            continue
    return max(found, default=None)


def metered() -> bool | None:
    """Return whether the link in use is metered, as NetworkManager knows; None if that cannot be known here."""
    tool = shutil.which("nmcli")
    if tool is None:
        return None
    command = [tool, "--terse", "--fields", "GENERAL.METERED", "device", "show"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    answers = [line.partition(":")[2].strip() for line in done.stdout.splitlines() if ":" in line]
    if any(answer.startswith("yes") for answer in answers):
        return True
    return False if answers and all(answer.startswith("no") for answer in answers) else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
