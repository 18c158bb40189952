"""Is this device fit to be a node: clock, Python, runtimes, speed, temperature, space. Numpy only."""

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.devices import sensors
from edgekit.devices.profile import Cpu, DeviceProfile

HOT_CELSIUS = 80.0
"""A Raspberry Pi slows itself down from here on (Raspberry Pi documentation, frequency management)."""
LEAST_FREE_MB, LEAST_MEMORY_MB = 200, 200
Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        verdict: how it is; a problem keeps the device from taking part.
        text: in words, with the remedy.
    """

    subject: str
    verdict: Verdict
    text: str


def examine(folder: Path, clock_ahead: float | None = None) -> tuple[list[Finding], DeviceProfile]:
    """Look at this device.

    Args:
        folder: where a node is or will be kept.
        clock_ahead: seconds that the clock is ahead of the coordinator's; None if there is none to ask.

    Returns:
        What was found, and the device's profile with what was measured.
    """
    runtimes = _runtimes()
    gflops = _speed()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    findings = [
        _clock(clock_ahead),
        Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}"),
        _about_runtimes(runtimes),
        Finding("speed", "ok", f"{gflops:.1f} GFLOP/s in float32 matrix products"),
        _memory(memory),
        _space(folder),
        _temperature(),
        _battery(),
    ]
    profile = DeviceProfile(
        name=platform.node() or "this-device",
        description=f"{_model()}, {platform.system()} {platform.release()}",
        memory_mb=round(memory, 1),
        python=".".join(platform.python_version_tuple()[:2]),
        cpu=Cpu(model=_model(), architecture=platform.machine(), cores=os.cpu_count() or 1, gflops=round(gflops, 2)),
        wheel_platforms=[
            f"{tag}_{platform.machine()}" for tag in ("manylinux2014", "manylinux_2_27", "manylinux_2_28")
        ],
        runtimes=runtimes,
        evidence="emulated" if _emulated() else "measured",
        source=f"edgekit devices doctor, {time.strftime('%Y-%m-%d')}",
    )
    return findings, profile


def _clock(ahead: float | None) -> Finding:
    from edgekit.enrolment import clock_problem

    if ahead is not None:
        problem = clock_problem(ahead)
        text = problem or f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
        return Finding("clock", "problem" if problem else "ok", text)
    if time.gmtime().tm_year < 2026:
        return Finding("clock", "problem", f"says {time.strftime('%Y-%m-%d')}: set it (sudo timedatectl set-ntp true)")
    tool = shutil.which("timedatectl")
    if tool is not None:
        command = [tool, "show", "--property=NTPSynchronized", "--value"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if done.stdout.strip() == "no":
            return Finding("clock", "warning", "not synchronised: signatures are refused if it is more than 5 s ahead")
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _runtimes() -> dict[str, str]:
    found = {}
    for package in ("ai-edge-litert", "tflite-runtime", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _about_runtimes(runtimes: dict[str, str]) -> Finding:
    if not runtimes:
        return Finding("runtimes", "problem", "none: install one with pip install 'edgekit[node]'")
    return Finding("runtimes", "ok", ", ".join(f"{name} {found}" for name, found in runtimes.items()))


def _speed() -> float:
    """Return float32 GFLOP/s of a matrix product, the best of a few."""
    size = 256
    a = np.random.default_rng(0).random((size, size), np.float32)
    best = float("inf")
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        start = time.perf_counter()
        with np.errstate(all="ignore"):  # emulated processors raise flags of their own
            a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def _memory(whole: float) -> Finding:
    available = whole
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    verdict: Verdict = "ok" if available > LEAST_MEMORY_MB else "warning"
    return Finding("memory", verdict, f"{available:.0f} of {whole:.0f} MB available; a node takes about 150")


def _space(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**20
    if free < LEAST_FREE_MB:
        return Finding("space", "problem", f"{free:.0f} MB free in {there}: {LEAST_FREE_MB} are needed")
    return Finding("space", "ok", f"{free:.0f} MB free in {there}")


def _temperature() -> Finding:
    found = sensors.temperature()
    if found is None:
        return Finding("temperature", "ok", "no sensor that can be read")
    if found >= HOT_CELSIUS:
        return Finding("temperature", "warning", f"{found:.0f} °C: the processor slows down; it needs cooling")
    return Finding("temperature", "ok", f"{found:.0f} °C")


def _battery() -> Finding:
    found = sensors.battery()
    if found is None:
        return Finding("battery", "ok", "none: on mains")
    return Finding("battery", "ok", f"{found.percent:.0f} %{', charging' if found.charging else ''}")


def _model() -> str:
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _emulated() -> bool:
    """Whether programs here see another processor than the kernel, as under qemu."""
    if platform.machine() == "x86_64":
        return False
    try:
        # The kernel's own architecture, which an emulated program's `uname` does not show.
        return Path("/proc/sys/kernel/arch").read_text().strip() != platform.machine()
    except OSError:
        return False
