"""Split learning on the server's side: the part between, one for all clients or one for each.

One for each, averaged after the round, is SplitFed v1; one that all train together is v2 (Thapa et al. 2022,
algorithms 1 and 2).
"""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.algorithms.split.by_torch import TorchDevice
from edgekit.algorithms.split.codec import LARGEST
from edgekit.algorithms.split.device import Terms
from edgekit.algorithms.split.hiding import Noise
from edgekit.algorithms.split.messages import Answer, Asked, Backward, Forward, Gradient, Output
from edgekit.algorithms.split.noise import noise_of_parts
from edgekit.algorithms.split.part import Part, Passed
from edgekit.algorithms.split.plan import best, compare
from edgekit.algorithms.split.settings import Split
from edgekit.algorithms.split.simulated import Plan, SplitCohort
from edgekit.arrays import Weights
from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats
from edgekit.devices import profile as profiles
from edgekit.errors import ModelError, RefusedError
from edgekit.local_settings import LocalSettings
from edgekit.models.cut import CutModel

MOST_PRIVATE = 65_536
"""Examples in a Poisson batch."""


class SplitServer:
    """The server's part of a network, for all clients of a round.

    Args:
        part: of the network.
        shape: of one example's activation at the cut.
        classes: that labels may name.
        labels: whether the server has them.
        shared: one part for all clients; else one for each.
        window: batches of a client that may be under way at once.
    """

    def __init__(
        self, part: nn.Module, shape: tuple[int, ...], classes: int, *, labels: bool, shared: bool, window: int
    ) -> None:
        self._part, self._shape, self._classes = part, shape, classes
        self._labels, self.shared, self._window = labels, shared, window
        self._seed = 0
        self._examples: list[int] = []
        self._rng = np.random.default_rng(0)
        self._lock = threading.Lock()
        self._weights: Weights = {}
        self._settings = LocalSettings()
        self._halves: dict[int, Part] = {}
        self._waiting: dict[tuple[int, int], Passed] = {}

    def begin(self, weights: Weights, settings: LocalSettings, seed: int, examples: Sequence[int] = ()) -> None:
        """A round begins.

        Args:
            weights: of the whole network.
            settings: the round's instructions; the server's part learns as the devices' do.
            seed: of layers that draw, and of noise; for that, nobody's to know.
            examples: of each client, by its number; for `dp-sgd`.
        """
        with self._lock:
            self._examples = list(examples)
            self._rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
            self._weights, self._settings, self._seed = weights, settings, seed
            self._halves.clear()
            self._waiting.clear()

    def answer(self, client: int, message: Asked) -> Answer:
        """Return the answer to a client's message, after the step that it asks for.

        Raises:
            RefusedError: it does not fit the network, or the step.
        """
        with self._lock:
            half = self._half(client)
            if isinstance(message, Backward):
                return self._backward(client, half, message)
            x = self._checked(client, message)
            passed = half.forward(x, wants_gradient=True)
            noise = self._noise(client)
            if message.labels is None:
                if sum(who == client for who, _ in self._waiting) >= self._window:
                    raise RefusedError(f"more than {self._window} batches are under way")
                self._waiting[client, message.step] = passed
                output = passed.y.detach()
                if noise is not None:  # what no device takes must not cost it its round: that would tell of an example
                    fits = output.flatten(1).abs().amax(1) <= LARGEST
                    output = torch.where(fits.reshape(-1, *([1] * (output.dim() - 1))), output, 0.0)
                return Output(message.step, output.numpy())
            labels = torch.from_numpy(message.labels)
            if noise is not None:  # and no loss: it would tell of the examples
                return Gradient(message.step, half.finish_private(passed, labels, noise).numpy(), None)
            loss = F.cross_entropy(passed.y, labels)
            gradient = half.backward(Passed(passed.x, loss, passed.parameters))
            assert gradient is not None
            return Gradient(message.step, gradient.numpy(), float(loss.detach()))

    def expects(self, client: int, step: int, *, backward: bool) -> tuple[tuple[int, ...], int]:
        """Return what a message's array must be, before it is read: the shape of one example, and the most examples.

        Raises:
            RefusedError: no gradient is expected for this step.
        """
        with self._lock:
            if not backward:
                return self._shape, self._most(client)
            passed = self._waiting.get((client, step))
            if passed is None:
                raise RefusedError(f"step {step} has no activation that waits for a gradient")
            return tuple(passed.y.shape[1:]), len(passed.y)

    def forget(self, client: int) -> None:
        """Forget the batches of a client that are under way: it will not come back to them."""
        with self._lock:
            for key in [key for key in self._waiting if key[0] == client]:
                del self._waiting[key]

    def release(self) -> None:
        """Nobody waits here for anybody else."""

    def finish(self) -> None:
        """Let go of the round: its parts may be large."""
        with self._lock:
            self._halves.clear()
            self._waiting.clear()
            self._weights = {}

    def weights(self, client: int) -> Weights:
        """Return the server's part as it is for a client."""
        with self._lock:
            return self._half(client).weights()

    def _half(self, client: int) -> Part:
        place = 0 if self.shared else client
        if place not in self._halves:
            s = self._settings
            seed = (self._seed + place) % 2**63
            self._halves[place] = Part(self._part, self._weights, s.learning_rate, s.momentum, s.proximal_mu, seed)
        return self._halves[place]

    def _noise(self, client: int) -> Noise | None:
        """Return the noise of a step, if the server's part is private too."""
        if self._settings.work != "dp-sgd":
            return None
        return noise_of_parts(self._settings, 2 if self._labels else 3, self._examples[client], self._rng)

    def _most(self, client: int) -> int:
        """Return how many examples a batch may have: Poisson batches are of any size."""
        if self._settings.work != "dp-sgd":
            return self._settings.batch_size
        return min(self._examples[client], MOST_PRIVATE)

    def _backward(self, client: int, half: Part, message: Backward) -> Gradient:
        passed = self._waiting.get((client, message.step))
        if passed is None:
            raise RefusedError(f"step {message.step} has no activation that waits for a gradient")
        if message.gradient.shape != passed.y.shape:
            raise RefusedError(f"a gradient has shape {message.gradient.shape}, not {tuple(passed.y.shape)}")
        del self._waiting[client, message.step]
        noise = self._noise(client)
        if noise is not None:
            found = half.backward_private(passed, torch.from_numpy(message.gradient), noise)
            return Gradient(message.step, found.numpy(), None)
        gradient = half.backward(passed, torch.from_numpy(message.gradient))
        assert gradient is not None
        return Gradient(message.step, gradient.numpy(), None)

    def _checked(self, client: int, message: Forward) -> torch.Tensor:
        activation: Floats = message.activation
        if activation.ndim < 1 or activation.shape[1:] != self._shape or not len(activation):
            shape = ", ".join(map(str, self._shape))
            raise RefusedError(f"activations have shape (examples, {shape}), not {activation.shape}")
        if len(activation) > self._most(client):
            raise RefusedError(f"a batch has at most {self._most(client)} examples here")
        if (message.labels is not None) != self._labels:
            who = "belong to the server" if self._labels else "stay with the device"
            raise RefusedError(f"labels {who} here")
        if message.labels is not None:
            labels = message.labels
            least = -1 if self._settings.work == "dp-sgd" else 0  # an empty Poisson batch
            if labels.shape != activation.shape[:1] or labels.min() < least or labels.max() >= self._classes:
                raise RefusedError(f"labels are whole numbers below {self._classes}, one for each example")
        return torch.from_numpy(activation)


