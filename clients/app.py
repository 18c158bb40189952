"""Flower's side of a client: a message in, a reply out."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from edgekit.arrays import Weights
from edgekit.clients.trainer import CohortTrainer, LocalSettings, LocalTask, OneTrainer, Update
from edgekit.data import FederatedDataset
from edgekit.flower import CLIENT_RAISED, InProcessArray
from edgekit.randomness import generator


class SimulatedClients:
    """Clients of one federated dataset, for an in-process grid.

    Args:
        dataset: whose data.
        trainer: trains one client at a time.
        cohort: trains a whole cohort, if the model allows.
        seed: of the batches (and of the noise that clients add).
    """

    def __init__(self, dataset: FederatedDataset, trainer: OneTrainer, cohort: CohortTrainer | None, seed: int) -> None:
        self.dataset = dataset
        self.trainer = trainer
        self.cohort = cohort
        self.seed = seed
        self.app = ClientApp()
        self.app.train()(self._train_one)

    def train_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer the training messages of one round together; a client that cannot load its data answers an error."""
        assert self.cohort is not None
        replies: dict[int, Message] = {}
        ready: list[tuple[int, LocalTask]] = []
        weights, settings, server_round = read_instructions(messages[0])
        for place, context in enumerate(contexts):
            try:
                ready.append((place, self._task(context, settings, server_round)))
            except Exception as error:
                replies[place] = error_reply(error, messages[place])
        if ready:
            updates = self.cohort.train_cohort(weights, [task for _, task in ready], settings)
            for (place, _), update in zip(ready, updates, strict=True):
                replies[place] = reply(update, settings, messages[place])
        return [replies[place] for place in range(len(messages))]

    def _train_one(self, message: Message, context: Context) -> Message:
        weights, settings, server_round = read_instructions(message)
        return reply(
            self.trainer.train(weights, self._task(context, settings, server_round), settings), settings, message
        )

    def _task(self, context: Context, settings: LocalSettings, server_round: int) -> LocalTask:
        client = int(context.node_config["partition-id"])
        return LocalTask(
            self.dataset.client(client, drop_unfit=settings.work != "sgd"),
            generator(self.seed, "batches", server_round, client),
            # Noise of other settings is other noise: the same at two scales could be taken off by subtraction.
            generator(self.seed, "client noise", _as_text(settings), server_round, client),
        )


@lru_cache(maxsize=4)
def _as_text(settings: LocalSettings) -> str:
    """Return the settings as JSON: the same for all clients of a round, so made once."""
    return settings.to_json()


def read_instructions(message: Message) -> tuple[Weights, LocalSettings, int]:
    """Return a training message's weights, settings and round; FedProx's `proximal-mu` goes into the settings."""
    config = next(iter(message.content.config_records.values()))
    settings = LocalSettings.from_json(str(config["local-settings"]))
    settings = dataclasses.replace(settings, proximal_mu=float(config.get("proximal-mu", 0.0)))
    return read_arrays(message), settings, int(config["server-round"])


def read_arrays(message: Message) -> Weights:
    """Return the arrays that a message carries."""
    record = next(iter(message.content.array_records.values()))
    return {name: array.numpy() for name, array in record.items()}


def to_record(arrays: Weights) -> ArrayRecord:
    """Return arrays as a record of a message within this process."""
    record = ArrayRecord()  # filled one by one: its constructor would serialise each array
    for name, array in arrays.items():
        record[name] = InProcessArray(array)
    return record


def reply(update: Update, settings: LocalSettings, message: Message) -> Message:
    """Return an update as a reply."""
    private = settings.work != "sgd" or settings.update_clip > 0
    metrics = MetricRecord(told_of(update, private=private))
    return Message(RecordDict({"arrays": to_record(update.arrays), "metrics": metrics}), reply_to=message)


def told_of(update: Update, *, private: bool) -> dict[str, int | float]:
    """Return the figures that go with an update.

    Protected updates weigh alike, and say nothing of the client's size and loss.
    """
    told: dict[str, int | float] = {"num-examples": 1 if private else update.examples}
    if not private and update.loss is not None:
        told["train_loss"] = update.loss
    return told


def error_reply(error: Exception, message: Message) -> Message:
    """Return what a SuperNode answers when its client raised."""
    return Message(Error(CLIENT_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)
