"""`edgekit devices profile`: how fast this machine trains a network, for simulated devices like it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.asks import Train
from edgekit.clients.settings import Training
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.data import Examples
from edgekit.data.batches import LocalTask
from edgekit.devices import doctor
from edgekit.devices.population.kinds import PASSES
from edgekit.devices.profile import DeviceProfile
from edgekit.models.cost import macs
from edgekit.randomness import generator

BATCHES = 8, 16, 32, 64
"""Sizes that are measured."""
LEAST_SECONDS = 0.4
"""Of each measurement's repeats."""


def measured(
    model: nn.Module, examples: Examples, training: Training, threads: int, say: Callable[[str], None]
) -> DeviceProfile:
    """Measure this machine; return its profile.

    A training of `examples` in `steps` takes `steps x step_ms + examples x operations / training_gflops`; both are
    fitted to what batches of several sizes took, by their relative errors.

    Args:
        model: the network.
        examples: to train on, at least one.
        training: how clients train.
        threads: of torch; 0 as many as it takes.
        say: called with a line for people.
    """
    if threads:
        torch.set_num_threads(threads)
    operations = PASSES * macs(model, examples.x.shape[1:])
    rows, seconds = [], []
    for size in BATCHES:
        took, steps, taken = _timed(model, examples, training, size)
        rows.append((steps, taken * operations))
        seconds.append(took)
        say(f"batches of {size}: {1e3 * took / steps:.3f} ms a step")
    step, per_operation = _fitted(np.array(rows), np.array(seconds))
    found = doctor.examine(Path.cwd())[1]
    cpu = found.cpu.model_copy(
        update={"training_gflops": round(1e-9 / per_operation, 4), "step_ms": round(1e3 * step, 5)}
    )
    when = time.strftime("%Y-%m-%d")
    source = f"edgekit devices profile, {when}, {torch.get_num_threads()} threads of torch, {type(model).__name__}"
    return found.model_copy(update={"cpu": cpu, "source": source})


def _timed(model: nn.Module, examples: Examples, training: Training, size: int) -> tuple[float, int, int]:
    """Return the best seconds of a client's round in batches of a size, its steps and its examples."""
    trainer, weights = TorchTrainer(model), trained_weights(model)
    count = max(2, 256 // size) * size
    places = np.arange(count) % len(examples)
    own = Examples(examples.x[places], examples.y[places])
    settings = replace(training.plain(), batch_size=size, epochs=1)

    def once() -> float:
        task = LocalTask(own, generator(0, "batches"), generator(0, "noise"))
        started = time.perf_counter()
        trainer.train(Train(weights, settings), task)
        return time.perf_counter() - started

    once()  # what is made at first is not a round's
    best, end = np.inf, time.perf_counter() + LEAST_SECONDS
    while time.perf_counter() < end:
        best = min(best, once())
    return float(best), count // size, count


def _fitted(rows: NDArray[np.int64], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Return seconds a step and an operation, not negative, with the least squares of relative errors."""
    scaled = rows / seconds[:, None]
    (step, operation), *_ = np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)
    if step < 0:
        step, operation = 0.0, float((scaled[:, 1] @ np.ones(len(seconds))) / (scaled[:, 1] @ scaled[:, 1]))
    if operation <= 0:  # steps alone are seen: the network is too small for its arithmetic to show
        step = float((scaled[:, 0] @ np.ones(len(seconds))) / (scaled[:, 0] @ scaled[:, 0]))
        operation = 1e-3 * step * rows[:, 0].max() / rows[:, 1].max()
    return float(step), float(operation)
