"""One client at a time with ordinary torch: for modules that cannot be vectorised, and the reference for the others."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.arrays import Array, Weights, problem_with
from edgekit.asks import Score, Scored, Train, Trained
from edgekit.clients.cohort.vectorised import gradients_of
from edgekit.clients.draws import Draws, generator_of
from edgekit.clients.per_example import PROBED, PerExample
from edgekit.clients.trainer import LocalTask, check_train, pulled
from edgekit.data import Examples
from edgekit.data.augment import Augmenter
from edgekit.data.federated import Floats, Integers
from edgekit.errors import EdgekitError, ExperimentError, ModelError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models import batch_norms, check_private
from edgekit.models.requirements import untrained
from edgekit.objectives import Figures, Objective, objective_of
from edgekit.objectives.taught import TAUGHT
from edgekit.privacy.tensors import add_noise


class TorchTrainer:
    """Trains any module by plain SGD; private work runs each example alone (`per_example`).

    Args:
        model: the module; it is copied, never changed.
        on_notice: called with a line for people.
    """

    def __init__(self, model: nn.Module, on_notice: Callable[[str], None] = lambda line: None) -> None:
        self.model = model
        self._on_notice = on_notice
        held = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
        self._own = {name: tensor.detach().cpu().numpy() for name, tensor in held.items()}
        self._tried: set[tuple[str, bool]] = set()
        self._examples_alone: PerExample | None = None

    @property
    def learnt(self) -> frozenset[str]:
        """Names of the parameters that are trained, each once."""
        return learnt(self.model)

    @property
    def per_example(self) -> PerExample:
        """What takes single examples' gradients."""
        if self._examples_alone is None:
            self._examples_alone = PerExample(self.model, self._on_notice)
        return self._examples_alone

    def fix(self, arrays: Weights) -> None:
        """Set what is never trained, where it is not as the module was made: frozen parameters, constants.

        Raises:
            ModelError: they are of another network.
        """
        if problem := problem_with(arrays, {name: self._own[name] for name in arrays if name in self._own}):
            raise ModelError(f"what stays fixed is not of this network: {problem}")
        load_weights(self.model, arrays)

    def check(self, asked: Train, examples: Examples) -> None:
        """See that `train` can do this, before anything is spent for it: the first step is tried, and thrown away.

        Raises:
            ModelError: the weights are of another network, or it keeps something of protected examples.
            TrainingError: it is asked for what it cannot do.
        """
        self._check_asked(asked)
        if asked.taught is not None:
            return
        work, what = asked.settings.work, (asked.settings.work, asked.settings.protects)
        if what in self._tried:
            return
        if asked.settings.protects:
            check_private(self.model, examples.x)
        size = asked.settings.batch_size if work == "sgd" else PROBED
        few = Examples(examples.x[:size], examples.y[:size])
        if len(few):
            nothing = np.random.default_rng(0)
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    self._check_objective(few)
                self._trained(asked, LocalTask(few, nothing, nothing), [np.arange(len(few))])
            except EdgekitError:
                raise
            except Exception as error:  # a user's module may do anything
                told = " ".join(str(error).split())[:200] or type(error).__name__
                raise TrainingError(f"the network cannot be trained on this client's examples: {told}") from error
        self._tried.add(what)

    @torch.no_grad()
    def _check_objective(self, few: Examples) -> None:
        model, dtype = copy.deepcopy(self.model), next(self.model.parameters()).dtype
        x = torch.from_numpy(few.x[:PROBED]).to(dtype)
        scores = model.train(not batch_norms(model))(x)  # as it trains; BatchNorm takes no single example so
        scores = scores + torch.randn_like(scores)  # a new network may give the same for all
        objective_of(self.model).check_apart(scores, torch.from_numpy(few.y[:PROBED]), x)

    def train(self, asked: Train, task: LocalTask) -> Trained:
        """Train one client.

        Args:
            asked: weights and buffers by name, and the round's instructions.
            task: the client's data and random numbers.
        """
        self._check_asked(asked)
        if asked.taught is not None:
            task = dataclasses.replace(task, examples=_lesson(asked.taught, task.examples.x.shape[1:]))
        return self._trained(asked, task, task.plan(asked.settings))

    def score(self, asked: Score, examples: Examples) -> Scored:
        """Return how good weights are on examples."""
        scores = self.scores({**(asked.buffers or {}), **asked.weights}, examples.x)
        return scored(objective_of(self.model), scores, examples)

    @torch.no_grad()
    def scores(self, weights: Weights, x: Floats) -> Floats:
        """Return the network's scores for examples, (examples, classes)."""
        if problem := problem_with(weights, {name: self._own[name] for name in weights if name in self._own}):
            raise ModelError(f"these weights are not of this device's network: {problem}")
        model = copy.deepcopy(self.model).eval()
        load_weights(model, weights)
        found: Floats = torch.cat([model(part) for part in torch.from_numpy(x).split(256)]).numpy()
        return found

    def _check_asked(self, asked: Train) -> None:
        own, trained = self._own, self.learnt
        if problem := problem_with(asked.weights, {name: own[name] for name in own if name in trained}):
            raise ModelError(f"these weights are not of this device's network: {problem}")
        buffers = asked.buffers or {}
        if buffers and asked.settings.protects:
            raise TrainingError("a protected round takes no running statistics along: they tell of examples")
        kept = untrained(self.model)
        if problem := problem_with(buffers, {name: own[name] for name in own if name in buffers and name in kept}):
            raise ModelError(f"these buffers are not of this device's network: {problem}")
        check_train(asked, trained)

    def _trained(self, asked: Train, task: LocalTask, plan: list[Integers]) -> Trained:
        model = copy.deepcopy(self.model).train()
        load_weights(model, {**(asked.buffers or {}), **asked.weights})
        seed = int(task.batches_rng.integers(2**63))  # of layers that draw, as Dropout does
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._work(model, asked, task, plan, generator_of(seed), Augmenter(asked.settings.augment, seed))

    def _work(
        self,
        model: nn.Module,
        asked: Train,
        task: LocalTask,
        plan: list[Integers],
        generator: torch.Generator,
        augmenter: Augmenter,
    ) -> Trained:
        settings, loss, examples = asked.settings, None, task.examples
        y, dtype = torch.from_numpy(examples.y), next(model.parameters()).dtype

        def batch(indices: Integers) -> tuple[Tensor, Tensor]:
            return torch.from_numpy(augmenter(examples.x[indices])).to(dtype), y[indices]

        batches = map(batch, plan)
        if settings.work == "sgd":
            loss = _sgd(model, batches, asked, generator, examples.y) / len(plan)
        elif settings.work == "clipped-sum":
            own = {name: p for name, p in model.named_parameters() if p.requires_grad}
            sums = self.per_example.clipped_sum(own, *next(batches), settings.clip, generator)
            return Trained({name: tensor.numpy() for name, tensor in sums.items()}, len(y), None)
        else:
            _dp_sgd(model, self.per_example, batches, len(y), asked, task.noise_rng, generator)
        held, trained = state(model), self.learnt
        buffers = {name: held[name] for name in asked.buffers or {}}
        return Trained({name: held[name] for name in held if name in trained}, len(y), loss, len(plan), buffers)


