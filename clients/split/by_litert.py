"""A device's parts in LiteRT, by the training graph of a network that is cut: numpy, no torch."""

from typing import Any

import numpy as np

from edgekit.arrays import Weights, problem_with
from edgekit.clients.litert import check_examples, check_signatures, for_device, interpreter_of
from edgekit.clients.trainer import LocalSettings, LocalTask
from edgekit.data import Examples
from edgekit.data.federated import Floats, Integers
from edgekit.errors import ModelError, TrainingError
from edgekit.export.metadata import read_metadata


class LiteRTDevice:
    """A device without torch; the interpreter stays loaded between rounds.

    Args:
        content: of the training file (`export/training/split_file.py`).

    Raises:
        ModelError: this is not such a file.
        MissingExtraError: neither ai-edge-litert nor tflite-runtime is installed.
    """

    def __init__(self, content: bytes) -> None:
        found = read_metadata(content)
        if found is None or found.get("kind") != "split training":
            raise ModelError("this .tflite is no training graph of a network that is cut")
        self.facts: dict[str, Any] = found
        self._interpreter = interpreter_of(content)
        wanted = ["forward", "backward", "finish"][: 1 + len(found["parts"])]
        check_signatures(self._interpreter, wanted)
        self._run = {name: self._interpreter.get_signature_runner(name) for name in wanted}

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that a round can be trained; see `HalvesMaker`."""
        if settings.work != "sgd":
            raise TrainingError(f"split learning does not do the work {settings.work!r} without torch")
        if settings.batch_size > self.facts["batch"]:
            raise TrainingError(
                f"the training file takes batches of at most {self.facts['batch']}, the round wants "
                f"{settings.batch_size}: export it anew with the experiment's settings"
            )
        expected = {p["name"]: np.empty(p["shape"], np.float32) for part in self.facts["parts"] for p in part}
        if problem := problem_with({name: weights[name] for name in expected if name in weights}, expected):
            raise ModelError(f"these weights are not of the training file's network: {problem}")
        check_examples(self.facts, examples)

    def halves(self, weights: Weights, settings: LocalSettings, task: LocalTask) -> "LiteRTHalves":
        """Return the parts at these weights."""
        return LiteRTHalves(self._run, self.facts, weights, settings)


class LiteRTHalves:
    """The parts in one round; see `Halves`."""

    def __init__(self, run: dict[str, Any], facts: dict[str, Any], weights: Weights, settings: LocalSettings) -> None:
        self._run, self._batch, self._classes = run, int(facts["batch"]), int(facts["classes"])
        self._bottom, *rest = (_Vector(part, weights, settings) for part in facts["parts"])
        self._tail = rest[0] if rest else None
        self.has_tail = self._tail is not None

    def forward(self, x: Floats) -> tuple[tuple[Floats, Floats], Floats]:
        """Return a batch's activation."""
        filled = self._filled(for_device(x))
        found = self._run["forward"](x=filled, w=self._bottom.w)["activation"]
        return (filled, self._bottom.w), found[: len(x)].copy()

    def backward(self, passed: tuple[Floats, Floats], gradient: Floats) -> None:
        """Make a step of the first part."""
        x, w = passed
        g = np.zeros((self._batch, *gradient.shape[1:]), np.float32)  # what only fills the batch up learns nothing
        g[: len(gradient)] = gradient
        self._bottom.step(self._run["backward"](x=x, g=g, w=w)["gradient"])

    def finish(self, activation: Floats, labels: Integers) -> tuple[Floats, float]:
        """Make a step of the last part."""
        assert self._tail is not None
        y = np.zeros((self._batch, self._classes), np.float32)
        mask = np.zeros(self._batch, np.float32)
        y[np.arange(len(labels)), labels] = 1.0
        mask[: len(labels)] = 1.0
        found = self._run["finish"](activation=self._filled(activation), y=y, mask=mask, w=self._tail.w)
        self._tail.step(found["gradient"])
        return found["by_activation"][: len(labels)].copy(), float(found["loss"])

    def weights(self) -> Weights:
        """Return the parts' weights."""
        return self._bottom.named() | (self._tail.named() if self._tail is not None else {})

    def _filled(self, x: Floats) -> Floats:
        """Fill a batch up with its first example."""
        return np.concatenate([x, np.repeat(x[:1], self._batch - len(x), 0)])


class _Vector:
    """A part's weights as one vector, and its SGD as of `torch.optim.SGD` with FedProx's term."""

    def __init__(self, shapes: list[dict[str, Any]], weights: Weights, settings: LocalSettings) -> None:
        self._shapes, self._settings = shapes, settings
        self.w: Floats = np.concatenate([weights[p["name"]].ravel() for p in shapes])
        self._start, self._velocity = self.w, np.zeros_like(self.w)

    def step(self, gradient: Floats) -> None:
        """Make a step; the vector before it stays as it is, for batches that are under way."""
        s = self._settings
        if s.proximal_mu:
            gradient = gradient + np.float32(s.proximal_mu) * (self.w - self._start)
        if s.momentum:
            gradient = self._velocity = np.float32(s.momentum) * self._velocity + gradient
        self.w = self.w - np.float32(s.learning_rate) * gradient

    def named(self) -> Weights:
        """Return the weights by name."""
        sizes = [int(np.prod(p["shape"])) for p in self._shapes]
        pieces = np.split(self.w, np.cumsum(sizes)[:-1])
        return {p["name"]: piece.reshape(p["shape"]).copy() for p, piece in zip(self._shapes, pieces, strict=True)}
