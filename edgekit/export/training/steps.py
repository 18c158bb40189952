"""The functions of a training file: train, train_dp, infer, evaluate, parameters.

All weights travel as one vector w (parameters,), each parameter flattened in the order of `named_parameters()`.
Gradients come from autograd over the module's own forward, run under `rules.Rules`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgekit.errors import ExportError
from edgekit.export.training.apart import Apart
from edgekit.export.training.rules import Rules, as_images
from edgekit.local_settings import BETAS, EPSILON, Optimiser
from edgekit.objectives import objective_of

Step = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class Options:
    """What the training signatures can do beyond plain SGD.

    Attributes:
        batch: examples a call; smaller batches are filled up and masked.
        clip: largest l2 norm of an example's gradient in `train_dp`.
        momentum: whether they take `velocity` and `momentum`, and return the new velocity.
        proximal: whether they take FedProx's `anchor`, the round's global weights, and `mu` (Li et al. 2020).
        drift: whether they take a `drift` (parameters,), which is added to each gradient (SCAFFOLD and its kin).
        private: whether there is a `train_dp`; some networks can have none.
        optimiser: of `train`: `sgd`, `adam` or `adamw`, which take the means `first` and `second` of gradients and
            squares and `corrections` of them, and return the new means (Kingma & Ba 2015, algorithm 1).
        decay: whether `train` takes a weight `decay`, as torch's optimisers have it.
    """

    batch: int = 16
    clip: float = 1.0
    momentum: bool = False
    proximal: bool = False
    drift: bool = False
    private: bool = True
    optimiser: Optimiser = "sgd"
    decay: bool = False


class Held:
    """A network's weights as one vector, and what runs with them.

    Args:
        model: the network, or a part of one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        self.frozen = {name for name, p in model.named_parameters() if not p.requires_grad}

    def initial(self) -> Tensor:
        """Return the module's own weights as one vector."""
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])

    def leaves(self, w: Tensor) -> dict[str, Tensor]:
        """Return the parameters that a vector holds, as leaves of autograd."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        pieces = torch.split(w, sizes) if len(sizes) > 1 else (w,)  # litert-torch has no split into one
        return {
            name: piece.reshape(shape).detach().requires_grad_(name not in self.frozen)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def free(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters that learn."""
        return {name: part for name, part in parts.items() if name not in self.frozen}

    def run(self, parts: dict[str, Tensor], x: Tensor, rules: Rules) -> Tensor:
        """Return what the network makes of x: (batch, ...), images as torch has them."""

        def forward(x: Tensor) -> Tensor:
            y: Tensor = functional_call(self.model, parts, (x,))
            return y

        rules.prepare(forward, parts.values(), x)
        with rules:
            return forward(x)

    def gradient(
        self, of: Tensor, parts: dict[str, Tensor], by: Tensor | None = None, also: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """Return the gradient of a scalar, or of a tensor's product with `by`, as one vector; then that by `also`."""
        free = self.free(parts)
        reached = torch.autograd.grad(of, [*free.values(), *also], by, allow_unused=True)
        found = dict(zip(free, reached, strict=False))
        whole = torch.cat([or_zeros(found.get(name), part.shape).reshape(-1) for name, part in parts.items()])
        return whole, *(or_zeros(g, x.shape) for g, x in zip(reached[len(free) :], also, strict=True))

    def clipped_sum(
        self, loss: Tensor, parts: dict[str, Tensor], rules: Apart, clip: Tensor | float, mask: Tensor | None = None
    ) -> Tensor:
        """Return the sum of the examples' gradients, each clipped to l2 norm `clip`, as one vector.

        Args:
            loss: sum of the examples' losses, from a run under `rules` for a batch.
            parts: of the run.
            rules: of the run.
            clip: largest norm.
            mask: (batch,), 0 for what is no example; None if all are.
        """
        rows = [gradient.reshape(rules.batch, -1) for gradient in self.per_example(loss, parts, rules)]
        squares = torch.stack([(row * row).sum(1) for row in rows]).sum(0)
        factors = torch.clamp(clip / (torch.sqrt(squares) + 1e-6), max=1.0)
        factors = factors if mask is None else mask * factors
        return torch.cat([(factors[None] @ row)[0] for row in rows])

    def per_example(self, loss: Tensor, parts: dict[str, Tensor], rules: Apart) -> list[Tensor]:
        """Return each parameter's gradients, (batch, *shape).

        Functions give the gradients by the weights that they used; those that a module computed from its parameters
        first, as weight standardisation does, are followed back through that computation.
        """
        used = [weight for weight, _ in rules.used]
        zeros = [each for _, each in rules.used]
        reached = torch.autograd.grad(loss, zeros, retain_graph=True, allow_unused=True)
        by_used = [or_zeros(gradient, each.shape) for gradient, each in zip(reached, zeros, strict=True)]
        free = self.free(parts)
        stray = torch.autograd.grad(loss, list(free.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(free, stray, strict=True):
            if gradient is not None:
                raise ExportError(
                    f"parameter {name!r} is used in a way whose gradient by one example is not known, such as written "
                    "into another tensor: leave train_dp out (edgekit export --no-private)"
                )
        total: dict[str, Tensor] = {}
        names = {id(part): name for name, part in parts.items()}
        for weight, gradient in zip(used, by_used, strict=True):
            if id(weight) in names:
                found = {names[id(weight)]: gradient}
            else:
                back = torch.autograd.grad(
                    weight, list(free.values()), gradient, is_grads_batched=True, allow_unused=True, retain_graph=True
                )
                found = {name: g for name, g in zip(free, back, strict=True) if g is not None}
            for name, g in found.items():
                total[name] = total[name] + g if name in total else g
        return [or_zeros(total.get(name), (rules.batch, *part.shape)) for name, part in parts.items()]


class Steps(Held):
    """The functions of one network's training file.

    Args:
        model: the network.
        options: of the file.
    """

    def __init__(self, model: nn.Module, options: Options) -> None:
        super().__init__(model)
        self.options, self.objective = options, objective_of(model)

    def train(self, x: Tensor, y: Tensor, mask: Tensor, lr: Tensor, w: Tensor, **more: Tensor) -> dict[str, Tensor]:
        """Take one step of SGD on the mean loss of the examples that the mask keeps.

        Args:
            x: (batch, height, width, channels) or (batch, ...).
            y: labels as the objective encodes them, (batch, width): class probabilities, one-hot for plain labels.
            mask: (batch,), 1 for an example, 0 for filling.
            lr: step size, (1,), as momentum and mu: LiteRT for arm64 crashes on inputs without dimensions.
            w: weights (parameters,).
            more: `momentum`, `velocity`, `mu`, `anchor`, `drift`, `first`, `second`, `corrections` (2,) and `decay`,
                where the options say so.

        Returns:
            `loss`, a scalar, the new `w`, and the new `velocity`, or `first` and `second`.
        """
        parts = self.leaves(w)
        losses = self._losses(parts, x, y, Rules())
        loss = (losses * mask).sum() / mask.sum().clamp(min=1.0)
        gradient = self._pulled(w, self.gradient(loss, parts)[0], more)
        if self.options.decay:
            decay = more["decay"] * self._learnt(w) if self.frozen else more["decay"]
            if self.options.optimiser == "adamw":
                w = w - lr * decay * w
            else:
                gradient = gradient + decay * w
        if self.options.optimiser == "sgd":
            return {"loss": loss.detach(), **self._stepped(w, gradient, lr, more)}
        first = BETAS[0] * more["first"] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * more["second"] + (1 - BETAS[1]) * gradient * gradient
        one, two = more["corrections"][:1], more["corrections"][1:]
        w = w - lr * one * first / (torch.sqrt(second * two) + EPSILON)
        return {"loss": loss.detach(), "w": w, "first": first, "second": second}

    def train_dp(
        self, x: Tensor, y: Tensor, mask: Tensor, lr: Tensor, noise: Tensor, w: Tensor, **more: Tensor
    ) -> dict[str, Tensor]:
        """Take one private step (Abadi et al. 2016, algorithm 1).

            w - lr * (sum_i mask_i * g_i * min(1, clip / |g_i|) + noise)

        The sum is not divided: `lr` is the step size over the expected size of a Poisson batch, and likewise `mu` and
        `drift` are times that size. So a batch of more examples than fit is a chain of calls with the same w, no noise
        but in the first: what they add to w adds up.

        Args:
            x, y, mask, w, more: as for `train`; steps are of plain SGD.
            lr: step size over the expected batch size.
            noise: (parameters,), already of its standard deviation noise_multiplier * clip.

        Returns:
            The new `w` and `velocity`. No loss: it would tell of the examples. If an example's gradient is not finite,
            neither is `w`: the caller must look for that example and leave it out, as LiteRTTrainer does.
        """
        parts = self.leaves(w)
        rules = Apart(self.options.batch)
        losses = self._losses(parts, x, y, rules)
        total = self.clipped_sum(losses.sum(), parts, rules, self.options.clip, mask) + noise
        return self._stepped(w, self._pulled(w, total, more), lr, more)

    def infer(self, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the `scores` (batch, outputs)."""
        with torch.no_grad():
            scores: Tensor = self.objective.answer(self._scores(self.leaves(w), x, Rules()))
            return {"scores": scores}

    def evaluate(self, x: Tensor, y: Tensor, mask: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Return the sum of `loss`, and of classes that of `correct` answers, over the examples that the mask keeps."""
        with torch.no_grad():
            scores = self._scores(self.leaves(w), x, Rules())
            losses = self.objective.losses(scores, y, from_device(x))
            found = {"loss": (losses * mask).sum()}
            if self.objective.of_classes:
                correct = (self.objective.answer(scores).argmax(-1) == y.argmax(-1)).float()
                found["correct"] = (correct * mask).sum()
            return found

    def _scores(self, parts: dict[str, Tensor], x: Tensor, rules: Rules) -> Tensor:
        return self.run(parts, from_device(x), rules)

    def _losses(self, parts: dict[str, Tensor], x: Tensor, y: Tensor, rules: Rules) -> Tensor:
        return self.objective.losses(self._scores(parts, x, rules), y, from_device(x))

    def _pulled(self, w: Tensor, gradient: Tensor, more: dict[str, Tensor]) -> Tensor:
        """Add the pull, mu (w - anchor) + drift."""
        if self.options.proximal:
            gradient = gradient + more["mu"] * (w - more["anchor"])
        if self.options.drift:
            gradient = gradient + more["drift"]
        return gradient

    def _learnt(self, w: Tensor) -> Tensor:
        """Return 1 for weights that learn, 0 for the others, which nothing may change."""
        sizes = [(name not in self.frozen, shape.numel()) for name, shape in self.shapes.items()]
        return torch.cat([torch.full((size,), float(learns), dtype=w.dtype) for learns, size in sizes])

    def _stepped(self, w: Tensor, gradient: Tensor, lr: Tensor, more: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add momentum, and take the step."""
        if not self.options.momentum:
            return {"w": w - lr * gradient}
        velocity = more["momentum"] * more["velocity"] + gradient
        return {"w": w - lr * velocity, "velocity": velocity}


def from_device(x: Tensor) -> Tensor:
    """Return a batch as torch has it: a device's images are (batch, height, width, channels)."""
    return as_images(x.permute(1, 2, 0, 3)) if x.dim() == 4 else x


def or_zeros(gradient: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Return a gradient, zeros of a shape where there is none."""
    return torch.zeros(*shape) if gradient is None else gradient