def _lesson(taught: tuple[Array, Array], shape: tuple[int, ...]) -> Examples:
    """Return what is taught as examples.

    Raises:
        TrainingError: it is not of this network's examples.
    """
    x, scores = (np.asarray(one, np.float32) for one in taught)
    if x.shape[1:] != shape or scores.ndim != 2 or len(scores) != len(x) or not len(x):
        raise TrainingError(f"what is taught is of {x.shape} and {scores.shape}, not examples {shape} and scores")
    return Examples(x, scores)


def scored(objective: Objective, scores: Floats, examples: Examples) -> Scored:
    """Return the mean loss, and the objective's measure; errors as of `figures_of`."""
    found = figures_of(objective, scores, examples)
    return Scored(found.loss, found.score, len(examples))


def figures_of(objective: Objective, scores: Floats, examples: Examples) -> Figures:
    """Return how good scores are, the mean loss too.

    Raises:
        ExperimentError: the objective's figures fail, or are none.
    """
    arrays = (scores, examples.y, examples.x)
    loss = float(objective.each(*map(torch.from_numpy, arrays)).mean())
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = objective.figures(*arrays)
        fits = isinstance(found, Figures) and next(iter(found.metrics)) == objective.measure
    except Exception as error:  # it may be the user's own
        told = " ".join(str(error).split())[:200]
        raise ExperimentError(
            f"objective {objective.name}: its figures fail: {type(error).__name__}: {told}"
        ) from error
    if not fits:
        raise ExperimentError(
            f"objective {objective.name}: its figures must be Figures whose first metric is {objective.measure!r}"
        )
    return replace(found, loss=loss)


