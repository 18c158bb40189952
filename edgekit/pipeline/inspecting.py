"""What a file holds, and whether it works: for `edgekit inspect`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import arrays
from edgekit import experiment as experiments
from edgekit.data.federated import Floats
from edgekit.errors import ConversionError, ExportError, UsageError
from edgekit.export import runtimes
from edgekit.export.memory import needs
from edgekit.export.metadata import EXITS, STREAM, TRAINING, describe
from edgekit.export.verify import Ran, probe, run_examples
from edgekit.runfolder import RunFolder, measure_of

LARGEST_DISAGREEMENT = 0.05
"""Largest difference between runtimes relative to the largest score: integer kernels round differently by a step."""


def inspect(path: Path) -> dict[str, Any]:
    """Return what a file, or a run folder, holds, as plain values.

    Raises:
        UsageError: there is no such file, or it is of no kind that edgekit knows.
        EdgekitError: it is truncated or corrupt.
    """
    if path.is_dir():
        return _run(RunFolder.open(path))
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    kinds = {".tflite": _tflite, ".safetensors": _safetensors, ".nir": _nir, ".npz": _loihi}
    if path.suffix not in kinds:
        raise UsageError(f"{path}: edgekit knows {', '.join(kinds)} files")
    return {"file": str(path), "bytes": path.stat().st_size, **kinds[path.suffix](path)}


def _run(folder: RunFolder) -> dict[str, Any]:
    """Return what a run is, and its files with their bytes."""
    experiment = experiments.load(folder.experiment)
    facts: dict[str, Any] = {"run": str(folder.path), "name": experiment.name, "model": experiment.model.name}
    facts |= {"data": experiment.data.source, "objective": experiment.objective.name}
    if folder.result.exists():
        result = folder.read_result()
        measure, score = measure_of(result)
        facts |= {"rounds": result["rounds"], measure: score, "parameters": result["parameters"]}
        facts["privacy"] = result["privacy_statement"]
    else:
        facts["unfinished"] = f"go on with edgekit resume {folder.path}"
    kept = [path for path in sorted(folder.path.rglob("*")) if path.is_file()]
    told = [path for path in kept if "checkpoint" not in path.relative_to(folder.path).parts and path.name != "lock"]
    return {**facts, "files": {str(path.relative_to(folder.path)): path.stat().st_size for path in told}}


def check(path: Path, names: Sequence[str] | None, run: Path | None) -> dict[str, Any]:
    """Run a .tflite in runtimes, and see that it works in each, and alike.

    A file in a run's folder is held against the run's network on its test set; another one of ours against its
    self-test; any other one, and a training graph, only against itself: the runtimes must agree on random numbers.

    Args:
        path: the file.
        names: of runtimes; None are those installed here.
        run: the run folder; None takes the one that the file lies in, if any.

    Returns:
        Per runtime: what it was held `against`, the measure where a test set is known, largest error, latency; of a
        run folder, that of each .tflite in it.

    Raises:
        ExportError: it fails in a runtime, or gives other scores than it should.
    """
    if path.is_dir():
        found = sorted((path / "export").glob("*.tflite"))
        if not found:
            raise UsageError(f"{path} has no .tflite files: make them with edgekit export {path}")
        return {one.name: check(one, names, run) for one in found}
    if path.suffix != ".tflite":
        raise UsageError(f"--check runs .tflite files, not {path.name}")
    content = path.read_bytes()
    if names is None:
        names = runtimes.with_signatures(runtimes.installed())  # not every file is for microcontrollers
    runtimes.check(names)
    metadata = describe(content)["metadata"] or {}
    folder = run or path.absolute().parent.parent
    in_run = run is not None or (folder / "experiment.toml").is_file()
    if in_run and metadata.get("kind") not in (TRAINING, EXITS, STREAM):
        return _against_run(content, metadata.get("preset", path.stem), RunFolder.open(folder), names)
    if "self_test" in metadata:
        from edgekit.export.tflite import self_test_examples

        try:
            expected = np.array(metadata["self_test"]["scores"], np.float32)
            tried = self_test_examples(metadata["input"]["shape"][1:], int(metadata["input"].get("vocabulary", 0)))
        except (KeyError, TypeError, ValueError, AttributeError, MemoryError):
            raise ExportError("the file's self-test is not one of edgekit's: it was changed") from None
        ran = {name: run_examples(content, tried, name) for name in names}
        return {name: _compared(name, one, expected, "its self-test") for name, one in ran.items()}
    ran = {name: probe(content, name) for name in names}
    first, against = next(iter(ran.values())).scores, f"{names[0]}, on random numbers"
    if len(names) == 1:
        against = "itself alone: it runs, and gives finite numbers"
    if not np.isfinite(first).all():
        raise ExportError(f"in {names[0]} the file gives values that are not finite")
    return {name: _compared(name, one, first, against) for name, one in ran.items()}


def npu(path: Path, name: str) -> dict[str, Any]:
    """Return what an accelerator would take for a .tflite; errors as of `edgekit.export.npu.estimate`."""
    from edgekit.export.npu import estimate

    if path.suffix != ".tflite":
        raise UsageError(f"--npu estimates .tflite files, not {path.name}")
    return estimate(path.read_bytes(), name)


def _compared(name: str, ran: Ran, expected: Floats, against: str) -> dict[str, Any]:
    error = float(np.abs(ran.scores - expected).max()) if ran.scores.shape == expected.shape else float("inf")
    if not error <= LARGEST_DISAGREEMENT * max(1.0, float(np.abs(expected).max())):
        raise ExportError(f"in {name} the file gives scores that differ by {error:.2g} from those it should give")
    sizes = {} if ran.size is None else {"size_of_what_may_vary": ran.size}
    return {"against": against, **sizes, "max_abs_error": error, **_cost(ran)}


def _cost(ran: Ran) -> dict[str, Any]:
    return {"latency_us": asdict(ran.latency), **({} if ran.arena is None else {"arena": ran.arena})}


def _against_run(content: bytes, preset: str, folder: RunFolder, names: Sequence[str]) -> dict[str, Any]:
    from edgekit.export import tflite
    from edgekit.pipeline.subjects import load_run

    experiment = experiments.load(folder.experiment)
    model, dataset = load_run(folder, experiment)
    subject = tflite.Subject.of(model, dataset)
    result = {}
    for name in names:
        ran = run_examples(content, tflite.as_device(dataset.test.x), name)
        score, error = tflite.check(preset, name, ran, subject, experiment.export.tolerance)
        against = "the run's network, on its test set"
        result[name] = {
            "against": against,
            subject.objective.measure: score,
            "max_abs_error": error,
            **_cost(ran),
        }
    return result


def _tflite(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    told = {key: value for key, value in describe(content).items() if key != "bytes"}
    needed = needs(content)
    return {**told, "memory": {"constants": needed["constants"], "activations": needed["activations"]}}


def _safetensors(path: Path) -> dict[str, Any]:
    found, description = arrays.load(path)
    total = sum(array.size for array in found.values())
    shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in found.items()}
    return {"values": total, "arrays": shapes, "description": description}


def _loihi(path: Path) -> dict[str, Any]:
    from edgekit.neuromorphic import loihi

    network = loihi.load(path)
    layers = {}
    for layer in network.layers:
        neurons = {name: value for name, value in vars(layer.neurons).items() if name != "bias"}
        layers[layer.name] = {"shape": list(layer.shape), **neurons}
    return {
        "steps": network.steps,
        "input": list(network.input_shape),
        "coding": network.coding,
        "classes": len(network.classes),
        "layers": layers,
    }


def _nir(path: Path) -> dict[str, Any]:
    from edgekit.neuromorphic.nir import read_graph, read_nir

    graph = read_graph(path)
    facts: dict[str, Any] = {
        "nodes": {name: type(node).__name__ for name, node in graph.nodes.items()},
        "edges": len(graph.edges),
    }
    try:
        network = read_nir(path)
    except ConversionError as error:  # a graph of others that has no form here is still worth a look
        return {**facts, "spiking form": str(error)}
    layers = {}
    for layer in network.layers:
        neurons = {"reset": layer.reset, "current_decay": layer.current_decay, "voltage_decay": layer.voltage_decay}
        layers[layer.name] = {"shape": list(layer.shape), **({} if layer.readout else neurons)}
    return {**facts, "input": list(network.input_shape), "coding": network.coding, "layers": layers}
