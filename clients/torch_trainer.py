"""One client at a time with ordinary torch: for modules that cannot be vectorised, and the reference for the others."""

import copy
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.arrays import Weights, problem_with
from edgekit.clients import batches
from edgekit.clients.trainer import LocalSettings, LocalTask, Update, bounded, refuse_parts
from edgekit.data import Examples
from edgekit.data.federated import Floats, Integers
from edgekit.errors import ModelError, TrainingError
from edgekit.privacy.tensors import add_noise, clipped


class TorchTrainer:
    """Trains any module by plain SGD; private work takes its per-example gradients from Opacus.

    Args:
        model: the module; it is copied, never changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that `train` can do this, before anything is spent for it.

        Raises:
            ModelError: the weights are of another network.
        """
        refuse_parts(settings)
        if problem := problem_with(weights, state(self.model)):
            raise ModelError(f"these weights are not of this device's network: {problem}")

    def train(self, weights: Weights, task: LocalTask, settings: LocalSettings) -> Update:
        """Train one client from the global weights.

        Args:
            weights: global weights by name (parameters and buffers).
            task: the client's data and random numbers.
            settings: the round's instructions.
        """
        refuse_parts(settings)
        model = copy.deepcopy(self.model).train()
        load_weights(model, weights)
        plan = batches.draw(len(task.examples), settings, task.batches_rng)
        x, y = torch.from_numpy(task.examples.x), torch.from_numpy(task.examples.y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(task.batches_rng.integers(2**63)))  # of layers that draw, as Dropout does
            return self._train(model, weights, x, y, plan, task, settings)

    @torch.no_grad()
    def scores(self, weights: Weights, x: Floats) -> Floats:
        """Return the network's scores for examples, (examples, classes)."""
        model = copy.deepcopy(self.model).eval()
        load_weights(model, weights)
        found: Floats = torch.cat([model(part) for part in torch.from_numpy(x).split(256)]).numpy()
        return found

    def _train(
        self,
        model: nn.Module,
        weights: Weights,
        x: Tensor,
        y: Tensor,
        plan: list[Integers],
        task: LocalTask,
        settings: LocalSettings,
    ) -> Update:
        x = x.to(next(model.parameters()).dtype)
        loss = None
        if settings.work == "sgd":
            loss = _sgd(model, x, y, plan, settings)
        elif settings.work == "clipped-sum":
            sums = _PerExample(model).clipped_sum(x[plan[0]], y[plan[0]], settings.clip)
            frozen = {name: torch.zeros_like(p) for name, p in model.named_parameters() if not p.requires_grad}
            return Update(_numpy({**frozen, **sums}), len(y), None)
        else:
            _dp_sgd(model, x, y, plan, settings, task.noise_rng)
        arrays = bounded(state(model), weights, settings, task.noise_rng)
        return Update(arrays, len(y), loss)


def state(model: nn.Module) -> Weights:
    """Return a module's parameters and buffers as numpy arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Set a module's parameters and buffers; values go back to each tensor's own dtype."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(weights[name], order="C")))


def _sgd(model: nn.Module, x: Tensor, y: Tensor, plan: list[Integers], settings: LocalSettings) -> float:
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters] if settings.proximal_mu else []
    optimiser = torch.optim.SGD(parameters, settings.learning_rate, settings.momentum)
    total = 0.0
    for indices in plan:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x[indices]), y[indices])
        loss.backward()
        with torch.no_grad():
            for parameter, origin in zip(parameters, start, strict=False):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - origin, alpha=settings.proximal_mu)
        optimiser.step()
        total += float(loss.detach())
    return total / len(plan)


class _PerExample:
    """A module whose per-example gradients Opacus records."""

    def __init__(self, model: nn.Module) -> None:
        from opacus.grad_sample import GradSampleModule

        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.recording = GradSampleModule(model, loss_reduction="sum", batch_first=True)

    def clipped_sum(self, x: Tensor, y: Tensor, clip: float) -> dict[str, Tensor]:
        """Return the sum of the examples' gradients, each clipped to l2 norm `clip`."""
        if len(y) == 0:
            return {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.recording.zero_grad()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook")  # the first layer's input needs no gradient
            F.cross_entropy(self.recording(x), y, reduction="sum").backward()
        each = {name: getattr(p, "grad_sample") for name, p in self.parameters.items()}  # noqa: B009 (set by Opacus)
        for name, gradient in each.items():
            if len(gradient) != len(y):  # clipping its parts one by one would bound nothing
                raise TrainingError(
                    f"parameter {name!r} sees each example in {len(gradient)} rows for {len(y)} examples, so single "
                    'examples cannot be clipped one client at a time: use training.trainer = "cohort"'
                )
        scaled = clipped(list(each.values()), clip)
        return {name: gradient.sum(0) for name, gradient in zip(each, scaled, strict=True)}

    def detach(self) -> None:
        """Take Opacus's hooks off the module again."""
        self.recording.to_standard_module()


def _dp_sgd(
    model: nn.Module, x: Tensor, y: Tensor, plan: list[Integers], settings: LocalSettings, rng: np.random.Generator
) -> None:
    per_example = _PerExample(model)
    parameters = per_example.parameters
    start = {name: p.detach().clone() for name, p in parameters.items()}
    momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for indices in plan:
        sums = per_example.clipped_sum(x[indices], y[indices], settings.clip)
        add_noise(list(sums.values()), settings.noise_multiplier * settings.clip, rng)
        with torch.no_grad():
            for name, parameter in parameters.items():
                gradient = sums[name] / (settings.sample_rate * len(y))
                gradient += settings.proximal_mu * (parameter - start[name])
                momentum[name].mul_(settings.momentum).add_(gradient)
                parameter.add_(momentum[name], alpha=-settings.learning_rate)
    per_example.detach()


def _numpy(tensors: dict[str, Tensor]) -> Weights:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