def learnt(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that are trained: not frozen, and each once by its first name."""
    return frozenset(name for name, p in model.named_parameters() if p.requires_grad)


def state(model: nn.Module) -> Weights:
    """Return a module's parameters and buffers as numpy arrays; shared ones under each of their names."""
    held = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in held.items()}


def trained_weights(model: nn.Module) -> Weights:
    """Return a module's trained parameters, each once, in the order of its state."""
    held, trained = state(model), learnt(model)
    return {name: held[name] for name in held if name in trained}


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Set those of a module's parameters and buffers that are there; values go to each tensor's own dtype."""
    own = model.state_dict()
    with torch.no_grad():
        for name, array in weights.items():
            own[name].copy_(torch.from_numpy(np.array(array, order="C")))


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


Batches = Iterator[tuple[Tensor, Tensor]]


def own_classes(objective: Objective, labels: Array, scores: Tensor) -> Tensor:
    """Return 1 for each class that a client has an example of, 0 for others, (classes,).

    Args:
        objective: of the network.
        labels: of all the client's examples.
        scores: that the network gives, (..., classes).

    Raises:
        TrainingError: labels are no classes.
    """
    if objective.labels != "class" or labels.ndim != 1:
        raise TrainingError(f"a loss of a client's own classes needs labels that are classes, not {objective.name}'s")
    return torch.from_numpy(np.isin(np.arange(scores.shape[-1]), labels)).to(scores.dtype)


def _sgd(model: nn.Module, batches: Batches, asked: Train, generator: torch.Generator, labels: Array) -> float:
    """Take the steps; return the sum of their losses.

    Args:
        model: the network.
        batches: of examples and labels.
        asked: the request.
        generator: of layers that draw.
        labels: of all the client's examples.
    """
    settings, pull = asked.settings, _Pull(asked)
    objective = objective_of(model) if asked.taught is None else TAUGHT
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = _optimiser(settings, list(parameters.values()))
    draws = Draws(lambda: [generator])
    total = 0.0
    for x, y in batches:
        with draws:
            scores = model(x)
        if settings.own_classes:
            scores = scores * own_classes(objective, labels, scores)
        loss = objective.each(scores, y, x).mean()
        gradients = gradients_of(loss, list(parameters.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                pull.add(name, parameter, gradient)
                parameter.grad = gradient
        if settings.gradient_clip:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.gradient_clip)
        optimiser.step()
        total += float(loss.detach())
    return total


def _optimiser(settings: LocalSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, settings.momentum, weight_decay=decay, nesterov=settings.nesterov)


def _dp_sgd(
    model: nn.Module,
    per_example: PerExample,
    batches: Batches,
    examples: int,
    asked: Train,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> None:
    settings, pull = asked.settings, _Pull(asked)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for x, y in batches:
        sums = per_example.clipped_sum(parameters, x, y, settings.clip, generator)
        add_noise(list(sums.values()), settings.noise_multiplier * settings.clip, rng)
        with torch.no_grad():
            for name, parameter in parameters.items():
                gradient = sums[name] / settings.batch_of(examples)
                pull.add(name, parameter, gradient)
                momentum[name].mul_(settings.momentum).add_(gradient)
                parameter.add_(momentum[name], alpha=-settings.learning_rate)
