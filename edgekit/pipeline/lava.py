"""A run's integers in Intel's Lava, and the emulator held against it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import Examples
from edgekit.errors import LavaError, RunFolderError, UsageError
from edgekit.neuromorphic import loihi
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.lava import LAVA, Lava
from edgekit.neuromorphic.lava.session import write_scripts
from edgekit.neuromorphic.lava.verify import Case, Comparison, compare, draw
from edgekit.neuromorphic.loihi import LoihiNetwork
from edgekit.neuromorphic.network import readouts
from edgekit.neuromorphic.netx import write_netx
from edgekit.neuromorphic.nir import read_nir
from edgekit.neuromorphic.tune import SnnTorchNetwork
from edgekit.pipeline.spiking import MOST_EXAMPLES
from edgekit.pipeline.spiking_again import open_run, stored_network
from edgekit.runfolder import write_whole

EXPORTED_SAMPLES = 20
Notice = Callable[[str], None]


def setup(again: bool, notice: Notice) -> dict[str, Any]:
    """Make Lava's environment, and run a first network in it.

    Args:
        again: make it anew if it is there.
        notice: told what happens.

    Raises:
        EdgekitError: there is no Python 3.10, Lava cannot be installed, or does not work.
    """
    if again:
        LAVA.remove()
    if not LAVA.installed:
        notice(f"installing {', '.join(LAVA.requirements)} in a Python {LAVA.python} of its own")
        LAVA.install()
    with Lava(timeout=120) as lava:
        found = compare(lava, draw(0))
    if found.different:
        raise LavaError(f"Lava runs, but differs from the emulator: {found.different[0]}")
    notice(f"Lava works: a first network equals the emulator in {found.values:,} values")
    return {"environment": str(LAVA.executable.parent.parent), "values": found.values}


def run_in_lava(path: Path, count: int, timeout: float, notice: Notice) -> dict[str, Any]:
    """Run test examples of a run through Lava.

    Args:
        path: the run folder.
        count: how many examples.
        timeout: seconds for all.
        notice: told what was found.

    Returns:
        `accuracy` on them, whether scores are `equal` to the emulator's, and milliseconds a sample of both.
    """
    network, test, codes = _stored(path, count)
    with Lava(timeout=timeout) as lava:
        ran = lava.run(network, codes)
    mine = Emulator(network).run(codes)
    facts = {
        "backend": "lava 0.10.0 (fixed point)",
        "examples": len(test),
        "steps": network.steps,
        "accuracy": round(float((ran.scores.argmax(1) == test.y).mean()), 6),
        "equal_to_emulator": bool(np.array_equal(ran.scores, mine.scores)),
        "ms_per_example": round(1000 * ran.seconds / len(test), 3),
    }
    same = "equal to" if facts["equal_to_emulator"] else "DIFFERENT from"
    notice(
        f"lava, {network.steps} steps: accuracy {facts['accuracy']:.4f} on {len(test)} examples, voltages {same} the "
        f"emulator's; {facts['ms_per_example']:,} ms an example"
    )
    return facts


def run_in_snntorch(path: Path, count: int, notice: Notice) -> dict[str, Any]:
    """Run test examples of a run through snnTorch: see `run_in_lava`."""
    integers, test, _ = _stored(path, count)
    if not (path / "spiking/network.nir").exists():
        raise RunFolderError(
            f"{path} has no spiking/network.nir, since NIR cannot carry its neurons: use --backend emulator"
        )
    network = read_nir(path / "spiking/network.nir")
    import torch

    codes = network.encode(test.x, integers.steps)
    with torch.no_grad():
        scores = SnnTorchNetwork(network)(torch.from_numpy(network.decode(codes)), integers.steps).numpy()
        mine = readouts(network, codes, integers.steps)[-1].numpy() / integers.steps
    facts = {
        "backend": "snntorch (floats)",
        "examples": len(test),
        "steps": integers.steps,
        "accuracy": round(float((scores.argmax(1) == test.y).mean()), 6),
        "largest_difference": float(np.abs(scores - mine).max()),
    }
    notice(
        f"snntorch, {integers.steps} steps: accuracy {facts['accuracy']:.4f} on {len(test)} examples; scores differ "
        f"from ours by {facts['largest_difference']:.1g} at most"
    )
    return facts


def verify(path: Path | None, count: int, random: int, seed: int, timeout: float, notice: Notice) -> dict[str, Any]:
    """Compare every spike, current and voltage of the emulator with Lava's.

    Args:
        path: a run folder, for real samples of its network; None compares random networks alone.
        count: how many samples.
        random: how many random networks.
        seed: of the first of them.
        timeout: seconds for each.
        notice: told what was found.

    Raises:
        LavaError: Lava failed, or anything differs; what and where is in the message.
    """
    facts: dict[str, Any] = {}
    with Lava(timeout=timeout) as lava:
        if path is not None:
            network, test, codes = _stored(path, count)
            found = compare(lava, Case(network, codes))
            _require_equal(found, f"{len(test)} samples of {path}")
            facts["run"] = {"samples": len(test), "values": found.values, "spikes": found.spikes}
            notice(f"{len(test)} samples: {found.values:,} of {found.values:,} values equal, {found.spikes:,} spikes")
        values = spikes = 0
        for number in range(seed, seed + random):
            found = compare(lava, draw(number))
            _require_equal(found, f"random network {number} (--seed {number} --random 1)")
            values, spikes = values + found.values, spikes + found.spikes
            done = number - seed + 1
            if done == random or done % 10 == 0:
                notice(f"{done} of {random} random networks: {values:,} values equal, {spikes:,} spikes")
        if random:
            facts["random"] = {"networks": random, "seed": seed, "values": values, "spikes": spikes}
    return facts


def _require_equal(found: Comparison, what: str) -> None:
    if found.different:
        raise LavaError(f"{what}: {found.different[0]}")


def _stored(path: Path, count: int) -> tuple[LoihiNetwork, Examples, Any]:
    """Return a run's integer network, some of its test examples, and their codes."""
    if count < 1:
        raise UsageError(f"--examples {count}: give at least 1")
    folder, experiment, _, dataset = open_run(path)
    network = stored_network(folder)
    test = Examples(dataset.test.x[:count], dataset.test.y[:count])
    return network, test, network.encode(test.x, experiment.seed)


