"""Make a training file, and hold its steps against torch's before it counts."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.arrays import Array
from edgekit.errors import ExportError
from edgekit.export import cache, runtimes
from edgekit.export.convert import (
    as_parts,
    check_converter,
    check_size,
    converter,
    decomposed_already,
    device_shape,
    reason,
)
from edgekit.export.metadata import TRAINING, add_metadata
from edgekit.export.quiet import quiet
from edgekit.export.training.steps import Options, Step, Steps
from edgekit.export.training.tracing import Traced, content_of, traced
from edgekit.export.verify import call
from edgekit.local_settings import BETAS, EPSILON
from edgekit.models.requirements import PROBED, moving_buffers
from edgekit.models.sequence import vocabulary_of
from edgekit.objectives import objective_of

LARGEST_ERROR = 1e-5
"""Largest difference to torch's after a step, relative to the largest weight."""
DRAWS = 3
"""Random batches that a step may be held against torch's on."""


def training_file(
    model: nn.Module,
    shape: tuple[int, ...],
    classes: int,
    options: Options,
    card: dict[str, Any],
    claimed: Sequence[str] = ("ai-edge-litert",),
) -> tuple[bytes, float]:
    """Return a .tflite with the signatures train, train_dp, infer, evaluate and parameters, each checked.

    Args:
        model: the network, with the weights that `parameters` gives.
        shape: one example's shape.
        classes: how many names the data has.
        options: of the training signatures.
        card: facts for the metadata.
        claimed: runtimes that the file shall run in.

    Returns:
        The file, and the largest difference of its steps to torch's.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: a layer or operator cannot be trained or converted, or the file's steps are not torch's.
    """
    runtimes.check(claimed)
    model = copy.deepcopy(model).train()
    check_trainable(model, shape)
    check_size(model)
    steps = Steps(model, options)
    draws = [_samples(steps, shape, classes, seed) for seed in range(DRAWS)]
    initial = steps.initial()
    try:
        checked = [(samples, reference(model, options, samples)) for samples in draws]
    except RuntimeError as problem:
        raise ExportError(f"torch itself cannot train the network: {reason(problem)}") from problem
    content = converted({name: getattr(steps, name) for name in draws[0]}, draws[0], initial)
    error = max(verified(content, checked, initial, name) for name in claimed)
    facts = {**_facts(steps, shape, classes), "runtimes": [runtimes.label(name) for name in claimed]}
    return add_metadata(content, {**facts, **card}), error


