"""What an honest-but-curious split server can learn: it follows the protocol, keeps what it hears, and reckons.

It has what any split server has: the weights that a round begins with, its own test examples, which are of the same
kind as the devices', and all that devices send.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from edgekit.algorithms.interactive import alone
from edgekit.algorithms.split.hiding import clipped
from edgekit.algorithms.split.line import DirectLine
from edgekit.algorithms.split.messages import Answer, Asked, Backward, Forward, Output
from edgekit.algorithms.split.server import SplitServer
from edgekit.algorithms.split.simulated import Plan
from edgekit.arrays import Weights
from edgekit.data.batches import LocalTask
from edgekit.data.federated import Floats, Integers
from edgekit.local_settings import LocalSettings

HIDDEN, STEPS, BATCH = 512, 1500, 64
RIDGES = (1e-3, 1e-1, 10.0)
HELD_BACK = 0.2
"""Share of its own examples with which the server tells which of its ways to rebuild is the best."""


@dataclass
class Heard:
    """What a server heard of some examples, each in one step, in the order of the examples.

    Attributes:
        x: the examples themselves, to compare with.
        y: their labels, to compare with.
        activation: that the device sent.
        output: that the server answered, of a network whose last part is the device's.
        gradient: of each example's loss by that output, as the device sent it; None where the server has the labels.
    """

    x: Floats
    y: Integers
    activation: Floats
    output: Floats | None
    gradient: Floats | None


def overhear(plan: Plan, server: SplitServer, weights: Weights, task: LocalTask, settings: LocalSettings) -> Heard:
    """Let one client train a round, and keep what the server hears in its first pass over the examples.

    Args:
        plan: the device's side.
        server: the server's side.
        weights: that the round begins with.
        task: the client's data and random numbers.
        settings: the round's instructions.
    """
    kept: dict[str, dict[int, Floats]] = {"activation": {}, "output": {}, "gradient": {}}

    def listening(message: Asked) -> Answer:
        answer = server.answer(0, message)
        if isinstance(message, Forward):
            kept["activation"][message.step] = message.activation
        elif isinstance(message, Backward):  # the mean's gradient: each example's own is so many times its row
            kept["gradient"][message.step] = len(message.gradient) * message.gradient
        if isinstance(answer, Output):
            kept["output"][answer.step] = answer.activation
        return answer

    server.begin(weights, settings, int.from_bytes(task.noise_rng.bytes(32)), [len(task.examples)])
    device = plan.begin(weights, task, settings)
    alone(device.exchanges(), DirectLine(listening, plan.codec))
    first = [step for step, batch in enumerate(device.batches, 1) if len(batch)]
    first = first[: max(1, len(first) // max(1, settings.epochs))] if settings.work != "dp-sgd" else first
    order = np.concatenate([device.batches[step - 1] for step in first])
    found = {name: np.concatenate([by[step] for step in first]) if by else None for name, by in kept.items()}
    assert found["activation"] is not None
    examples = task.examples
    return Heard(examples.x[order], examples.y[order], found["activation"], found["output"], found["gradient"])


def rebuild(
    plan: Plan, weights: Weights, own: Floats, activation: Floats, settings: LocalSettings, seed: int
) -> Floats:
    """Return examples as the server rebuilds them from their activations (He et al. 2019, section 5: inverse network).

    It sends its own examples through the device's part, hides them as a device would, and learns to go back: by ridge
    regression and by a small network, of which it takes what does better on examples held back.

    Args:
        plan: the device's side, which the server knows.
        weights: that the round begins with.
        own: the server's examples, (examples, ...).
        activation: heard, (examples, ...).
        settings: the round's instructions, which say how activations are hidden.
        seed: of the network's weights, and of the noise on its own examples.
    """
    rng = np.random.default_rng(seed)
    names = set(plan.device.bottom.state_dict())
    state = {name: torch.from_numpy(np.array(weights[name])) for name in names}
    with torch.no_grad():
        seen = functional_call(plan.device.bottom, state, (torch.from_numpy(own),)).numpy()
    deviation = 0.0
    if settings.work == "local-dp":
        seen = clipped(seen, plan.terms.activation_clip)
        deviation = 2 * settings.noise_multiplier * plan.terms.activation_clip
    a, x = (array.reshape(len(array), -1).astype(np.float32) for array in (seen, own))
    heard = activation.reshape(len(activation), -1)
    order = rng.permutation(len(own))
    kept = max(1, round(HELD_BACK * len(own)))
    test, train = order[:kept], order[kept:]
    noisy = a + (deviation * rng.standard_normal(a.shape)).astype(np.float32)
    ways: list[Callable[[Floats], Floats]] = [_Ridge(noisy[train], x[train], ridge) for ridge in RIDGES]
    ways.append(_network(a[train], x[train], deviation, seed))
    errors = [float(((way(noisy[test]) - x[test]) ** 2).mean()) for way in ways]
    found = ways[int(np.argmin(errors))](heard)
    return found.reshape(len(heard), *own.shape[1:])


def infer_labels(plan: Plan, weights: Weights, heard: Heard, classes: int) -> Integers:
    """Return each example's label, guessed from the gradient that its device sent (after Li et al. 2022, section 3).

    The server knows the device's last part as it was when the round began, so for each label it reckons which gradient
    it would give, and takes the one of the nearest direction.

    Args:
        plan: the device's side.
        weights: that the round begins with.
        heard: with outputs and gradients.
        classes: how many labels there are.
    """
    assert plan.device.tail is not None
    assert heard.output is not None
    assert heard.gradient is not None
    tail = plan.device.tail
    state = {name: torch.from_numpy(np.array(weights[name])) for name in tail.state_dict()}
    real = torch.from_numpy(heard.gradient).flatten(1)
    likeness = []
    for label in range(classes):
        output = torch.from_numpy(heard.output.copy()).requires_grad_()
        labels = torch.full((len(output),), label)
        F.cross_entropy(functional_call(tail, state, (output,)), labels, reduction="sum").backward()
        assert output.grad is not None
        likeness.append(F.cosine_similarity(output.grad.flatten(1), real))
    found: Integers = torch.stack(likeness, 1).argmax(1).numpy()
    return found


def explained(x: Floats, rebuilt: Floats) -> float:
    """Return the share of the examples' variance that is rebuilt: 1 for all of it, 0 for a guess of their mean."""
    guess = ((x - x.mean(0)) ** 2).mean()
    return max(0.0, float(1 - ((x - rebuilt) ** 2).mean() / guess))


