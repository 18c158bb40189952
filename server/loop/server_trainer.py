"""The server's own trainer: it answers what a method's merge asks for, as clients' trainers answer their halves."""

from collections.abc import Generator
from typing import Any

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.asks import Predict, Score, Train
from edgekit.clients.halves import MOST_REQUESTS
from edgekit.clients.others import Others
from edgekit.clients.torch_trainer import TorchTrainer
from edgekit.clients.trainer import LocalTask, told
from edgekit.data import FederatedDataset
from edgekit.errors import TrainingError
from edgekit.randomness import generator


class ServerTrainer:
    """Trains and measures on the examples that the server has itself, for calibration, which no client owns.

    Args:
        model: the run's network.
        algorithm: the method, which may have further ones.
        dataset: whose calibration examples.
        seed: of the batches.
    """

    def __init__(self, model: nn.Module, algorithm: Algorithm, dataset: FederatedDataset, seed: int) -> None:
        self._own, self._examples, self._seed = TorchTrainer(model), dataset.calibration, seed
        shape, classes = dataset.shape, len(dataset.classes)
        examples, objective = dataset.calibration.x, dataset.objective
        self._others = Others(
            algorithm, lambda name, network: TorchTrainer(network), shape, classes, seed, examples, objective
        )

    def driven(self, merge: Generator[Any, Any, Any], number: int) -> Any:
        """Run a method's merge to its end; return what it gives.

        Raises:
            TrainingError: it asks for something unknown, or never ends.
        """
        given: Any = None
        for made in range(MOST_REQUESTS):
            try:
                request = merge.send(given)
            except StopIteration as end:
                return end.value
            given = self._answer(request, number, made)
        merge.close()
        raise TrainingError(f"its merge made {MOST_REQUESTS} requests without an end")

    def _answer(self, request: object, number: int, made: int) -> Any:
        if not isinstance(request, Train | Score | Predict):
            raise TrainingError(f"its merge asks for {request!r:.80}: it may yield Train, Score or Predict")
        trainer = self._others[request.module] if request.module else self._own
        if not isinstance(request, Train):
            return told(request, trainer, self._examples)
        draw = generator(self._seed, "server batches", number, made)
        trainer.check(request, self._examples)
        return trainer.train(request, LocalTask(self._examples, draw, draw))
