"""One client at a time with ordinary torch: for modules that cannot be vectorised, and the reference for the others."""

import copy
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.arrays import Weights, problem_with
from edgekit.asks import Score, Scored, Train, Trained
from edgekit.clients.trainer import LocalTask, check_train, pulled
from edgekit.data import Examples, batches
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

    @property
    def learnt(self) -> frozenset[str]:
        """Names of the parameters that are not frozen."""
        return learnt(self.model)

    def check(self, asked: Train, examples: Examples) -> None:
        """See that `train` can do this, before anything is spent for it.

        Raises:
            ModelError: the weights are of another network.
            TrainingError: it is asked for what it cannot do.
        """
        own = state(self.model)
        if problem := problem_with(asked.weights, own):
            raise ModelError(f"these weights are not of this device's network: {problem}")
        check_train(asked, own, self.learnt)

    def train(self, asked: Train, task: LocalTask) -> Trained:
        """Train one client.

        Args:
            asked: weights by name (parameters and buffers), and the round's instructions.
            task: the client's data and random numbers.
        """
        check_train(asked, asked.weights, self.learnt)
        model = copy.deepcopy(self.model).train()
        load_weights(model, asked.weights)
        plan = batches.draw(len(task.examples), asked.settings, task.batches_rng)
        x, y = torch.from_numpy(task.examples.x), torch.from_numpy(task.examples.y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(task.batches_rng.integers(2**63)))  # of layers that draw, as Dropout does
            return _train(model, asked, x, y, plan, task)

    def score(self, asked: Score, examples: Examples) -> Scored:
        """Return how good weights are on examples."""
        return scored(self.scores(asked.weights, examples.x), examples)

    @torch.no_grad()
    def scores(self, weights: Weights, x: Floats) -> Floats:
        """Return the network's scores for examples, (examples, classes)."""
        model = copy.deepcopy(self.model).eval()
        load_weights(model, weights)
        found: Floats = torch.cat([model(part) for part in torch.from_numpy(x).split(256)]).numpy()
        return found


def _train(model: nn.Module, asked: Train, x: Tensor, y: Tensor, plan: list[Integers], task: LocalTask) -> Trained:
    settings = asked.settings
    x = x.to(next(model.parameters()).dtype)
    loss = None
    if settings.work == "sgd":
        loss = _sgd(model, x, y, plan, asked)
    elif settings.work == "clipped-sum":
        sums = _PerExample(model).clipped_sum(x[plan[0]], y[plan[0]], settings.clip)
        frozen = {name: torch.zeros_like(p) for name, p in model.named_parameters() if not p.requires_grad}
        return Trained(_numpy({**frozen, **sums}), len(y), None)
    else:
        _dp_sgd(model, x, y, plan, asked, task.noise_rng)
    return Trained(state(model), len(y), loss, len(plan))


def scored(scores: Floats, examples: Examples) -> Scored:
    """Return the mean cross-entropy in nats, and the share of right answers."""
    found, right = torch.from_numpy(scores), torch.from_numpy(examples.y)
    loss = float(F.cross_entropy(found, right))
    return Scored(loss, float((found.argmax(1) == right).float().mean()), len(examples))


def learnt(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that are not frozen; one that is shared has all its names."""
    return frozenset(name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad)


def state(model: nn.Module) -> Weights:
    """Return a module's parameters and buffers as numpy arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Set a module's parameters and buffers; values go back to each tensor's own dtype."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(weights[name], order="C")))


class _Pull:
    """What is added to gradients: mu (w - anchor) + drift."""

    def __init__(self, asked: Train) -> None:
        anchor, drift = pulled(asked)
        self._mu = asked.settings.proximal_mu
        self._anchor = {name: torch.tensor(array) for name, array in anchor.items()} if self._mu else {}
        self._drift = {name: torch.tensor(array) for name, array in drift.items()}

    def add(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        """Add it to a parameter's gradient, in place."""
        if self._mu:
            gradient.add_(parameter - self._anchor[name].to(parameter.dtype), alpha=self._mu)
        if name in self._drift:
            gradient.add_(self._drift[name].to(parameter.dtype))


def _sgd(model: nn.Module, x: Tensor, y: Tensor, plan: list[Integers], asked: Train) -> float:
    settings, pull = asked.settings, _Pull(asked)
    parameters = list(model.parameters())
    optimiser = torch.optim.SGD(parameters, settings.learning_rate, settings.momentum)
    total = 0.0
    for indices in plan:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x[indices]), y[indices])
        loss.backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    pull.add(name, parameter, parameter.grad)
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
    model: nn.Module, x: Tensor, y: Tensor, plan: list[Integers], asked: Train, rng: np.random.Generator
) -> None:
    settings, pull = asked.settings, _Pull(asked)
    per_example = _PerExample(model)
    parameters = per_example.parameters
    momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for indices in plan:
        sums = per_example.clipped_sum(x[indices], y[indices], settings.clip)
        add_noise(list(sums.values()), settings.noise_multiplier * settings.clip, rng)
        with torch.no_grad():
            for name, parameter in parameters.items():
                gradient = sums[name] / (settings.sample_rate * len(y))
                pull.add(name, parameter, gradient)
                momentum[name].mul_(settings.momentum).add_(gradient)
                parameter.add_(momentum[name], alpha=-settings.learning_rate)
    per_example.detach()


def _numpy(tensors: dict[str, Tensor]) -> Weights:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
