"""The emulator against Lava: equal in every value, and how much faster.

    python benchmarks/emulator.py [--json] [--networks 1000] [--seed 10000]

Lava runs in a Python of its own (`edgekit spike setup-lava`). Times are per sample, of the time steps alone: building,
compiling and starting Lava's processes is left out, as is making the emulator ready. Lava runs its few samples between
the emulator's repetitions, so that both see the same machine.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from edgekit.errors import LavaError
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.lava import Lava
from edgekit.neuromorphic.lava.verify import Case, compare, draw
from edgekit.neuromorphic.loihi import Lif, LoihiLayer, LoihiNetwork, LoihiSynapse

STEPS = 32
BATCH = 500
LAVA_SAMPLES = 10
REPETITIONS = 5
RATE = 0.3
AIMS = {"mlp": 3000, "conv": 2000}


def networks() -> dict[str, LoihiNetwork]:
    """Return the two networks, of random even weights: 64-128-10, and 8c3-16c3s2-10 on 8 x 8."""
    rng = np.random.default_rng(0)

    def layer(name: str, synapse: LoihiSynapse, shape: tuple[int, ...]) -> LoihiLayer:
        return LoihiLayer(name, (synapse,), Lif(300, rng.integers(-500, 500, shape).astype(np.int32)), shape)

    def weight(*shape: int) -> Any:
        return 2 * rng.integers(-60, 61, shape).astype(np.int32)

    mlp = (
        layer("hidden", LoihiSynapse(-1, "dense", weight(128, 64)), (128,)),
        layer("readout", LoihiSynapse(0, "dense", weight(10, 128)), (10,)),
    )
    conv = (
        layer("first", LoihiSynapse(-1, "conv", weight(8, 1, 3, 3), (1, 1), (1, 1)), (8, 8, 8)),
        layer("second", LoihiSynapse(0, "conv", weight(16, 8, 3, 3), (2, 2), (1, 1)), (16, 4, 4)),
        layer("readout", LoihiSynapse(1, "dense", weight(10, 256)), (10,)),
    )
    return {
        "mlp": LoihiNetwork(mlp, STEPS, (64,), 0.0, 1.0, 1, ()),
        "conv": LoihiNetwork(conv, STEPS, (1, 8, 8), 0.0, 1.0, 1, ()),
    }


def measure(lava: Lava, network: LoihiNetwork) -> dict[str, Any]:
    """Time both on the same spikes; the scores of the samples that Lava runs must be equal."""
    rng = np.random.default_rng(1)
    codes = rng.random((BATCH, STEPS, *network.input_shape)) < RATE
    ready = Emulator(network)
    scores = ready.run(codes).scores
    ours, theirs = [], []
    for _ in range(REPETITIONS):
        ran = lava.run(network, codes[:LAVA_SAMPLES].astype(np.int32))
        if not np.array_equal(ran.scores, scores[:LAVA_SAMPLES]):
            raise LavaError("the scores differ from Lava's")
        theirs.append(1000 * ran.seconds / LAVA_SAMPLES)
        for _ in range(3):
            started = time.perf_counter()
            ready.run(codes)
            ours.append(1000 * (time.perf_counter() - started) / BATCH)
    lava_ms, emulator_ms = statistics.median(theirs), statistics.median(ours)
    return {
        "lava_ms": round(lava_ms, 3),
        "emulator_ms": round(emulator_ms, 6),
        "speedup": round(lava_ms / emulator_ms),
        "speedup_best_of_both": round(min(theirs) / min(ours)),
    }


def verify(lava: Lava, count: int, seed: int, show: bool) -> dict[str, Any]:
    """Compare random networks."""
    values = spikes = different = 0
    for number in range(seed, seed + count):
        found = compare(lava, draw(number))
        values, spikes = values + found.values, spikes + found.spikes
        different += bool(found.different)
        if found.different:
            print(f"random network {number}: {found.different[0]}", file=sys.stderr)
        if show and (number - seed + 1) % 50 == 0:
            print(f"  {number - seed + 1} of {count} networks, {values:,} values", file=sys.stderr)
    return {"networks": count, "seed": seed, "values": values, "spikes": spikes, "different": different}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--networks", type=int, default=1000, help="random networks to compare")
    parser.add_argument("--seed", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    with Lava(timeout=600) as lava:
        for name, network in networks().items():
            result[name] = measure(lava, network)
            rng = np.random.default_rng(2)
            few = (rng.random((2, STEPS, *network.input_shape)) < RATE).astype(np.int32)
            if compare(lava, Case(network, few)).different:
                raise LavaError(f"{name} differs from Lava")
        result["equal"] = verify(lava, given.networks, given.seed, not given.json)
    if given.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'network':<10} {'lava ms':>9} {'emulator us':>12} {'times faster':>13} {'aim':>6}")
    for name, aim in AIMS.items():
        row = result[name]
        print(f"{name:<10} {row['lava_ms']:9.2f} {1000 * row['emulator_ms']:12.2f} {row['speedup']:13,} {aim:6,}")
    found = result["equal"]
    equal = found["networks"] - found["different"]
    print(f"{equal} of {found['networks']} random networks equal Lava in all of {found['values']:,} values")


if __name__ == "__main__":
    main()
