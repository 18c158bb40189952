"""Trains one client with a training file (`edgekit export --training`): numpy and LiteRT, no torch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Array, Weights, problem_with
from edgekit.asks import Score, Scored, Train, Trained
from edgekit.clients.litert_runtime import check_examples, check_signatures, for_device, interpreter_of
from edgekit.clients.trainer import LocalTask, check_train, pulled
from edgekit.data import Examples
from edgekit.data.augment import Augmenter
from edgekit.data.federated import Floats, Integers
from edgekit.errors import ModelError, TrainingError
from edgekit.export.metadata import TRAINING, read_metadata
from edgekit.local_settings import BETAS, LocalSettings
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.privacy import gaussian

PROBED = 4
"""Examples that the private step is tried on."""


class LiteRTTrainer:
    """Trains a client by the signatures of a training file; the interpreter stays loaded between rounds.

    Args:
        file: the training file, or its content.
        objective: what it was made for.

    Raises:
        ModelError: this is not a training file, or one of another objective.
        MissingExtraError: neither ai-edge-litert nor tflite-runtime is installed.
    """

    def __init__(self, file: Path | bytes, objective: Objective = PLAIN) -> None:
        content = file if isinstance(file, bytes) else file.read_bytes()
        found = read_metadata(content)
        if found is None or found.get("kind") != TRAINING:
            raise ModelError("this .tflite has no training graph of edgekit's: make one with edgekit export --training")
        made_for = found.get("objective", {}).get("name", PLAIN.name)
        if made_for != objective.name:
            raise ModelError(f"the training file was made for the objective {made_for!r}, not {objective.name!r}")
        self.facts: dict[str, Any] = found
        self.objective = objective
        self._interpreter = interpreter_of(content)
        self._run = {name: self._interpreter.get_signature_runner(name) for name in self._signatures()}
        self._sizes = [int(np.prod(p["shape"])) for p in found["parameters"]]
        self.batch = int(found["batch"])
        self._frozen = {p["name"] for p in found["parameters"] if not p["trainable"]}
        self._fixed = {name: array for name, array in self.initial().items() if name in self._frozen}
        self._tried: set[str] = set()
        self._alone = False

    def initial(self) -> Weights:
        """Return the weights that the file carries."""
        return self._named(self._run["parameters"]()["w"])

    @property
    def learnt(self) -> frozenset[str]:
        """Names of the parameters that the file trains."""
        return frozenset(p["name"] for p in self.facts["parameters"] if p["trainable"])

    def fix(self, arrays: Weights) -> None:
        """Set frozen parameters, where they are not those of the file.

        Raises:
            ModelError: they are of another network.
        """
        if problem := problem_with({**self._fixed, **arrays}, self._fixed):
            raise ModelError(f"what stays fixed is not of the training file's network: {problem}")
        self._fixed = {**self._fixed, **arrays}

    def train(self, asked: Train, task: LocalTask) -> Trained:
        """Train one client.

        Args:
            asked: weights by name, and the round's instructions.
            task: the client's data and random numbers.

        Raises:
            ModelError: the weights are of another network.
            TrainingError: the file was not made for these settings.
            DataError: the examples do not fit it.
        """
        self.check(asked, task.examples)
        return self._trained(asked, task)

    def _trained(self, asked: Train, task: LocalTask) -> Trained:
        settings = asked.settings
        w = self._flat(asked.weights)
        plan, examples = task.plan(settings), task.examples
        augmenter = Augmenter(settings.augment, int(task.batches_rng.integers(2**63)) if settings.augment else 0)

        def batch(indices: Integers) -> Examples:
            return Examples(augmenter(examples.x[indices]), examples.y[indices])

        batches = map(batch, plan)
        loss = None
        if settings.work == "sgd":
            w, loss = self._sgd(w, batches, asked)
            loss /= len(plan)
        elif settings.work == "dp-sgd":
            w = self._dp_sgd(w, batches, task, asked)
        else:
            return Trained(self._learnt_of(self._sum(w, next(batches))), len(examples), None)
        return Trained(self._learnt_of(w), len(task.examples), loss, len(plan))

    def check(self, asked: Train, examples: Examples) -> None:
        """See that `train` can do this, before anything is spent for it; raises as `train` does.

        The first time a step is tried on real examples and thrown away. A private one is held against single examples':
        where their sum is another, each example is run alone from then on.
        """
        w = self._flat(asked.weights)
        self._check_asked(asked)
        check_examples(self.facts, examples, self.objective)
        if asked.settings.work in self._tried:
            return
        few = Examples(examples.x[:PROBED], examples.y[:PROBED])
        if asked.settings.work == "sgd":
            size = asked.settings.batch_size
            few = Examples(examples.x[:size], examples.y[:size])
            nothing = np.random.default_rng(0)
            quiet = replace(asked, settings=replace(asked.settings, epochs=1))
            self._trained(quiet, LocalTask(few, nothing, nothing))
        else:
            together = self._sum(w, few)
            singles = [Examples(few.x[i : i + 1], few.y[i : i + 1]) for i in range(len(few))]
            alone = sum((self._sum(w, one) for one in singles), np.zeros_like(w))
            scale = float(np.abs(alone).max(initial=0.0))
            self._alone = not np.allclose(together, alone, rtol=1e-3, atol=1e-4 * scale + 1e-6)
        self._tried.add(asked.settings.work)

    def score(self, asked: Score, examples: Examples) -> Scored:
        """Return how good weights are on examples."""
        loss, score = self.evaluate(asked.weights, examples)
        return Scored(loss, score, len(examples))

    def evaluate(self, weights: Weights, examples: Examples) -> tuple[float, float]:
        """Return the mean loss and the objective's measure on examples."""
        w = self._flat(weights)
        loss = correct = 0.0
        for start in range(0, len(examples), self.batch):
            indices = np.arange(start, min(start + self.batch, len(examples)))
            result = self._run["evaluate"](w=w, **self._filled(examples, indices))
            loss, correct = loss + float(result["loss"]), correct + float(result.get("correct", 0))
        if self.objective.of_classes:
            return loss / len(examples), correct / len(examples)
        figures = self.objective.figures(self.scores(weights, examples.x), examples.y, examples.x)
        return loss / len(examples), figures.score

    def scores(self, weights: Weights, x: Floats) -> Floats:
        """Return the network's scores for examples, (examples, outputs)."""
        w = self._flat(weights)
        parts = []
        for start in range(0, len(x), self.batch):
            indices = np.arange(start, min(start + self.batch, len(x)))
            (found,) = self._run["infer"](w=w, x=for_device(x[self._full(indices)])).values()
            parts.append(np.asarray(found)[: len(indices)])
        return np.concatenate(parts)

    def _sgd(self, w: Array, batches: Iterator[Examples], asked: Train) -> tuple[Array, float]:
        """Take the steps; return the weights and the sum of the losses."""
        settings, adaptive = asked.settings, asked.settings.optimiser != "sgd"
        rate, more = _single(settings.learning_rate), self._more(w, asked, 1.0)
        if adaptive:
            more = {name: value for name, value in more.items() if name not in ("velocity", "momentum")}
            more |= {"first": np.zeros_like(w), "second": np.zeros_like(w)}
        if self.facts.get("decay"):
            more["decay"] = _single(settings.weight_decay)
        total = 0.0
        for number, batch in enumerate(batches, 1):
            if adaptive:
                more["corrections"] = np.array([1 / (1 - beta**number) for beta in BETAS], np.float32)
            result = self._run["train"](w=w, lr=rate, **self._filled(batch, np.arange(len(batch))), **more)
            w = result["w"]
            more |= {name: result[name] for name in ("velocity", "first", "second") if name in more}
            total += float(result["loss"])
        return w, total

    def _dp_sgd(self, w: Array, batches: Iterator[Examples], task: LocalTask, asked: Train) -> Array:
        settings = asked.settings
        expected = settings.batch_of(len(task.examples))
        rate = _single(settings.learning_rate / expected)
        more = self._more(w, asked, expected)
        for batch in batches:
            noise = self._noise(settings.noise_multiplier * float(self.facts["clip"]), task.noise_rng)
            w, velocity = self._clipped(w, batch, rate, noise, more)
            if "velocity" in more:
                more["velocity"] = velocity
        return w

    def _sum(self, w: Array, batch: Examples) -> Array:
        """Return the sum of the clipped gradients of a Poisson batch: the step, at rate 1 and without noise."""
        step = {"noise": np.zeros_like(w), **self._more(w, Train({}, LocalSettings()), 1.0)}
        total = np.zeros_like(w)
        for part in self._parts(len(batch)):
            total += w - self._private_step(w, part, batch, _single(1.0), step)["w"]
        return total

    def _clipped(
        self, w: Array, batch: Examples, rate: Array, noise: Array, more: dict[str, Array]
    ) -> tuple[Array, Array]:
        """Take one private step over a Poisson batch of any size: in parts, of which the first has noise and terms."""
        quiet = self._more(w, Train({}, LocalSettings()), 1.0)
        step = {"noise": noise, **more}
        after, velocity = w, np.zeros_like(w)
        for part in self._parts(len(batch)):
            result = self._private_step(w, part, batch, rate, step)
            after = after + (result["w"] - w)
            velocity = velocity + result.get("velocity", 0.0)
            step = {"noise": np.zeros_like(w), **quiet}
        return after, velocity

    def _parts(self, examples: int) -> list[Integers]:
        """Cut a Poisson batch into parts that fit; an empty one is one empty part."""
        size, indices = 1 if self._alone else self.batch, np.arange(examples)
        return [indices[start : start + size] for start in range(0, max(1, len(indices)), size)]

    def _private_step(
        self, w: Array, indices: Integers, examples: Examples, rate: Array, step: dict[str, Array]
    ) -> dict[str, Array]:
        """Call `train_dp`; an example whose gradient is not finite counts as zero, as in `torch_trainer.clipped`.

        It would make the whole sum not finite, which no clipping bounds and which tells of it. So it is looked for,
        one by one, and left out.
        """

        def stepped(chosen: Integers) -> dict[str, Array]:
            result: dict[str, Array] = self._run["train_dp"](w=w, lr=rate, **self._filled(examples, chosen), **step)
            return result

        def finite(result: dict[str, Array]) -> bool:
            return bool(np.isfinite(result["w"]).all())

        if len(indices):
            result = stepped(indices)
            if finite(result):
                return result
            indices = np.array([i for i in indices if finite(stepped(np.array([i])))], np.int64)
        return stepped(indices) if len(indices) else _nobodys_step(w, rate, step)

    def _more(self, w: Array, asked: Train, scale: float) -> dict[str, Array]:
        """Return the inputs of momentum and of the pull, as far as the file has them; `scale` is of the gradients."""
        more: dict[str, Array] = {}
        if self.facts["momentum"]:
            more |= {"momentum": _single(asked.settings.momentum), "velocity": np.zeros_like(w)}
        anchor, drift = pulled(asked)
        if self.facts["proximal"]:
            mu = asked.settings.proximal_mu
            more |= {"mu": _single(mu * scale), "anchor": self._flat(anchor) if mu else w.copy()}
        if self.facts.get("drift"):
            pieces = [
                drift[p["name"]].ravel() if p["name"] in drift else np.zeros(size, np.float32)
                for p, size in zip(self.facts["parameters"], self._sizes, strict=True)
            ]
            more["drift"] = (scale * np.concatenate(pieces)).astype(np.float32)
        return more

    def _noise(self, deviation: float, rng: np.random.Generator) -> Floats:
        parts = [
            gaussian.draw((size,), deviation, rng, np.float32) if p["trainable"] else np.zeros(size, np.float32)
            for p, size in zip(self.facts["parameters"], self._sizes, strict=True)
        ]
        return np.concatenate(parts)

    def _filled(self, examples: Examples, indices: Integers) -> dict[str, Array]:
        """Return a batch in the file's layout, filled up with an example that the mask leaves out.

        Real ones, since a network need not be defined at zero.
        """
        filled = self._full(indices)
        y = self.objective.encoded(examples.y[filled], self.objective.width(int(self.facts["classes"])))
        mask = np.zeros(self.batch, np.float32)
        mask[: len(indices)] = 1.0
        return {"x": for_device(examples.x[filled]), "y": y, "mask": mask}

    def _full(self, indices: Integers) -> Integers:
        """Return indices for a whole batch, filled up with the first."""
        fill = indices[:1] if len(indices) else np.zeros(1, np.int64)
        return np.concatenate([indices, np.repeat(fill, self.batch - len(indices))])

    def _check_asked(self, asked: Train) -> None:
        facts, settings = self.facts, asked.settings
        check_train(asked, self.learnt)
        problem = None
        if settings.work == "sgd" and settings.batch_size > self.batch:
            problem = f"takes batches of at most {self.batch}, the round wants {settings.batch_size}"
        elif name := settings.needs_torch:
            raise TrainingError(f"a training file knows no {name}: the round needs torch")
        elif settings.work == "sgd" and settings.optimiser != facts.get("optimiser", "sgd"):
            problem = f"takes steps of {facts.get('optimiser', 'sgd')}, the round wants {settings.optimiser}"
        elif settings.weight_decay and not facts.get("decay"):
            problem = "was made without a weight decay"
        elif settings.work != "sgd" and not facts["private"]:
            problem = "was made without a private step"
        elif settings.work != "sgd" and not np.isclose(settings.clip, facts["clip"], rtol=1e-6, atol=0):
            problem = f"clips at {facts['clip']:g}, the round wants {settings.clip:g}"
        elif settings.momentum and not facts["momentum"]:
            problem = "was made without momentum"
        elif settings.proximal_mu and not facts["proximal"]:
            problem = "was made without FedProx's term"
        elif asked.drift and not facts.get("drift"):
            problem = "was made without a drift"
        if problem:
            raise TrainingError(f"the training file {problem}: export it anew with the experiment's settings")

    def _signatures(self) -> list[str]:
        wanted = ["train", "infer", "evaluate", "parameters", *(["train_dp"] if self.facts["private"] else [])]
        check_signatures(self._interpreter, wanted)
        return wanted

    def _flat(self, weights: Weights) -> Floats:
        expected = {p["name"]: np.empty(p["shape"], np.float32) for p in self.facts["parameters"]}
        whole = {**self._fixed, **weights}
        if problem := problem_with(whole, expected):
            raise ModelError(f"these weights are not of the training file's network: {problem}")
        return np.concatenate([whole[name].ravel() for name in expected])

    def _learnt_of(self, w: Array) -> Weights:
        return {name: array for name, array in self._named(w).items() if name not in self._frozen}

    def _named(self, w: Array) -> Weights:
        pieces = np.split(w, np.cumsum(self._sizes)[:-1])
        return {
            p["name"]: np.array(piece.reshape(p["shape"]), np.float32, order="C")
            for p, piece in zip(self.facts["parameters"], pieces, strict=True)
        }


def _single(value: float) -> Floats:
    """Return a number as an input of the training file: (1,)."""
    return np.array([value], np.float32)


def _nobodys_step(w: Array, rate: Array, step: dict[str, Array]) -> dict[str, Array]:
    """Return what `train_dp` gives for an empty Poisson batch."""
    direction = step["noise"]
    if "anchor" in step:
        direction = direction + step["mu"] * (w - step["anchor"])
    if "drift" in step:
        direction = direction + step["drift"]
    if "velocity" in step:
        direction = step["momentum"] * step["velocity"] + direction
    return {"w": w - rate * direction, "velocity": direction}
