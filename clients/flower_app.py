"""A method's clients as a stock Flower `ClientApp`, for `edgekit.algorithms.as_strategy.strategy_of`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import nn

from edgekit import wire
from edgekit.algorithms.base import Algorithm, answer_like, made
from edgekit.arrays import Weights
from edgekit.asks import Train
from edgekit.clients.halves import Answered, check_kept, client_of, leaving, run_halves
from edgekit.clients.torch_trainer import TorchTrainer
from edgekit.clients.trainer import LocalTask, told
from edgekit.data import Examples
from edgekit.errors import RefusedError
from edgekit.flower import to_record
from edgekit.randomness import generator

KEPT = "edgekit."
"""Begins the names of what a client keeps, in its context's state."""


def client_app_of(
    method: str | Algorithm,
    network: Callable[[], nn.Module],
    examples: Callable[[Context], Examples],
    *,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ClientApp:
    """Return a Flower app of clients that train in torch; what a method keeps between rounds lies in the context.

    Args:
        method: as of `strategy_of`.
        network: builds the network.
        examples: gives a client's own.
        arguments: the method's own.
        seed: of the batches.

    Raises:
        ExperimentError: there is no such method.
    """
    algorithm = made(method, arguments or {}, released=False) if isinstance(method, str) else method
    app = ClientApp()

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        ask, own = wire.ask_of(wire.read(message)), examples(context)
        if ask.settings.protects:
            raise RefusedError("a Flower app counts no privacy: join a coordinator of edgekit's")
        trainer, made_so_far = TorchTrainer(network()), 0
        client = client_of(ask, len(own), trainer.learnt, _state(context))

        def answer(waiting: Mapping[int, Any]) -> dict[int, Answered]:
            nonlocal made_so_far
            (request,) = waiting.values()
            if not isinstance(request, Train):
                found: Answered = told(request, trainer, own)
            else:
                more = (made_so_far,) if made_so_far else ()
                draw = generator(seed, "batches", ask.round, _partition(context), *more)
                found = trainer.train(request, LocalTask(own, draw, draw))
            made_so_far += 1
            return {0: found}

        ended = run_halves({0: algorithm.local(ask, client)}, {0: ask}, answer)[0]
        if isinstance(ended, Exception):
            raise ended
        update = leaving(ended, ask, client, algorithm, (), np.random.default_rng, np.random.default_rng)
        check_kept(update, client.state, answer_like(algorithm, ask))
        for group, held in client.state.items():
            context.state[KEPT + group] = to_record(held)
        facts, content = wire.telling(update)
        return wire.answer(facts, message, content)

    return app


def _partition(context: Context) -> int:
    """Return a client's number, where it has one, as in simulations."""
    return int(context.node_config.get("partition-id", context.node_id))


def _state(context: Context) -> dict[str, Weights]:
    found: dict[str, Weights] = {}
    for name, record in context.state.items():
        if name.startswith(KEPT) and isinstance(record, ArrayRecord):
            found[name.removeprefix(KEPT)] = {key: array.numpy().copy() for key, array in record.items()}
    return found
