"""What this machine is and has. No import of what it looks for: it answers at once, and on a device without torch."""

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from edgekit.version import __version__

PURPOSES = {
    "train": "federated training, privacy, the report",
    "tflite": "files for phones and boards",
    "node": "taking part in a federation as a device, without torch",
    "phone": "letting phones take part",
    "serve": "coordinating real devices",
    "spiking": "spiking networks and .nir files",
    "events": "recordings of event cameras (AEDAT 4)",
    "hub": "data sets of the datasets library (hf:)",
    "tables": "tables (csv:, parquet:, pandas, polars)",
    "graphs": "images as graphs of superpixels (superpixels:)",
    "trackers": "TensorBoard, MLflow, Weights & Biases",
    "compress": "cutting channels",
    "npu": "estimates for Arm's accelerators",
    "search": "networks within a device's budget",
    "micro": "files for microcontrollers, run in TFLite Micro",
    "ray": "Flower's own simulation engine, for comparison",
}

IMPORTED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "dp_accounting": "dp-accounting"}
"""Packages whose import has another name; elsewhere only dashes and underscores differ."""


@dataclass(frozen=True)
class Extra:
    """An optional part of edgekit.

    Attributes:
        name: of the extra.
        purpose: what it is for.
        installed: version by package.
        missing: packages that are not installed.
        command: that installs it.
    """

    name: str
    purpose: str
    installed: dict[str, str]
    missing: list[str]
    command: str


def describe() -> dict[str, str]:
    """Return facts of this machine, as texts."""
    facts = {
        "edgekit": __version__,
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "disk free": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB here",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        facts["memory"] = f"{memory / 2**30:.1f} GiB"
    return facts


def extra_with(module: str) -> tuple[str, str | None]:
    """Return the package that a module comes from, and the extra that installs it (None if no extra does)."""
    top = module.partition(".")[0]
    package = IMPORTED_AS.get(top, top.replace("_", "-"))
    return package, next((name for name, packages in _packages().items() if package in packages), None)


def _packages() -> dict[str, list[str]]:
    """Return each extra's packages, from edgekit's own metadata."""
    packages: dict[str, list[str]] = {name: [] for name in PURPOSES}
    for requirement in requires("edgekit") or []:
        found = re.match(r"([A-Za-z0-9._-]+)[^;]*;\s*extra == ['\"]([a-z]+)['\"]", requirement)
        if found and found[1] != "edgekit" and found[2] in packages:
            packages[found[2]].append("ray" if "[simulation]" in requirement else found[1])
    return packages


def extras() -> list[Extra]:
    """Return the state of each extra."""
    result = []
    packages = _packages()
    for name, purpose in PURPOSES.items():
        installed, missing = {}, []
        for package in packages[name]:
            try:
                installed[package] = version(package)
            except PackageNotFoundError:
                missing.append(package)
        result.append(Extra(name, purpose, installed, missing, f"pip install 'edgekit[{name}]'"))
    return result
