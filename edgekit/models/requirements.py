"""What an experiment asks of a network, tried on real examples before training starts."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from edgekit.data.federated import Floats
from edgekit.errors import ModelError

_OF_TORCH = {*vars(nn.Module()), "training"}
"""What every module has, beside what its author gave it."""
PROBED = 8
"""Examples that a network is tried on."""


def batch_norms(model: nn.Module) -> list[str]:
    """Return the names of the layers whose statistics mix the examples of a batch."""
    return [
        name or type(layer).__name__
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, _InstanceNorm)
    ]


def untrained(model: nn.Module) -> dict[str, Tensor]:
    """Return what a network holds beside its trained parameters: buffers and frozen parameters, by name."""
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    return {**frozen, **dict(model.named_buffers())}


def attributes(model: nn.Module) -> dict[str, object]:
    """Return what a network's modules hold in plain Python, in a form that shows when a forward pass changed it."""
    return {
        f"{place}.{name}".lstrip("."): _content(value, 4)
        for place, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in _OF_TORCH
    }


def _content(value: object, depth: int) -> object:
    """Return something that is equal as long as a value is."""
    if isinstance(value, nn.Module | type) or depth == 0:
        return id(value)
    if isinstance(value, Tensor):
        try:
            return value.detach().numpy().tobytes()
        except (RuntimeError, TypeError):  # of a transform of torch.func, or elsewhere than in memory
            return id(value)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_content(one, depth - 1) for one in value)
    if isinstance(value, dict):
        return tuple((str(key), _content(one, depth - 1)) for key, one in value.items())
    return value if isinstance(value, int | float | complex | str | bytes | bool | type(None)) else id(value)


def changed(before: dict[str, object], after: dict[str, object]) -> str:
    """Return the name of something that two answers of `attributes` hold otherwise, "" if nothing."""
    return next((name for name in {**before, **after} if before.get(name) != after.get(name)), "")


def moving_buffers(model: nn.Module, x: Floats) -> list[str]:
    """Return the names of what training changes otherwise than by gradients, such as running statistics.

    What else is held beside trained parameters, buffers and frozen ones, is constant. Found by a forward pass in
    training mode, on examples of two batches, since the name of a buffer tells nothing.

    Args:
        model: the network; it is copied.
        x: real examples, (examples, ...).

    Raises:
        ModelError: it cannot take the examples.
    """
    if not untrained(model):
        return []
    tried = copy.deepcopy(model).train()
    before = {name: tensor.clone() for name, tensor in untrained(tried).items()}
    _forward(tried, torch.from_numpy(x[:PROBED]))
    if len(x) > PROBED + 1:
        _forward(tried, torch.from_numpy(x[PROBED : 2 * PROBED]))
    return [name for name, tensor in untrained(tried).items() if not _same(tensor, before[name])]


def check_private(model: nn.Module, x: Floats | None = None) -> None:
    """See that nothing but gradients is taken from examples, which clipping bounds and noise covers.

    Args:
        model: the network.
        x: real examples, (examples, ...); without them the layers' kinds alone are looked at, and no buffer is tried.

    Raises:
        ModelError: a layer mixes the examples of a batch by its nature, or keeps something of them; it is named.
    """
    if names := batch_norms(model):
        kind = type(model.get_submodule(names[0]) if names[0] in dict(model.named_modules()) else model).__name__
        raise ModelError(
            f"layer {names[0]!r} ({kind}) mixes the examples of a batch, so no example can be protected alone: "
            "use GroupNorm, weight standardisation or no norm, or privacy.unit = 'none'"
        )
    moving = _running(model) if x is None else moving_buffers(model, x)
    if moving:
        name, _, buffer = moving[0].rpartition(".")
        layer = model.get_submodule(name)
        raise ModelError(
            f"layer {name or type(layer).__name__!r} ({type(layer).__name__}) keeps {buffer!r} from the data it "
            "sees, which no noise covers: use a layer without such buffers, or privacy.unit = 'none'"
        )


def mixes(model: nn.Module, x: Floats) -> bool:
    """Whether examples change each other's scores in a batch, as far as a few show: in training mode, without dropout.

    Args:
        model: the network; it is copied.
        x: real examples, (examples, ...).
    """
    tried = copy.deepcopy(model).train()
    for layer in tried.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.eval()
    part = torch.from_numpy(x[:PROBED])
    with torch.no_grad():
        try:
            alone = torch.cat([_forward(tried, one) for one in part.split(1)])
        except ModelError:  # as BatchNorm, which cannot normalise one
            return True
        together = _forward(tried, part)
    scale = max(1e-6, float(alone.abs().max()))
    return not bool(((alone - together).abs() <= 1e-3 * scale).all())


def _running(model: nn.Module) -> list[str]:
    """Return the running statistics of torch's own layers."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _InstanceNorm)]
    found = [(name, buffer) for name, layer in layers for buffer, _ in layer.named_buffers(recurse=False)]
    return [f"{name}.{buffer}".lstrip(".") for name, buffer in found]


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found: Tensor = model(x.clone())
    except Exception as error:  # a user's forward may do anything
        reason = " ".join(str(error).split())
        raise ModelError(f"the network failed on {len(x)} examples of shape {tuple(x.shape[1:])}: {reason}") from error
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
