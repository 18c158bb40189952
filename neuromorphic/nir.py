"""Spiking networks as .nir files (Pedersen et al. 2024), which other simulators read and write.

NIR's neurons have a hard reset and start at zero; a soft reset and another start are in the graph's metadata, under
`edgekit`. docs/spiking.md shows the few lines that set them in Norse, snnTorch, Sinabs and SpikingJelly. NIR's times
are in seconds, ours in steps: a step is STEP_SECONDS, as in most of them.

`nir_writing.py` writes them.
"""

import json
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from edgekit.errors import ConversionError, MissingExtraError
from edgekit.neuromorphic import expression as ex
from edgekit.neuromorphic.coding import Coding
from edgekit.neuromorphic.expression import Expression
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse

STEP_SECONDS = 1e-4


def package() -> Any:
    """Return the nir package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import nir
    except ImportError:
        raise MissingExtraError("nir", "spiking") from None
    return nir


def read_nir(path: Path, *, step_seconds: float = STEP_SECONDS) -> SpikingNetwork:
    """Read a spiking network, of ours or of another simulator.

    Without our metadata, resets are as NIR has them (hard), neurons start at zero, examples hold a frame a step, how
    their values are coded is open (`input_bits` is 0), and a network that ends in neurons is read out by counting their
    spikes.

    Args:
        path: the .nir file.
        step_seconds: length of a step, for files of others.

    Raises:
        ConversionError: the file is corrupt, or holds a node that has no form here; it is named.
    """
    graph = read_graph(path)
    facts = _facts(graph, path)
    step_seconds = facts.get("step_seconds", step_seconds)
    order = _ordered(graph, path)
    values: dict[str, Expression] = {}
    layers: list[SpikingLayer] = []
    result: Expression | None = None
    shape: tuple[int, ...] = ()
    for name in order:
        try:
            found = _node(name, graph, values, layers, facts, step_seconds, path)
        except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            why = " ".join(str(error).split())[:160]
            raise ConversionError(f"{path.name}: node {name!r} does not fit what leads to it: {why}") from None
        if type(graph.nodes[name]).__name__ == "Output":
            result = found
        values[name] = found
        if type(graph.nodes[name]).__name__ == "Input":
            shape = found.shape
    if result is None:
        raise ConversionError(f"{path.name} has no output")
    if any(layer.readout for layer in layers[:-1]):
        raise ConversionError(f"{path.name}: LI and I are read as the output only")
    if not any(not layer.readout for layer in layers):
        raise ConversionError(f"{path.name} has no spiking neurons (IF, LIF or CubaLIF)")
    if not (layers[-1].readout and result.terms[0].kind == "none"):
        layers.append(_readout(result))
    given = facts.get("input", {"low": 0.0, "step": 1.0, "bits": 0, "coding": "frames"})
    classes = facts.get("classes") or [str(number) for number in range(layers[-1].shape[0])]
    return SpikingNetwork(
        tuple(layers), ex.as_map(shape), given["low"], given["step"], given["bits"], tuple(classes), given["coding"]
    )


def _node(
    name: str,
    graph: Any,
    values: dict[str, Expression],
    layers: list[SpikingLayer],
    facts: dict[str, Any],
    step_seconds: float,
    path: Path,
) -> Expression:
    """Read one node; neurons are appended to the layers."""
    node = graph.nodes[name]
    kind = type(node).__name__
    if kind == "Input":
        return ex.of_source(INPUT, _shape(node.input_type["input"]))
    incoming = [values[source] for source, target in graph.edges if target == name]
    if not incoming:
        raise ConversionError(f"{path.name}: nothing leads to node {name!r}")
    x = incoming[0]
    for other in incoming[1:]:
        x = ex.add(x, other, name)
    if kind == "Output":
        return x
    if kind in ("IF", "LIF", "CubaLIF"):
        layers.append(_spiking(name, node, x, len(layers), facts, step_seconds))
    elif kind in ("LI", "I"):
        layers.append(_integrator(name, node, x, step_seconds))
    else:
        return _linear(name, kind, node, x)
    return ex.of_source(len(layers) - 1, x.shape)


def read_graph(path: Path) -> Any:
    """Return the file's NIRGraph, unchecked.

    Raises:
        ConversionError: the file cannot be read.
    """
    nir = package()
    try:
        import h5py
        from nir.serialization import hdf2dict

        with h5py.File(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = hdf2dict(file["node"])
            content["type_check"] = False  # it mistakes the inputs of grouped convolutions
            return nir.NIRGraph.from_dict(content)
    except FileNotFoundError:
        raise ConversionError(f"{path} does not exist") from None
    except Exception as error:  # h5py and nir raise many kinds
        why = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConversionError(f"{path} is not a readable .nir file: {why}") from None


def _facts(graph: Any, path: Path) -> dict[str, Any]:
    try:
        text = (graph.metadata or {}).get("edgekit")
        facts: dict[str, Any] = json.loads(text.decode() if isinstance(text, bytes) else text) if text else {}
        tables = [facts[key] for key in ("reset", "start", "input") if key in facts]
        if "input" in facts:
            float(facts["input"]["low"]), float(facts["input"]["step"]), int(facts["input"]["bits"])
            if facts["input"]["coding"] not in get_args(Coding):
                raise ValueError(f"its coding {facts['input']['coding']!r} is unknown")
        if not isinstance(facts.get("names", []), list) or not float(facts.get("step_seconds", 1.0)) > 0:
            raise ValueError("its names or step_seconds are wrong")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ConversionError(f"{path}: its metadata of edgekit cannot be read: {error}") from None
    if not all(isinstance(table, dict) for table in tables):
        raise ConversionError(
            f"{path} was written by another version of edgekit: `edgekit spike run RUN` writes it anew"
        )
    return facts


def _ordered(graph: Any, path: Path) -> list[str]:
    """Return the nodes so that each comes after its sources."""
    waiting = {name: {source for source, target in graph.edges if target == name} for name in graph.nodes}
    if missing := {source for sources in waiting.values() for source in sources} - set(graph.nodes):
        raise ConversionError(f"{path.name}: an edge comes from {sorted(missing)[0]!r}, which is no node")
    order: list[str] = []
    while waiting:
        ready = [name for name, sources in waiting.items() if sources <= set(order)]
        if not ready:
            raise ConversionError(
                f"{path.name}: nodes {', '.join(sorted(waiting)[:3])} feed back on each other; recurrent networks have "
                "no form here"
            )
        order += ready
        waiting = {name: sources for name, sources in waiting.items() if name not in ready}
    return order


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in np.atleast_1d(value))


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))


def _pair(value: Any) -> tuple[int, int]:
    numbers = [int(number) for number in np.atleast_1d(value)]
    return (numbers[0], numbers[-1])


def _linear(name: str, kind: str, node: Any, x: Expression) -> Expression:
    """Apply a node without neurons.

    Raises:
        ConversionError: it has no form here.
    """
    if kind in ("Affine", "Linear"):
        return ex.linear(x, _tensor(node.weight), _tensor(node.bias) if kind == "Affine" else None, name)
    if kind in ("Conv1d", "Conv2d"):
        flat = kind == "Conv1d"
        weight = _tensor(node.weight)

        def pair(value: Any) -> tuple[int, int]:
            return (1, int(np.atleast_1d(value)[0])) if flat else _pair(value)

        weight = weight.unsqueeze(2) if flat else weight
        dilation = pair(node.dilation)
        padding: tuple[int, int]
        if isinstance(node.padding, str):  # else an array, which no text equals
            same = node.padding == "same"
            padding = ex.same_padding(weight.shape[2:], dilation, f"node {name!r}") if same else (0, 0)
        else:
            padding = (0, int(np.atleast_1d(node.padding)[0])) if flat else _pair(node.padding)
        x = Expression(x.terms, x.bias.view(ex.as_map(x.shape)), ex.as_map(x.shape))
        return ex.conv2d(x, weight, _tensor(node.bias), pair(node.stride), padding, int(node.groups), name, dilation)
    if kind == "Flatten":
        return ex.flatten(x)
    if kind in ("SumPool2d", "AvgPool2d"):
        window, stride, padding = _pair(node.kernel_size), _pair(node.stride), _pair(node.padding)
        if stride != window or padding != (0, 0):
            raise ConversionError(f"node {name!r}: pooling needs a stride equal to its window, and no padding")
        return ex.average_pool(x, window, name, 1.0 if kind == "AvgPool2d" else float(window[0] * window[1]))
    if kind == "Scale":
        scale = _per_channel(name, "scale", node.scale, x.shape)
        return ex.scale_channels(x, scale, torch.zeros_like(scale))
    raise ConversionError(
        f"node {name!r} ({kind}) has no form here; edgekit reads Affine, Linear, Conv1d, Conv2d, Flatten, SumPool2d, "
        "AvgPool2d, Scale, IF, LIF, CubaLIF, LI and I"
    )


def _per_channel(name: str, what: str, values: Any, shape: tuple[int, ...]) -> Tensor:
    """Return one number a channel.

    Raises:
        ConversionError: it differs within a channel.
    """
    array = np.array(values, np.float64)
    array = (
        np.broadcast_to(array.reshape(-1, 1) if array.ndim == 1 and len(shape) == 3 else array, shape)
        if (array.ndim < len(shape) and array.size in (1, shape[0]))
        else array.reshape(shape)
    )
    rows = array.reshape(shape[0], -1)
    if not np.allclose(rows, rows[:, :1], rtol=1e-6):
        raise ConversionError(f"node {name!r}: its {what} differs within a channel, which has no form here")
    return torch.from_numpy(rows[:, 0].astype(np.float32).copy())


def _one(name: str, what: str, values: Any) -> float:
    array = np.array(values, np.float64)
    if not np.allclose(array, array.flat[0], rtol=1e-5):
        raise ConversionError(f"node {name!r}: its {what} differs from neuron to neuron, which has no form here")
    return float(array.flat[0])


def _spiking(
    name: str, node: Any, drive: Expression, number: int, facts: dict[str, Any], step_seconds: float
) -> SpikingLayer:
    kind = type(node).__name__
    threshold = _per_channel(name, "threshold", node.v_threshold, drive.shape)
    if not (threshold > 0).all():
        raise ConversionError(f"node {name!r} has a threshold of {float(threshold.min()):g}: neurons need one above 0")
    if node.v_reset is not None and np.any(np.array(node.v_reset) != 0):
        raise ConversionError(f"node {name!r} resets to {np.array(node.v_reset).flat[0]:g}; here voltages reset to 0")
    current_decay, voltage_decay, gain = _dynamics(name, node, step_seconds)
    leak = np.zeros(1) if kind == "IF" else np.array(node.v_leak, np.float64) * voltage_decay
    if current_decay < 1 and float(drive.bias.abs().max()) > 0:
        raise ConversionError(
            f"node {name!r} (CubaLIF) gets a bias through its decaying current, which has no form here: train without "
            "biases, or use v_leak"
        )
    scaled = ex.scale_channels(drive, gain / threshold, torch.zeros_like(threshold))
    columns = threshold.view(-1, *[1] * (len(drive.shape) - 1))
    bias = scaled.bias + torch.from_numpy(np.broadcast_to(leak, drive.shape).astype(np.float32)) / columns
    known = (facts.get("names") or [])[number : number + 1]
    own = known[0] if known else name
    return SpikingLayer(
        own,
        tuple(_of_term(term) for term in _weighted(scaled).terms),
        np.ascontiguousarray(bias.numpy(), np.float32),
        1.0,
        drive.shape,
        current_decay,
        voltage_decay,
        facts.get("reset", {}).get(own, "hard"),
        facts.get("start", {}).get(own, 0.0),
    )


def _dynamics(name: str, node: Any, step_seconds: float) -> tuple[float, float, float]:
    """Return (current decay, voltage decay, what a drive is multiplied by), by Euler's rule for one step."""
    kind = type(node).__name__
    r = _one(name, "r", node.r)
    if kind in ("IF", "I"):  # writers differ in whether they count r by the step or by the second
        return 1.0, 0.0, 1.0 if abs(r * step_seconds - 1) < 1e-3 else r
    if kind in ("LIF", "LI"):
        voltage_decay = _decay(name, step_seconds / _one(name, "tau", node.tau))
        return 1.0, voltage_decay, r * voltage_decay
    current_decay = _decay(name, step_seconds / _one(name, "tau_syn", node.tau_syn))
    voltage_decay = _decay(name, step_seconds / _one(name, "tau_mem", node.tau_mem))
    return current_decay, voltage_decay, r * voltage_decay * current_decay * _one(name, "w_in", node.w_in)


