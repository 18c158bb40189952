"""A device's parts in LiteRT, by the training graph of a network that is cut: numpy, no torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.algorithms.split.codec import LARGEST
from edgekit.algorithms.split.hiding import Noise
from edgekit.algorithms.split.noise import check_work, noise_of_device
from edgekit.arrays import Array, Weights, problem_with
from edgekit.clients.litert_runtime import check_examples, check_signatures, for_device, interpreter_of
from edgekit.clients.trainer import LocalTask
from edgekit.data import Examples
from edgekit.data.federated import Floats, Integers
from edgekit.errors import ModelError, TrainingError
from edgekit.export.metadata import SPLIT_TRAINING, read_metadata
from edgekit.local_settings import LocalSettings
from edgekit.privacy import gaussian


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
        if found is None or found.get("kind") != SPLIT_TRAINING:
            raise ModelError("this .tflite is no training graph of a network that is cut")
        self.facts: dict[str, Any] = found
        self._interpreter = interpreter_of(content)
        ending = "_private" if found["private"] else ""
        wanted = ["forward", f"backward{ending}", f"finish{ending}"][: 1 + len(found["parts"])]
        check_signatures(self._interpreter, wanted)
        self._run = {name: self._interpreter.get_signature_runner(name) for name in wanted}

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that a round can be trained; see `HalvesMaker`."""
        check_work(settings, len(self.facts["parts"]) > 1)
        if (settings.work != "sgd") != self.facts["private"]:
            made = "private" if self.facts["private"] else "plain"
            raise TrainingError(f"the training file has {made} steps: export it anew with the experiment's settings")
        if settings.work != "dp-sgd" and settings.batch_size > self.facts["batch"]:
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
        return LiteRTHalves(self._run, self.facts, weights, task, settings)


class LiteRTHalves:
    """The parts in one round; see `Halves`. Poisson batches may be larger than the file's: they are taken in pieces."""

    def __init__(
        self, run: dict[str, Any], facts: dict[str, Any], weights: Weights, task: LocalTask, settings: LocalSettings
    ) -> None:
        self._run, self._batch, self._classes = run, int(facts["batch"]), int(facts["classes"])
        self._bottom, *rest = (_Vector(part, weights, settings) for part in facts["parts"])
        self._tail = rest[0] if rest else None
        self.has_tail = self._tail is not None
        self._noise = noise_of_device(settings, len(facts["parts"]), task)

    def forward(self, x: Floats) -> tuple[tuple[Floats, Floats], Floats]:
        """Return a batch's activation."""
        x, w = for_device(x), self._bottom.w
        found = [
            self._run["forward"](x=self._filled(x[piece]), w=w)["activation"][: len(x[piece])].copy()
            for piece in self._pieces(len(x))
        ]
        return (x, w), np.concatenate(found)

    def backward(self, passed: tuple[Floats, Floats], gradient: Floats) -> None:
        """Make a step of the first part."""
        x, w = passed
        if self._noise is None:
            found = self._run["backward"](x=self._filled(x), g=self._padded(gradient), w=w)
            self._bottom.step(found["gradient"])
            return
        own = np.float32(len(gradient)) * gradient  # the mean's gradient; each example's own is so many times its row
        clip = np.array([self._noise.clip], np.float32)

        def total(chosen: Integers) -> dict[str, Floats]:
            found: dict[str, Floats] = self._run["backward_private"](
                x=self._filled(x[chosen]), g=self._padded(own[chosen]), clip=clip, w=w
            )
            return found

        self._bottom.private_step(self._sum(total, len(x)), len(x), self._noise)

    def finish(self, activation: Floats, labels: Integers) -> tuple[Floats, float]:
        """Make a step of the last part."""
        assert self._tail is not None
        w = self._tail.w
        if self._noise is None:
            inputs = self._labelled(activation, labels)
            found = self._run["finish"](**inputs, w=w)
            self._tail.step(found["gradient"])
            return found["by_activation"][: len(labels)].copy(), float(found["loss"])
        clip = np.array([self._noise.clip], np.float32)
        by_activation = np.zeros_like(activation)

        def total(chosen: Integers) -> dict[str, Floats]:
            inputs = self._labelled(activation[chosen], labels[chosen])
            found: dict[str, Floats] = self._run["finish_private"](**inputs, clip=clip, w=w)
            by_activation[chosen] = found["by_activation"][: len(chosen)]
            return found

        summed = self._sum(total, len(labels))
        self._tail.private_step(summed, len(labels), self._noise)
        fits = np.abs(by_activation.reshape(len(labels), -1)).max(1) <= LARGEST
        kept: Floats = np.where(_columns(fits, by_activation), by_activation, 0).astype(np.float32, copy=False)
        kept /= np.float32(len(labels))
        return kept, 0.0

    def weights(self) -> Weights:
        """Return the parts' weights."""
        return self._bottom.named() | (self._tail.named() if self._tail is not None else {})

    def _sum(self, total: Callable[[Integers], dict[str, Floats]], examples: int) -> Floats:
        """Return the sum of the clipped gradients; an example whose gradient is not finite counts as zero."""
        sums = []
        for piece in self._pieces(examples):
            chosen = np.arange(examples)[piece]
            found = total(chosen)["total"]
            if not np.isfinite(found).all():
                alone = [total(np.array([one]))["total"] for one in chosen]
                found = np.sum([one for one in alone if np.isfinite(one).all()] or [np.zeros_like(found)], 0)
            sums.append(found)
        whole: Floats = np.sum(sums, 0, dtype=np.float32)
        return whole

    def _pieces(self, examples: int) -> list[slice]:
        return [slice(start, start + self._batch) for start in range(0, examples, self._batch)]

    def _labelled(self, activation: Floats, labels: Integers) -> dict[str, Floats]:
        y = np.zeros((self._batch, self._classes), np.float32)
        mask = np.zeros(self._batch, np.float32)
        real = labels >= 0
        y[np.flatnonzero(real), labels[real]] = 1.0
        mask[: len(labels)] = real
        return {"activation": self._filled(activation), "y": y, "mask": mask}

    def _filled(self, x: Floats) -> Floats:
        """Fill a batch up with its first example."""
        return np.concatenate([x, np.repeat(x[:1], self._batch - len(x), 0)])

    def _padded(self, gradient: Floats) -> Floats:
        """Fill a gradient up with zeros: what only fills a batch up learns nothing."""
        g = np.zeros((self._batch, *gradient.shape[1:]), np.float32)
        g[: len(gradient)] = gradient
        return g


def _columns(values: Array, like: Array) -> Array:
    return values.reshape(-1, *([1] * (like.ndim - 1)))


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

    def private_step(self, total: Floats, examples: int, noise: Noise) -> None:
        """Make a private step by a sum of clipped gradients."""
        free = np.concatenate([np.full(int(np.prod(p["shape"])), p["trainable"], np.float32) for p in self._shapes])
        drawn = gaussian.draw(total.shape, noise.deviation, noise.rng, np.float32)
        self.step((total + free * drawn) / np.float32(noise.divisor or examples))

    def named(self) -> Weights:
        """Return the weights by name."""
        sizes = [int(np.prod(p["shape"])) for p in self._shapes]
        pieces = np.split(self.w, np.cumsum(sizes)[:-1])
        return {p["name"]: piece.reshape(p["shape"]).copy() for p, piece in zip(self._shapes, pieces, strict=True)}
