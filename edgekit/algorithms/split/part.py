"""A part of a network in training: forward on one side of a cut, backward when the gradient comes from the other."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from edgekit.algorithms.split.codec import LARGEST
from edgekit.algorithms.split.hiding import Noise
from edgekit.arrays import Weights
from edgekit.privacy.tensors import add_noise, clipped

AT_ONCE = 64
"""Examples whose gradients are held at a time."""


@dataclass
class Passed:
    """A batch that went forward, and waits for its gradient.

    Attributes:
        x: what went in.
        y: what came out.
        parameters: with which; steps made meanwhile do not change them (weight stashing; Narayanan et al. 2019,
            PipeDream, section 3.3).
    """

    x: Tensor
    y: Tensor
    parameters: Mapping[str, Tensor]


class Part:
    """A part of a network and its SGD, the same to the bit as `torch.optim.SGD`'s.

    A step makes new parameters and leaves the old ones as they are, for batches that are still under way.

    Args:
        module: the part; it is not changed.
        weights: by name; those of other parts are passed over.
        learning_rate: step size.
        momentum: of SGD.
        proximal_mu: weight of FedProx's term mu / 2 |w - w_global|^2 (Li et al. 2020).
        seed: of layers that draw, as Dropout does.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Weights,
        learning_rate: float,
        momentum: float = 0.0,
        proximal_mu: float = 0.0,
        seed: int = 0,
    ) -> None:
        # A copy, since its tensors are exchanged while it runs, and others may run theirs; without values of its own.
        self._module = copy.deepcopy(module).to("meta").train()
        self._random = torch.Generator().manual_seed(seed).get_state()
        self._rate, self._momentum, self._mu = learning_rate, momentum, proximal_mu

        def own(name: str) -> Tensor:
            return torch.from_numpy(np.array(weights[name], order="C"))

        self._parameters = {
            name: own(name).requires_grad_(parameter.requires_grad) for name, parameter in module.named_parameters()
        }
        # What a network's state does not hold (constants, buffers that are not persistent) is the module's own.
        self._buffers = {
            name: own(name) if name in weights else buffer.clone() for name, buffer in module.named_buffers()
        }
        self._kept = [*self._parameters, *(name for name in self._buffers if name in weights)]
        self._start = {name: parameter.detach() for name, parameter in self._parameters.items()} if self._mu else {}
        self._momenta: dict[str, Tensor] = {}

    def forward(self, x: Tensor, *, wants_gradient: bool) -> Passed:
        """Let a batch pass.

        Args:
            x: (examples, ...).
            wants_gradient: whether `backward` returns the gradient with respect to it.
        """
        x = x.detach().requires_grad_(wants_gradient)
        parameters = self._parameters
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            # A copy, since the first layer may work in place.
            y: Tensor = functional_call(self._module, (parameters, self._buffers), (x.clone(),))
            self._random = torch.get_rng_state()
        return Passed(x, y, parameters)

    def backward(self, passed: Passed, gradient: Tensor | None = None) -> Tensor | None:
        """Make a step by the gradient with respect to what came out; return the one to what went in, if wanted.

        Args:
            passed: the batch.
            gradient: of the shape of what came out; None if that is the loss itself.
        """
        wanted = [name for name, parameter in passed.parameters.items() if parameter.requires_grad]
        inputs = [passed.parameters[name] for name in wanted]
        if passed.x.requires_grad:
            inputs.append(passed.x)
        if not inputs:
            return None
        found = torch.autograd.grad(passed.y, inputs, gradient, allow_unused=True)
        self._step(dict(zip(wanted, found, strict=False)))
        return found[-1] if passed.x.requires_grad else None

    def backward_private(self, passed: Passed, gradient: Tensor, noise: Noise) -> Tensor:
        """Make a private step by the gradient of a batch's mean loss; return the gradient to what went in.

        Args:
            passed: the batch.
            gradient: by what came out, (examples, ...); zeros for what is no example.
            noise: how it is clipped and noised.
        """
        count = len(gradient)
        return self._private(passed, count * gradient, lambda y, g: (y * g).sum(), noise) / count

    def finish_private(self, passed: Passed, labels: Tensor, noise: Noise) -> Tensor:
        """Make a private step by the cross-entropy of a batch; return the gradient of its mean to what went in.

        Args:
            passed: the batch.
            labels: (examples,); -1 for what is no example.
            noise: how it is clipped and noised.
        """

        def loss(y: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(y, label.clamp(min=0)) * (label >= 0)

        return self._private(passed, labels, loss, noise) / len(labels)

    def _private(self, passed: Passed, of: Tensor, loss: Callable[[Tensor, Tensor], Tensor], noise: Noise) -> Tensor:
        """Make a step by the clipped gradients of each example's loss; return each one's gradient by what went in."""
        wanted = {name: parameter.detach() for name, parameter in passed.parameters.items() if parameter.requires_grad}
        rest = {name: tensor.detach() for name, tensor in passed.parameters.items() if name not in wanted}

        def one(parameters: dict[str, Tensor], x: Tensor, about: Tensor) -> Tensor:
            y: Tensor = functional_call(self._module, ({**rest, **parameters}, self._buffers), (x[None].clone(),))
            return loss(y[0], about)

        sums = [torch.zeros_like(parameter) for parameter in wanted.values()]
        found = []
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            each = vmap(grad(one, argnums=(0, 1)), in_dims=(None, 0, 0), randomness="different")
            for x, about in zip(passed.x.detach().split(AT_ONCE), of.split(AT_ONCE), strict=True):
                gradients, by_x = each(wanted, x, about)
                each_clipped = clipped(list(gradients.values()), noise.clip) if gradients else []
                for total, part in zip(sums, each_clipped, strict=True):
                    total += part.sum(0)
                found.append(by_x)
            self._random = torch.get_rng_state()
        add_noise(sums, noise.deviation, noise.rng)
        divisor = noise.divisor or len(of)
        self._step({name: total / divisor for name, total in zip(wanted, sums, strict=True)})
        # An example whose gradient no server would take has none, as in the clipped sum.
        by_x = torch.cat(found)
        fits = (by_x.flatten(1).abs().amax(1) <= LARGEST).reshape(-1, *([1] * (by_x.dim() - 1)))
        return torch.where(fits, by_x, 0.0)

    @torch.no_grad()
    def _step(self, gradients: Mapping[str, Tensor | None]) -> None:
        new = dict(self._parameters)
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            parameter = self._parameters[name].detach()
            if self._mu:
                gradient = gradient.add(parameter - self._start[name], alpha=self._mu)
            if self._momentum:
                before = self._momenta.get(name)
                gradient = gradient.clone() if before is None else before.mul(self._momentum).add(gradient)
                self._momenta[name] = gradient
            new[name] = torch.add(parameter, gradient, alpha=-self._rate).requires_grad_()
        self._parameters = new

    def weights(self) -> Weights:
        """Return parameters and buffers as numpy arrays."""
        tensors = {**self._parameters, **self._buffers}
        return {name: tensors[name].detach().numpy().copy() for name in self._kept}
