"""Halves that exchange messages with the server within a round: turns, and what goes wrong."""

from collections import deque

import numpy as np
import pytest

from edgekit.algorithms.interactive import Own, alone, run, steps
from edgekit.asks import Ask, Client, Exchange, Train, Update
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings

WEIGHTS = {"w": np.zeros(2, np.float32)}


class Echo:
    """A server's side that adds up what it hears, and remembers in which order."""

    trainer, device_bytes = "echo", 0

    def __init__(self, turns="step"):
        self.turns, self.heard, self.total = turns, [], 0

    def task(self, client, number):
        return None

    def begin(self, asks, tasks):
        if self.turns == "never":
            raise TrainingError("the network cannot be cut")
        return {client: (Own(None, None, None), self.line(client)) for client in asks}

    def line(self, client):
        echo, answers = self, deque()

        class Line:
            def send(self, message):
                echo.heard.append((client, message))
                echo.total += message
                answers.append(echo.total)

            def receive(self):
                return answers.popleft()

        return Line()

    def end(self, ended, asks):
        return ended

    def take_traffic(self):
        return 0, 0


def two_steps(ask, client):
    found = []
    for step in (1, 2):
        yield Exchange(step)
        found.append((yield Exchange(answer=True)))
        yield Exchange(step=True)
    return Update({"weights": {"w": np.asarray(found, np.float32)}})


def _run(half, counterpart, clients=2):
    asks = dict.fromkeys(range(clients), Ask({"weights": WEIGHTS}))
    return run(half, counterpart, asks, {client: Client(1, frozenset()) for client in asks}, dict.fromkeys(asks))


@pytest.mark.parametrize(
    ("turns", "order", "first"),
    [
        ("step", [(0, 1), (1, 1), (0, 2), (1, 2)], [1, 4]),
        ("client", [(0, 1), (0, 2), (1, 1), (1, 2)], [1, 3]),
        ("together", [(0, 1), (1, 1), (0, 2), (1, 2)], [1, 4]),
    ],
)
def test_clients_take_turns(turns, order, first):
    counterpart = Echo(turns)
    found = _run(two_steps, counterpart)
    assert counterpart.heard == order
    assert found[0].bundles["weights"]["w"].tolist() == first


def test_one_half_runs_alone_and_stops_for_others():
    assert alone(two_steps(None, None), Echo().line(0)).bundles["weights"]["w"].tolist() == [1, 3]
    assert list(steps(two_steps(None, None), Echo().line(0))) == [False, True, False, True]


def test_what_fails_is_its_clients_own():
    def odd(ask, client):
        yield Train(WEIGHTS, LocalSettings())

    assert all("may yield Exchange alone" in str(one) for one in _run(odd, Echo()).values())

    def deaf(ask, client):
        yield Exchange(answer=True)

    assert all(isinstance(one, IndexError) for one in _run(deaf, Echo()).values())
    assert all("cannot be cut" in str(one) for one in _run(two_steps, Echo("never")).values())
    assert _run(two_steps, Echo(), clients=0) == {}
