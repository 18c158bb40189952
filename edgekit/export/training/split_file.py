"""The training graph of a device's parts of a network that is cut: the gradient comes from elsewhere, as an input."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.export import runtimes
from edgekit.export.convert import check_size, device_shape
from edgekit.export.metadata import add_metadata
from edgekit.export.training.file import DRAWS, Results, check_trainable, converted, verified
from edgekit.export.training.rules import Rules, as_images
from edgekit.export.training.steps import Held, from_device

KIND = "split training"


class SplitSteps:
    """The functions of the file. Activations at the cuts are as torch has them, (batch, channels, height, width).

    The steps themselves are left to the device, which may have made others since a batch went forward.

    Args:
        bottom: the device's first part.
        tail: its last part, or None.
    """

    def __init__(self, bottom: nn.Module, tail: nn.Module | None) -> None:
        self.held = Held(bottom)
        self.last = Held(tail) if tail is not None else None

    def forward(self, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the `activation` at the cut of x, (batch, height, width, channels) or (batch, ...)."""
        with torch.no_grad():
            return {"activation": self.held.run(self.held.leaves(w), from_device(x), Rules()) * 1.0}

    def backward(self, x: Tensor, g: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the `gradient` by w, where g is that by the activation; zeros there leave an example out."""
        parts = self.held.leaves(w)
        return {"gradient": self.held.gradient(self.held.run(parts, from_device(x), Rules()), parts, g)[0]}

    def finish(self, activation: Tensor, y: Tensor, mask: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the mean `loss` of the examples that the mask keeps, and its `gradient` by w and `by_activation`.

        Args:
            activation: what the last part sees.
            y: class probabilities (batch, classes).
            mask: (batch,), 1 for an example, 0 for filling.
            w: of the last part.
        """
        assert self.last is not None
        parts = self.last.leaves(w)
        seen = activation.detach().requires_grad_()
        inputs = as_images(seen.permute(2, 3, 0, 1)) if seen.dim() == 4 else seen
        scores = self.last.run(parts, inputs, Rules())
        loss = (-(y * F.log_softmax(scores, -1)).sum(-1) * mask).sum() / mask.sum().clamp(min=1.0)
        gradient, by_activation = self.last.gradient(loss, parts, also=[seen])
        return {"loss": loss.detach(), "gradient": gradient, "by_activation": by_activation}


def split_file(
    bottom: nn.Module,
    tail: nn.Module | None,
    shape: tuple[int, ...],
    crossing: Sequence[tuple[int, ...]],
    classes: int,
    batch: int,
    card: dict[str, Any],
    claimed: Sequence[str] = ("ai-edge-litert",),
) -> tuple[bytes, float]:
    """Return a .tflite with the signatures forward, backward, finish (with a last part) and parameters, each checked.

    Args:
        bottom: the device's first part.
        tail: its last part, which sees the labels; None where the server has them.
        shape: of one example.
        crossing: shapes of one example's activation at each cut.
        classes: how many scores the network gives.
        batch: examples a call; smaller batches are filled up.
        card: facts for the metadata.
        claimed: runtimes that the file shall run in.

    Returns:
        The file, and the largest difference of its results to torch's.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: a layer or operator cannot be trained or converted, or the file's results are not torch's.
    """
    runtimes.check(claimed)
    parts = [copy.deepcopy(part).train() for part in (bottom, tail) if part is not None]
    for part in parts:
        check_trainable(part)
        check_size(part)
    steps = SplitSteps(parts[0], parts[1] if tail is not None else None)
    draws = [_samples(steps, shape, crossing, classes, batch, seed) for seed in range(DRAWS)]
    initial = steps.held.initial()
    content = converted({name: getattr(steps, name) for name in draws[0]}, draws[0], initial)
    checked = [(samples, _reference(parts, samples)) for samples in draws]
    error = max(verified(content, checked, initial, name) for name in claimed)
    facts = {
        "kind": KIND,
        "batch": batch,
        "shape": list(shape),
        "classes": classes,
        "parts": [_parameters(held) for held in (steps.held, steps.last) if held is not None],
        "runtimes": [runtimes.label(name) for name in claimed],
    }
    return add_metadata(content, {**facts, **card}), error


def _parameters(held: Held) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(size), "trainable": name not in held.frozen} for name, size in held.shapes.items()
    ]


def _samples(
    steps: SplitSteps,
    shape: tuple[int, ...],
    crossing: Sequence[tuple[int, ...]],
    classes: int,
    batch: int,
    seed: int,
) -> dict[str, dict[str, Tensor]]:
    """Return each signature's inputs, on random data; the last example of the batch is filling."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *device_shape(shape), generator=random)
    g = torch.randn(batch, *crossing[0], generator=random) / batch
    mask = torch.ones(batch)
    mask[-1] = 1.0 if batch == 1 else 0.0
    g = g * mask.reshape(-1, *([1] * len(crossing[0])))
    w = steps.held.initial()
    found = {"forward": {"x": x, "w": w}, "backward": {"x": x, "g": g, "w": w}}
    if steps.last is not None:
        y = F.one_hot(torch.randint(classes, (batch,), generator=random), classes).float()
        seen = torch.rand(batch, *crossing[1], generator=random)
        found["finish"] = {"activation": seen, "y": y, "mask": mask, "w": steps.last.initial()}
    return found


def _reference(parts: Sequence[nn.Module], samples: dict[str, dict[str, Tensor]]) -> Results:
    """Return what torch gives for the signatures' inputs, by its own operators and autograd."""

    def flat(module: nn.Module) -> Tensor:
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
        module.zero_grad()
        return torch.cat([gradient.flatten() for gradient in found])

    bottom = parts[0]
    x, g = samples["backward"]["x"], samples["backward"]["g"]
    activation = bottom(x.permute(0, 3, 1, 2) if x.dim() == 4 else x)
    activation.backward(g)
    result: Results = {
        "forward": {"activation": activation.detach().numpy()},
        "backward": {"gradient": flat(bottom).numpy()},
    }
    if "finish" in samples:
        sample = samples["finish"]
        seen = sample["activation"].clone().requires_grad_()
        losses = F.cross_entropy(parts[1](seen), sample["y"], reduction="none")
        loss = (losses * sample["mask"]).sum() / sample["mask"].sum()
        loss.backward()
        assert seen.grad is not None
        result["finish"] = {
            "loss": loss.detach().numpy(),
            "gradient": flat(parts[1]).numpy(),
            "by_activation": seen.grad.numpy(),
        }
    return result