def check_trainable(model: nn.Module, shape: Sequence[int]) -> None:
    """See that a network's training step is a function of weights and batch alone.

    Args:
        model: the network, or a part of one.
        shape: of what it takes for one example.

    Raises:
        ExportError: a layer keeps or draws something, or has weights that are no float32; it is named.
    """
    for name, layer in model.named_modules():
        kind = _kind(name, layer)
        if isinstance(layer, _BatchNorm):
            raise ExportError(
                f"{kind} mixes the examples of a batch, which a training graph cannot: use group norm or weight "
                "standardisation"
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p:
            raise ExportError(f"{kind} draws random numbers, which a training graph cannot: set its p to 0")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ExportError("the network has no parameters that can be trained")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ExportError(f"parameter {name!r} is {parameter.dtype}; training graphs hold torch.float32")
    random = np.random.default_rng(0).random((PROBED, *shape), np.float32)
    if moving := moving_buffers(model, random):
        name, _, buffer = moving[0].rpartition(".")
        raise ExportError(
            f"{_kind(name, model.get_submodule(name))} keeps {buffer!r} from the data it sees, which a training graph "
            "cannot: use group norm or weight standardisation"
        )
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    if tied := set(model.state_dict()) - {name for name, _ in model.named_parameters()} - buffers:
        raise ExportError(
            f"parameter {min(tied)!r} is another name of a shared one, which a training graph cannot hold"
        )


def _kind(name: str, layer: nn.Module) -> str:
    return f"layer {name or type(layer).__name__!r} ({type(layer).__name__})"


class _Initial(nn.Module):
    """The function without inputs that gives the weights a federation starts from."""

    w: Tensor

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.register_buffer("w", w)

    def forward(self) -> dict[str, Tensor]:
        return {"w": self.w * 1.0}


def _samples(steps: Steps, shape: tuple[int, ...], classes: int, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Return each signature's inputs, on random data; the last example of the batch is masked out."""
    options = steps.options
    random = torch.Generator().manual_seed(seed)
    w = steps.initial()
    x = torch.rand(options.batch, *device_shape(shape), generator=random)
    if many := vocabulary_of(steps.model):
        x = (many * x).floor()
    drawn = steps.objective.drawn(options.batch, classes, np.random.default_rng(seed))
    y = torch.from_numpy(steps.objective.encoded(drawn, steps.objective.width(classes)))
    mask = torch.ones(options.batch)
    mask[-1] = 1.0 if options.batch == 1 else 0.0
    noise, velocity, away, drift = (torch.randn(len(w), generator=random) * scale for scale in (0.01, 0.01, 0.1, 0.01))
    batch = {"x": x, "y": y, "mask": mask}
    more: dict[str, Tensor] = {}
    if options.momentum:
        more |= {"momentum": torch.tensor([0.9]), "velocity": velocity}
    if options.proximal:
        more |= {"mu": torch.tensor([0.01]), "anchor": w + away}
    if options.drift:
        more["drift"] = drift
    plain = dict(more)
    if options.optimiser != "sgd":
        first, second = 0.1 * noise, noise.square()  # as of gradients of this size, after ten steps
        plain |= {"first": first, "second": second, "corrections": torch.tensor([1.5, 100.0])}
        plain.pop("velocity", None), plain.pop("momentum", None)
    if options.decay:
        plain["decay"] = torch.tensor([0.1])
    # A step of about 0.1 whatever the bound, so that the check sees the clipped gradients.
    private = {
        **batch,
        "lr": torch.tensor([0.1 / min(1.0, options.clip)]),
        "noise": noise * options.clip,
        "w": w,
        **more,
    }
    return {
        "train": {**batch, "lr": torch.tensor([0.1 if options.optimiser == "sgd" else 0.01]), "w": w, **plain},
        **({"train_dp": private} if options.private else {}),
        "infer": {"x": x, "w": w},
        "evaluate": {**batch, "w": w},
    }


def converted(functions: Mapping[str, Step], samples: dict[str, dict[str, Tensor]], initial: Tensor) -> bytes:
    """Return a .tflite with a signature for each function, and `parameters`.

    Args:
        functions: by name.
        samples: each function's inputs.
        initial: what `parameters` gives.

    Raises:
        ExportError: one cannot be traced or converted.
    """
    check_converter()
    modules: dict[str, Traced] = {}
    for name, sample in samples.items():
        try:
            modules[name] = traced(functions[name], sample)
        except ExportError:
            raise
        except Exception as error:  # a user's forward may do anything
            raise ExportError(f"the network's {name} step cannot be traced: {reason(error)}") from error

    def make() -> bytes:
        signatures = converter()
        try:
            # `parameters` comes last: it has no operators, and XNNPACK takes no graph that follows such a one.
            for name, sample in samples.items():
                signatures = signatures.signature(name, modules[name], None, sample)
            signatures = signatures.signature("parameters", _Initial(initial), None, {})
            with quiet(), decomposed_already():
                content: bytes = signatures.convert().model_content()
        except Exception as error:  # the converter raises whatever its passes raise
            raise ExportError(f"the training graph cannot be converted: {reason(error)}") from error
        return content

    parts: list[bytes | str] = list(as_parts({"initial": initial}))
    for name, module in modules.items():
        shapes = {key: (value.dtype, tuple(value.shape)) for key, value in samples[name].items()}
        parts += [name, repr(shapes), repr(module.outputs), *content_of(module.step)]
    return cache.kept("training.tflite", parts, make)


Results = dict[str, dict[str, Array]]


def verified(
    content: bytes, draws: Sequence[tuple[dict[str, dict[str, Tensor]], Results]], initial: Tensor, runtime: str
) -> float:
    """Run every signature in a runtime, and return the largest difference to what torch gives.

    Args:
        content: the file.
        draws: each signature's inputs, with what torch gives for them, by name.
        initial: what `parameters` shall give.
        runtime: to run it in.

    Raises:
        ExportError: it is more than rounding on every draw. In deep networks rounding can carry an activation over the
            corner of a rectifier, which changes a gradient by more, but not on each draw.
    """
    finding = ("", 0.0)
    for samples, expected in draws:
        finding = _largest_difference(content, samples, expected, initial, runtime)
        if finding[1] <= LARGEST_ERROR:
            return finding[1]
    raise ExportError(f"in {runtime} the training graph's {finding[0]} differs from torch's by {finding[1]:.2g}")


def _largest_difference(
    content: bytes, samples: dict[str, dict[str, Tensor]], expected: Results, initial: Tensor, runtime: str
) -> tuple[str, float]:
    """Return which output of which signature differs most from torch's, and by how much."""
    inputs: list[tuple[str, dict[str, Array]]] = [
        (name, {key: value.numpy() for key, value in sample.items()}) for name, sample in samples.items()
    ]
    *ran, first = call(content, [*inputs, ("parameters", {})], runtime)
    if not np.array_equal(first["w"], initial.numpy()):
        raise ExportError(f"in {runtime} the training graph's `parameters` are not the network's")
    errors = {}
    for (name, sample), outputs in zip(inputs, ran, strict=True):
        for key, right in expected[name].items():
            size = max(1.0, float(np.abs(right).max()), float(np.abs(sample["w"]).max()))
            error = float(np.abs(outputs[key] - right).max()) / size
            errors[f"{key} of {name}"] = error if np.isfinite(error) else np.inf
    worst = max(errors, key=lambda name: errors[name])
    return worst, errors[worst]


def reference(model: nn.Module, options: Options, samples: dict[str, dict[str, Tensor]]) -> Results:
    """Return what torch gives for the signatures' inputs, by its own operators and autograd, example by example."""
    parameters, objective = list(model.parameters()), objective_of(model)
    learnt = torch.cat([torch.full((p.numel(),), float(p.requires_grad)) for p in parameters])

    def gradient(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        loss = (_losses(model, x, y) * mask).sum() / mask.sum().clamp(min=1.0)
        loss.backward()
        found = [p.grad for p in parameters]
        model.zero_grad()
        return torch.cat(
            [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, parameters, strict=True)]
        )

    def adaptive(sample: dict[str, Tensor], gradient: Tensor) -> dict[str, Array]:
        """Return Adam's step as the paper writes it (algorithm 1), with this sample's corrections."""
        first = BETAS[0] * sample["first"] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * sample["second"] + (1 - BETAS[1]) * gradient.square()
        one, two = sample["corrections"]
        w = sample["w"] - sample["lr"] * (one * first) / ((two * second).sqrt() + EPSILON)
        if options.decay and options.optimiser == "adamw":
            w = w - sample["lr"] * sample["decay"] * learnt * sample["w"]
        return {"w": w.numpy(), "first": first.numpy(), "second": second.numpy()}

    def stepped(sample: dict[str, Tensor], direction: Tensor) -> dict[str, Array]:
        if options.proximal:
            direction = direction + sample["mu"] * (sample["w"] - sample["anchor"])
        if options.drift:
            direction = direction + sample["drift"]
        if "decay" in sample and options.optimiser != "adamw":
            direction = direction + sample["decay"] * learnt * sample["w"]
        if "first" in sample:
            return adaptive(sample, direction)
        if options.momentum:
            direction = sample["momentum"] * sample["velocity"] + direction
        result = {"w": sample["w"] - sample["lr"] * direction}
        return {k: v.numpy() for k, v in ({**result, "velocity": direction} if options.momentum else result).items()}

    x, y, mask = (samples["train"][name] for name in ("x", "y", "mask"))
    with torch.no_grad():
        scores, losses = objective.answer(_scores(model, x)), _losses(model, x, y)
        sums = {"loss": (losses * mask).sum().numpy()}
        if objective.of_classes:
            sums["correct"] = ((scores.argmax(1) == y.argmax(1)).float() * mask).sum().numpy()
    plain = stepped(samples["train"], gradient(x, y, mask))
    result: Results = {
        "train": {**plain, "loss": ((losses * mask).sum() / mask.sum()).numpy()},
        "infer": {"scores": scores.numpy()},
        "evaluate": sums,
    }
    if options.private:
        total = samples["train_dp"]["noise"].clone()
        for i in range(options.batch):
            if mask[i]:
                one = gradient(x[i : i + 1], y[i : i + 1], mask[i : i + 1])
                total += one * min(1.0, options.clip / (float(one.norm()) + 1e-6))
        result["train_dp"] = stepped(samples["train_dp"], total)
    return result


def _scores(model: nn.Module, x: Tensor) -> Tensor:
    scores: Tensor = model(_as_torch(x))
    return scores


def _losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return objective_of(model).losses(_scores(model, x), y, _as_torch(x))


def _as_torch(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous() if x.dim() == 4 else x


def _facts(steps: Steps, shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """Return what a trainer on a device needs to know of the file."""
    options = steps.options
    return {
        "kind": TRAINING,
        "batch": options.batch,
        "clip": options.clip,
        "momentum": options.momentum,
        "proximal": options.proximal,
        "drift": options.drift,
        "private": options.private,
        "optimiser": options.optimiser,
        "decay": options.decay,
        "shape": list(shape),
        "classes": classes,
        "objective": steps.objective.chosen.model_dump(),
        "parameters": [
            {"name": name, "shape": list(size), "trainable": name not in steps.frozen}
            for name, size in steps.shapes.items()
        ],
    }
