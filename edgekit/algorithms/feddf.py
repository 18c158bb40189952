"""FedDF: the server teaches the mean model what the clients' models answer together (Lin et al. 2020, algorithm 1)."""

from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np

from edgekit.algorithms.base import Algorithm, State
from edgekit.asks import WEIGHTS, Aggregate, Predict, Request, Train, mean_of
from edgekit.local_settings import LocalSettings
from edgekit.section import Count, Positive, Section


class FedDFSettings(Section):
    """The method's own."""

    passes: Count = 10
    """Over the public examples in each round."""
    learning_rate: Positive = 0.001
    """Of Adam."""
    batch_size: Count = 32
    """Of public examples."""


class FedDF(Algorithm):
    """The model is the clients' mean, which then learns the mean of their scores on public examples.

    These are the server's own (`data.calibration_examples`), of which no label is used.
    """

    Settings: ClassVar[type[Section]] = FedDFSettings
    settings: FedDFSettings
    reads = "each"
    statistics = False  # single models are asked, whose statistics no method sees
    needs_public = True

    def merge(self, state: State, got: Aggregate, number: int) -> Generator[Request, Any, State]:
        """Average, ask all models, and teach."""
        assert got.updates is not None
        assert self.public is not None
        scores = []
        for update in got.updates.values():
            scores.append((yield Predict(update.bundles[WEIGHTS], self.public)))
        own = self.settings
        how = LocalSettings(
            epochs=own.passes, batch_size=own.batch_size, learning_rate=own.learning_rate, optimiser="adam"
        )
        together = np.asarray(np.mean(scores, 0, dtype=np.float64), np.float32)
        mean = mean_of(list(got.updates.values()))[0][WEIGHTS]
        student = yield Train(mean, how, taught=(self.public, together))
        metrics = {**got.facts, "distil_loss": float(student.loss or 0.0)}
        return State({**state.bundles, WEIGHTS: student.arrays}, {"metrics": metrics})
