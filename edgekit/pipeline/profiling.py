"""`edgekit devices profile`: how fast this machine trains a network, for simulated devices like it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
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

BATCHES, STEPS = (8, 16, 32, 64), (2, 16)
"""Sizes of batches, and numbers of them, that are measured."""
LEAST_SECONDS = 0.25
"""Of each measurement's repeats."""


def measured(
    model: nn.Module, examples: Examples, training: Training, threads: int, say: Callable[[str], None]
) -> DeviceProfile:
    """Measure this machine; return its profile.

    A training of `examples` in `steps` takes `round_ms + steps x step_ms + examples x operations / training_gflops`;
    these are fitted to what batches of several sizes and numbers took, by their relative errors.

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
        for steps in STEPS:
            took = _timed(model, examples, training, size, steps)
            rows.append((1.0, steps, steps * size * operations))
            seconds.append(took)
        say(f"batches of {size}: {1e3 * took / steps:.3f} ms a step")
    fixed, step, per_operation = _fitted(np.array(rows), np.array(seconds))
    fastest = doctor.examine(Path.cwd())[1].cpu.gflops * 1e9
    if per_operation * fastest < 1:  # a fit cannot tell: a network is no faster than the products that it is made of
        say("this network is too small for its arithmetic to show; its rate is taken as that of matrix products")
        per_operation = 1 / fastest
    found = doctor.examine(Path.cwd())[1]
    cpu = found.cpu.model_copy(
        update={
            "training_gflops": round(1e-9 / per_operation, 4),
            "step_ms": round(1e3 * step, 5),
            "round_ms": round(1e3 * fixed, 4),
        }
    )
    when = time.strftime("%Y-%m-%d")
    source = f"edgekit devices profile, {when}, {torch.get_num_threads()} threads of torch, {type(model).__name__}"
    return found.model_copy(update={"cpu": cpu, "source": source})


def _timed(model: nn.Module, examples: Examples, training: Training, size: int, steps: int) -> float:
    """Return the least seconds of a client's round of so many batches of a size: what else runs here is not its own."""
    trainer, weights = TorchTrainer(model), trained_weights(model)
    places = np.arange(steps * size) % len(examples)
    own = Examples(examples.x[places], examples.y[places])
    settings = replace(training.plain(), batch_size=size, epochs=1)

    def once() -> float:
        task = LocalTask(own, generator(0, "batches"), generator(0, "noise"))
        started = time.perf_counter()
        trainer.train(Train(weights, settings), task)
        return time.perf_counter() - started

    once()  # what is made at first is not a round's
    found, end = [once()], time.perf_counter() + LEAST_SECONDS
    while time.perf_counter() < end:
        found.append(once())
    return min(found)


def _fitted(rows: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return seconds a round, a step and an operation, none negative, with the least squares of relative errors."""
    found, _ = nnls(rows / rows.max(0) / seconds[:, None], np.ones(len(seconds)))
    fixed, step, operation = found / rows.max(0)
    if not operation:  # steps alone are seen: the network is too small for its arithmetic to show
        operation = 1e-3 * seconds.max() / rows[:, 2].max()
    return float(fixed), float(step), float(operation)