def recognised(x: Floats, rebuilt: Floats) -> float:
    """Return the share of rebuilt examples that are nearer to their own than to any other."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (rebuilt, x))
    distances = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return float((distances.argmin(1) == np.arange(len(x))).mean())


class _Ridge:
    """Ridge regression from activations to examples."""

    def __init__(self, a: Floats, x: Floats, strength: float) -> None:
        self._a, self._x = a.mean(0), x.mean(0)
        centred = (a - self._a).astype(np.float64)
        # With fewer examples than values, the dual form is the smaller system.
        gram = centred @ centred.T
        gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram) + 1e-9
        self._weights = (centred.T @ np.linalg.solve(gram, (x - self._x).astype(np.float64))).astype(np.float32)

    def __call__(self, a: Floats) -> Floats:
        found: Floats = (a - self._a) @ self._weights + self._x
        return found


def _network(a: Floats, x: Floats, deviation: float, seed: int) -> "_Inverse":
    """Return an inverse network, trained with fresh noise in each step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, scale = torch.from_numpy(a).mean(0), torch.from_numpy(a).std() + deviation + 1e-9
        net = nn.Sequential(nn.Linear(a.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, x.shape[1]))
        inputs, targets = torch.from_numpy(a), torch.from_numpy(x)
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(STEPS):
            chosen = torch.randint(len(a), (min(BATCH, len(a)),))
            noisy = inputs[chosen] + deviation * torch.randn(len(chosen), a.shape[1])
            optimiser.zero_grad()
            F.mse_loss(net((noisy - mean) / scale), targets[chosen]).backward()
            optimiser.step()
    return _Inverse(net.eval(), mean, scale)


class _Inverse:
    def __init__(self, net: nn.Module, mean: torch.Tensor, scale: torch.Tensor) -> None:
        self._net, self._mean, self._scale = net, mean, scale

    @torch.no_grad()
    def __call__(self, a: Floats) -> Floats:
        found: Floats = self._net((torch.from_numpy(a) - self._mean) / self._scale).numpy()
        return found