def choose_cut(
    split: Split, settings: LocalSettings, model: nn.Module, dataset: FederatedDataset, say: Callable[[str], None]
) -> Split:
    """Return the experiment's section with the cut that suits its device best, and say among which it was chosen.

    Args:
        split: the section; its `cut` is passed over.
        settings: of plain training.
        model: the network.
        dataset: the clients' data.
        say: called with each line for people.

    Raises:
        ModelError: the network cannot be cut, or nothing of it fits the device.
        UsageError: there is no such device profile.
    """
    device = profiles.load(split.device)
    ways = compare(model, dataset.shape, dataset.examples_a_client, settings, split, device)[1:]
    if not ways:
        raise ModelError("nothing is left for the server between the first layer and split.tail")
    chosen = best(ways)
    if chosen.fits is False:
        raise ModelError(f"no cut of this network fits the {device.memory_mb:g} MB of {device.name}")
    say(f"cuts for {device.name}:")
    for way in ways:
        seconds = "" if way.seconds is None else f", {way.seconds:.2f} s"
        moved = (way.bytes_up + way.bytes_down) / 1e6
        mark = ">" if way is chosen else " "
        say(f"{mark} {way.name}: {way.memory_mb:.2f} MB of memory, {moved:.3f} MB moved a round{seconds}")
    return split.model_copy(update={"cut": chosen.name})


def cut_names(split: Split, cuts: CutModel) -> list[str]:
    """Return the layers behind which an experiment's network is cut.

    Raises:
        ModelError: there are no such cuts, or nothing is learnt between them, or behind the last.
    """
    names = [split.cut]
    if split.labels == "device":
        names.append(split.tail or cuts.last.name)
        if names[0] == names[1]:
            raise ModelError(f"nothing is left for the server between split.cut and split.tail, both {names[0]!r}")
    parts = cuts.parts(names)
    learnt = [any(True for _ in part.parameters()) for part in parts]
    if not learnt[1]:
        before = f" and before {names[1]!r}" if len(names) > 1 else ""
        raise ModelError(f"nothing is left for the server to learn behind {names[0]!r}{before}: cut earlier")
    if not learnt[-1]:
        raise ModelError(f"nothing is learnt behind split.tail {names[-1]!r}: name an earlier layer")
    return names


def in_parts(split: Split, model: nn.Module, dataset: FederatedDataset) -> tuple[Plan, SplitServer]:
    """Return the device's and the server's side of the network cut as an experiment says.

    Args:
        split: the experiment's section.
        model: the network; its parts share its layers.
        dataset: the clients' data.

    Raises:
        ModelError: the network cannot be cut there.
    """
    cuts = CutModel(model, dataset.shape)
    names = cut_names(split, cuts)
    bottom, between, *rest = cuts.parts(names)
    crossing = [cuts.shape_behind(name) for name in names]
    server = SplitServer(
        between,
        crossing[0],
        len(dataset.classes),
        labels=split.labels == "server",
        shared=split.halves == "shared",
        window=split.window,
    )
    device = TorchDevice(bottom, rest[0] if rest else None)
    terms = Terms(split.window, crossing, split.activation_clip, split.no_peek)
    return Plan(names, device, terms, split.order, split.codec), server


def split_cohort(split: Split, model: nn.Module, dataset: FederatedDataset) -> SplitCohort:
    """Return the server's side for a cohort in this process; see `in_parts`."""
    return SplitCohort(*in_parts(split, model, dataset))
