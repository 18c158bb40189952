"""The training graph of a device's parts of a network that is cut: the gradient comes from elsewhere, as an input."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ExportError
from edgekit.export import runtimes
from edgekit.export.convert import check_size, device_shape
from edgekit.export.metadata import SPLIT_TRAINING, add_metadata
from edgekit.export.training.apart import Apart
from edgekit.export.training.file import DRAWS, Results, check_trainable, converted, verified
from edgekit.export.training.rules import Rules, as_images
from edgekit.export.training.steps import Held, Options, from_device, or_zeros


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

    def backward_private(self, x: Tensor, g: Tensor, clip: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the `total` of the examples' gradients by w, each clipped to l2 norm `clip`, (1,).

        Here the rows of g are each example's own gradient, not the mean's. If an example's gradient is not finite,
        neither is the total: the caller must look for that example.
        """
        parts, rules = self.held.leaves(w), Apart(len(x))
        product = (self.held.run(parts, from_device(x), rules) * g).sum()
        return {"total": self.held.clipped_sum(product, parts, rules, clip)}

    def finish_private(self, activation: Tensor, y: Tensor, mask: Tensor, clip: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the clipped `total` as `backward_private` does, and each example's own gradient `by_activation`."""
        assert self.last is not None
        parts, rules = self.last.leaves(w), Apart(len(activation))
        seen = activation.detach().requires_grad_()
        inputs = as_images(seen.permute(2, 3, 0, 1)) if seen.dim() == 4 else seen
        losses = -(y * F.log_softmax(self.last.run(parts, inputs, rules), -1)).sum(-1)
        (by_activation,) = torch.autograd.grad((losses * mask).sum(), [seen], retain_graph=True)
        return {
            "total": self.last.clipped_sum(losses.sum(), parts, rules, clip, mask),
            "by_activation": by_activation,
        }


def split_file(
    bottom: nn.Module,
    tail: nn.Module | None,
    shape: tuple[int, ...],
    crossing: Sequence[tuple[int, ...]],
    classes: int,
    options: Options,
    card: dict[str, Any],
    claimed: Sequence[str] = ("ai-edge-litert",),
) -> tuple[bytes, float]:
    """Return a .tflite with the signatures forward, backward, finish (with a last part) and parameters, each checked.

    For private steps there are `backward_private` and `finish_private` instead.

    Args:
        bottom: the device's first part.
        tail: its last part, which sees the labels; None where the server has them.
        shape: of one example.
        crossing: shapes of one example's activation at each cut.
        classes: how many scores the network gives.
        options: how many examples a call takes (smaller batches are filled up), and whether the steps are private.
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
    for part, takes in zip(parts, (shape, crossing[-1]), strict=False):
        check_trainable(part, takes)
        if held := [name for name in part.state_dict() if name not in dict(part.named_parameters())]:
            raise ExportError(f"{held[0]!r} travels beside the weights, which a part's training graph cannot hold")
        check_size(part)
    steps = SplitSteps(parts[0], parts[1] if tail is not None else None)
    draws = [_samples(steps, shape, crossing, classes, options, seed) for seed in range(DRAWS)]
    initial = steps.held.initial()
    content = converted({name: getattr(steps, name) for name in draws[0]}, draws[0], initial)
    checked = [(samples, _reference(parts, samples)) for samples in draws]
    error = max(verified(content, checked, initial, name) for name in claimed)
    facts = {
        "kind": SPLIT_TRAINING,
        "batch": options.batch,
        "private": options.private,
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
    options: Options,
    seed: int,
) -> dict[str, dict[str, Tensor]]:
    """Return each signature's inputs, on random data; the last example of the batch is filling."""
    batch, private = options.batch, options.private
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *device_shape(shape), generator=random)
    g = torch.randn(batch, *crossing[0], generator=random) / (1 if private else batch)
    mask = torch.ones(batch)
    mask[-1] = 1.0 if batch == 1 else 0.0
    g = g * mask.reshape(-1, *([1] * len(crossing[0])))
    w = steps.held.initial()
    clip = {"clip": torch.tensor([0.5])} if private else {}
    ending = "_private" if private else ""
    found = {"forward": {"x": x, "w": w}, f"backward{ending}": {"x": x, "g": g, **clip, "w": w}}
    if steps.last is not None:
        y = F.one_hot(torch.randint(classes, (batch,), generator=random), classes).float()
        seen = torch.rand(batch, *crossing[1], generator=random)
        found[f"finish{ending}"] = {"activation": seen, "y": y, "mask": mask, **clip, "w": steps.last.initial()}
    return found


def _reference(parts: Sequence[nn.Module], samples: dict[str, dict[str, Tensor]]) -> Results:
    """Return what torch gives for the signatures' inputs, by its own operators and autograd."""

    def flat(module: nn.Module) -> Tensor:
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
        module.zero_grad()
        return torch.cat([gradient.flatten() for gradient in found])

    bottom = parts[0]
    if "backward_private" in samples:
        return _private_reference(parts, samples)
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


def _private_reference(parts: Sequence[nn.Module], samples: dict[str, dict[str, Tensor]]) -> Results:
    """Return what torch gives, example by example."""

    def clipped(module: nn.Module, loss: Tensor, bound: float) -> Tensor:
        found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
        flat = torch.cat([or_zeros(g, p.shape).flatten() for g, p in zip(found, module.parameters(), strict=True)])
        return flat * min(1.0, bound / (float(flat.norm()) + 1e-6))

    sample = samples["backward_private"]
    x, g, bound = sample["x"], sample["g"], float(sample["clip"])
    activation = parts[0](x.permute(0, 3, 1, 2) if x.dim() == 4 else x)
    totals = [clipped(parts[0], (row * by).sum(), bound) for row, by in zip(activation, g, strict=True)]
    result: Results = {
        "forward": {"activation": activation.detach().numpy()},
        "backward_private": {"total": torch.stack(totals).sum(0).numpy()},
    }
    if "finish_private" in samples:
        sample = samples["finish_private"]
        seen = sample["activation"].clone().requires_grad_()
        losses = F.cross_entropy(parts[1](seen), sample["y"], reduction="none")
        totals = [clipped(parts[1], loss, bound) * m for loss, m in zip(losses, sample["mask"], strict=True)]
        (by_activation,) = torch.autograd.grad((losses * sample["mask"]).sum(), [seen])
        result["finish_private"] = {
            "total": torch.stack(totals).sum(0).numpy(), "by_activation": by_activation.numpy(),
        }  # fmt: skip
    return result