def _decay(name: str, share: float) -> float:
    if not 0 <= share <= 1:
        raise ConversionError(
            f"node {name!r} has a time constant below a step, or none: give the length of a step by --step-seconds"
        )
    return share


def _integrator(name: str, node: Any, drive: Expression, step_seconds: float) -> SpikingLayer:
    _, decay, gain = _dynamics(name, node, step_seconds)
    channels = torch.full((drive.shape[0],), gain)
    scaled = _weighted(ex.scale_channels(drive, channels, torch.zeros_like(channels)))
    return _readout(scaled, name, decay)


def _readout(drive: Expression, name: str = "readout", decay: float = 0.0) -> SpikingLayer:
    drive = _weighted(drive)
    if len(drive.shape) != 1:
        raise ConversionError(f"the output has shape {drive.shape}; it must be one number a class")
    synapses = tuple(_of_term(term) for term in drive.terms)
    bias = np.ascontiguousarray(drive.bias.detach().numpy(), np.float32)
    return SpikingLayer(name, synapses, bias, float("inf"), drive.shape, voltage_decay=decay)


def _weighted(drive: Expression) -> Expression:
    """Give terms that bring a source's spikes as they are a weight of one."""
    if all(term.kind != "none" for term in drive.terms):
        return drive
    ones = torch.ones(drive.shape[0])
    return ex.scale_channels(drive, ones, torch.zeros_like(ones))


def _of_term(term: ex.Term) -> Synapse:
    assert term.weight is not None
    weight = np.ascontiguousarray(term.weight.detach().numpy(), np.float32)
    kind: Any = term.kind
    return Synapse(term.source, kind, weight, term.stride, term.padding, term.groups)
