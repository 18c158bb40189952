"""Weights files as people have them, read without running any code of theirs."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.runfolder import RunFolder

INSIDE = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints of training programs hold the state."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before each name."""
COUNTER = "num_batches_tracked"
"""Of batch norms: files of old torch lack it, and nothing depends on it."""
SHOWN = 3
_TYPES = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.uint8,
}


def take(model: nn.Module, path: Path, new: Sequence[str] = ()) -> list[str]:
    """Set a network's parameters and buffers from a file; return lines for people.

    Args:
        model: the network; changed.
        path: a run folder, .safetensors, or what `torch.save` made of a state_dict: by itself, under one of `INSIDE`,
            and with one of `PREFIXES` before its names.
        new: layers that keep the values they have, such as a classifier for other classes.

    Raises:
        ModelError: it cannot be read, or is not of this network; the message names what.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    held = {name: tensor for name, tensor in own.items() if not _is_of(name, new)}
    for layer in new:
        if not any(_is_of(name, [layer]) for name in own):
            raise ModelError(f"model.new names {layer!r}, which is no layer of the network")
    found = _without_prefixes(read(path), own)
    found = {name: tensor for name, tensor in found.items() if not _is_of(name, new)}
    same = {tensor.data_ptr(): name for name, tensor in own.items() if name in found}
    missing = [
        name
        for name, tensor in held.items()
        if name not in found and not name.endswith(COUNTER) and tensor.data_ptr() not in same
    ]
    strange = [name for name in found if name not in held]
    if missing or strange:
        parts = [f"it lacks {_named(missing)}"] if missing else []
        parts += [f"it has {_named(strange)} besides"] if strange else []
        raise ModelError(f"{path} is not of this network: {'; '.join(parts)}")
    lines = []
    if others := sorted({str(t.dtype).removeprefix("torch.") for n, t in found.items() if t.dtype != held[n].dtype}):
        lines.append(f"the weights of {path} are converted from {', '.join(others)}")
    for name, tensor in found.items():
        if tensor.shape != held[name].shape:
            shapes = f"{tuple(tensor.shape)}, the network's is {tuple(held[name].shape)}"
            raise ModelError(f"{path}: {name!r} has shape {shapes}; a layer for other classes can be new: model.new")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.dtype not in _TYPES:
            raise ModelError(f"{path}: {name!r} holds no plain numbers ({tensor.dtype}, {tensor.layout})")
        if tensor.is_floating_point() != held[name].is_floating_point():
            raise ModelError(f"{path}: {name!r} is {tensor.dtype}, the network's is {held[name].dtype}")
        found[name] = tensor.to(held[name].dtype)
        if not torch.isfinite(found[name]).all():
            raise ModelError(f"{path}: {name!r} holds values that are not finite, or too large for {held[name].dtype}")
        first = found[same[held[name].data_ptr()]] if held[name].numel() else tensor
        if not torch.equal(first.to(held[name].dtype), found[name]):
            raise ModelError(f"{path}: {name!r} is shared with {same[held[name].data_ptr()]!r}, but holds other values")
    with torch.no_grad():
        for name, tensor in found.items():
            held[name].copy_(tensor)
    if new:
        lines.append(f"new in the network, and not of {path}: {', '.join(new)}")
    return lines


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        ModelError: there are none, or they cannot be read without running code.
        RunFolderError: a run has none yet.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist")
    if path.is_dir():
        if not (path / "experiment.toml").is_file():
            raise ModelError(f"{path} is a folder, but no run: give a run, a .safetensors or a .pt")
        path = RunFolder(path).trained()
    found: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors raise many kinds
        raise ModelError(f"{path} {_reason(path, error)}: give .safetensors, or torch.save of a state_dict") from None
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if isinstance(found, Mapping):
        found = {name: one for name, one in found.items() if not str(name).endswith("_extra_state")}
    if not isinstance(found, Mapping) or not found or not all(isinstance(one, Tensor) for one in found.values()):
        raise ModelError(f"{path} holds no state_dict: give .safetensors, or torch.save of a state_dict")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _reason(path: Path, error: Exception) -> str:
    """Say why a file cannot be read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                return "is a TorchScript program, not weights"
    told = str(error)
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80" or zipfile.is_zipfile(path)
    if pickled and ("Unsupported global" in told or "weights_only" in told.lower()):
        return "holds whole pickled objects, which are code that would run when they are read"
    return f"cannot be read ({' '.join(told.split())[:120] or type(error).__name__})"


def _without_prefixes(found: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take what programs put before all names off again, where the network has no such names."""
    while not any(name in own for name in found):
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in found)), None)
        if prefix is None:
            return found
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _is_of(name: str, layers: Sequence[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
