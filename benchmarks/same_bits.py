"""Whether a redesign changed a bit: fifteen experiments with an older commit and with this one.

    python benchmarks/same_bits.py OLD_COMMIT            a table
    python benchmarks/same_bits.py OLD_COMMIT --json     for machines
    python benchmarks/same_bits.py OLD_COMMIT --only krum litert

Both versions are built from the repository and installed side by side, on the packages of the Python that runs this.
Of each experiment the arrays of `model.safetensors` are compared, bit by bit. Exit code 1 if one differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parent.parent
SHORT = ["federation.rounds=4", "data.clients=12", "training.epochs=2", "export.presets=[]", "spiking.enabled=false"]
OPEN = [*SHORT, "privacy.unit=none"]
MLP = [*OPEN, "model.name=mlp"]
PARTIES = ["split.parties=3", "split.labels=server", "data.source=digits"]
EXPERIMENTS: dict[str, list[str]] = {
    "example": ["export.presets=[]", "spiking.enabled=false"],
    "fedadam": [*OPEN, "federation.strategy=FedAdam", "federation.arguments.eta=0.01"],
    "fedprox": [*OPEN, "federation.strategy=FedProx", "federation.arguments.proximal_mu=0.1", "training.momentum=0.5"],
    "krum": [*OPEN, "federation.strategy=Krum", "federation.arguments.num_malicious_nodes=1"],
    "fedmedian": [*OPEN, "federation.strategy=FedMedian", "federation.cohort=7"],
    "example-server": [*SHORT, "privacy.unit=example", "privacy.sample_rate=0.5"],
    "example-client": [*SHORT, "privacy.unit=example", "privacy.noise=client", "privacy.sample_rate=0.5"],
    "client-server": [*SHORT, "privacy.unit=client", "federation.cohort=5", "federation.average_last=0.5"],
    "client-client": [*SHORT, "privacy.unit=client", "privacy.noise=client", "federation.strategy=FedAvgM"],
    "litert": [*MLP, "training.trainer=litert"],
    "split-shared": [*MLP, "split.cut=layers.2"],
    "split-each": [*MLP, "split.cut=layers.2", "split.halves=each", "split.codec=int8"],
    "parties": [*MLP, *PARTIES],
    "spiking-cnn": [*OPEN, "model.name=spiking-cnn", "model.arguments={channels=[4, 6]}"],
    "own-module": [*OPEN, "model.name=own:Network", "training.trainer=one-by-one"],
}
OWN = """
from torch import nn

class Network(nn.Sequential):
    def __init__(self):
        convolution = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)]
        super().__init__(*convolution, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10))
"""


def build(commit: str, place: Path) -> Path:
    """Install a commit, or the working tree for "", into a folder of its own; return it."""
    source, target = place / "source", place / "installed"
    if commit:
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "x"], cwd=source, input=archive, check=True)
    else:
        ignored = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    return target


def run(installed: Path, overrides: list[str], place: Path) -> tuple[dict[str, Any] | None, str, float]:
    """Run an experiment; return the arrays of its model or None, the last line it said, and its seconds."""
    (place / "own.py").write_text(OWN)
    (place / "plain.toml").touch()
    file = "plain.toml" if SHORT[0] in overrides else str(installed / "edgekit" / "example.toml")
    command = [sys.executable, "-m", "edgekit.cli", "run", file, "--out", str(place / "run"), *overrides]
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
    if done.returncode:
        return None, said[0], seconds
    return load_file(place / "run" / "model.safetensors"), said[0], seconds


def compare(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    """Say how two models differ, "" if in nothing."""
    if old is None or new is None:
        return " and ".join(name for name, found in (("old", old), ("new", new)) if found is None) + " failed"
    if set(old) != set(new):
        return f"other arrays: {sorted(set(old) ^ set(new))[0]}"
    for name in old:
        if old[name].dtype != new[name].dtype or not np.array_equal(old[name], new[name]):
            return f"{name} differs by up to {np.abs(old[name].astype(float) - new[name]).max():.3g}"
    return ""


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, metavar="NAME")
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        versions = {
            "old": build(arguments.commit, place / "build-old"),
            "new": build("", place / "build-new"),
        }
        for experiment in arguments.only or EXPERIMENTS:
            found = {}
            for version, installed in versions.items():
                folder = place / experiment / version
                folder.mkdir(parents=True)
                found[version] = run(installed, EXPERIMENTS[experiment], folder)
            problem = compare(found["old"][0], found["new"][0])
            said = [text for model, text, _ in found.values() if model is None]
            rows[experiment] = {
                "same": not problem,
                "problem": ": ".join([problem, *said]),
                "seconds_old": round(found["old"][2], 1),
                "seconds_new": round(found["new"][2], 1),
            }
            if not arguments.json:
                row = rows[experiment]
                seconds = f"{row['seconds_old']:6.1f} s {row['seconds_new']:6.1f} s"
                print(f"{experiment:16} {'same bits' if row['same'] else row['problem']:60} {seconds}", flush=True)
    if arguments.json:
        print(json.dumps({"benchmark": "same_bits", "old": arguments.commit, "experiments": rows}, indent=2))
    sys.exit(0 if all(row["same"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main()