def export(path: Path, form: str, out: Path | None, notice: Notice) -> dict[str, Any]:
    """Write a run's integers for other tools.

    Args:
        path: the run folder.
        form: `netx`, lava-dl's HDF5; or `lava`, a folder with a script that runs them in Lava, also on a Loihi 2 chip.
        out: where to; None is in the run's `spiking/`.
        notice: told what was written.

    Raises:
        ConversionError: the form cannot carry the network.
    """
    network, test, codes = _stored(path, MOST_EXAMPLES if form == "netx" else EXPORTED_SAMPLES)
    if form == "netx":
        target = out or path / "spiking/netx.net"
        written = write_netx(network, target)
        ran = Emulator(written).run(codes)
        accuracy = round(float((ran.scores.argmax(1) == test.y).mean()), 6)
        notice(f"{target}: accuracy {accuracy:.4f} on {len(test)} examples, biases in units of 64")
        notice(f"load it with netx.hdf5.Network(net_config={target.name!r}, input_message_bits={network.input_bits})")
        return {"file": str(target), "accuracy": accuracy, "examples": len(test)}
    folder = out or path / "spiking/lava"
    loihi.save(network, folder / "network.npz")
    for name, array in (("codes.npy", network.over_time(codes)), ("labels.npy", test.y)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_whole(folder / name, buffer.getvalue())
    write_scripts(folder, "run_in_lava.py")
    notice(f"{folder}: python run_in_lava.py network.npz codes.npy out.npz, in a Python 3.10 with lava-nc 0.10")
    notice("with --hardware it asks for a Loihi 2 chip; that was never run on one")
    return {"folder": str(folder), "samples": len(test), "run_on_a_chip": False}
