"""Methods whose clients exchange messages with the server within a round, as split learning does."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from edgekit.algorithms.base import PROXIMAL, Algorithm
from edgekit.algorithms.split.settings import Split
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Aggregate, Ask, Client, Exchange, Request, Scored, State, Trained, Update
from edgekit.data.batches import LocalTask
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings

Turns = Literal["step", "client", "together"]
"""How clients in one process take turns: a step each; one after the other all of its steps; or all send what they have,
then all go on with the answers."""


class Line(Protocol):
    """A client's connection to the server; several messages may be under way, answers come in their order."""

    def send(self, message: Any) -> None:
        """Send a message."""

    def receive(self) -> Any:
        """Return the next answer."""


@dataclass(frozen=True)
class Own:
    """What a client's half of an interactive method works with.

    Attributes:
        parts: computes the client's parts of the network.
        task: its examples and random numbers.
        terms: what holds for all clients.
    """

    parts: Any
    task: LocalTask
    terms: Any


class Counterpart(Protocol):
    """The server's side of all clients' rounds, in the same process.

    Attributes:
        trainer: how clients train, for people.
        turns: how clients take turns.
        device_bytes: size of what a client is sent of the weights, and sends back.
    """

    trainer: str
    turns: Turns
    device_bytes: int

    def task(self, client: int, number: int) -> LocalTask | None:
        """Return what a client trains on; None if it is the dataset's."""

    def begin(self, asks: Mapping[int, Ask], tasks: Mapping[int, LocalTask]) -> Mapping[int, tuple[Own, Line]]:
        """Begin a round; return what each client works with, and its line.

        Raises:
            EdgekitError: it cannot be trained so.
        """

    def end(self, ended: Mapping[int, Any], asks: Mapping[int, Ask]) -> Mapping[int, Update | Exception]:
        """Return the whole networks' updates, given what each client's half ended with."""

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of the lines, up and down, since the last time."""


class Interactive(Algorithm):
    """A method whose clients exchange messages with the server within a round; what is made of their updates is
    another method's.

    Args:
        inner: the other method, whose clients train plainly.
        split: the experiment's section.
    """

    interactive = True

    def __init__(self, inner: Algorithm, split: Split) -> None:
        super().__init__()
        self.inner, self.split = inner, split
        self.reads, self.proximal, self.losses = inner.reads, inner.proximal, inner.losses
        self.bundles = inner.bundles

    @classmethod
    def around(cls, inner: Algorithm, split: Split) -> Algorithm:
        """Return the method around another."""
        return cls(inner, split)

    @property
    def unkept(self) -> Sequence[str]:  # type: ignore[override]  # which it may learn late
        """The other method's."""
        return self.inner.unkept

    @property
    def plain(self) -> bool:
        """Never."""
        return False

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Return the other method's state."""
        return self.inner.begin(weights, learnt)

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Ask as the other method does."""
        return self.inner.ask(state, clients, number)

    def tell_scores(self, scores: Mapping[int, Scored], number: int) -> Mapping[str, Any]:
        """Tell as the other method does."""
        return self.inner.tell_scores(scores, number)

    def merge(self, state: State, got: Aggregate, number: int) -> State | Generator[Request, Any, State]:
        """Let the other method make the next state."""
        return self.inner.merge(state, got, number)

    def model(self, state: State) -> Weights:
        """Return the other method's model."""
        return self.inner.model(state)

    def counterpart(
        self, model: Any, dataset: Any, settings: LocalSettings, seed: int, say: Callable[[str], None]
    ) -> Counterpart:
        """Return the server's side for clients in the same process.

        Args:
            model: the network.
            dataset: the clients' data.
            settings: of plain training.
            seed: of what need not be secret.
            say: called with lines for people.

        Raises:
            EdgekitError: it cannot be trained so.
        """
        raise NotImplementedError


def run(
    local: Callable[[Ask, Client], Generator[Any, Any, Any]],
    counterpart: Counterpart,
    asks: Mapping[int, Ask],
    clients: Mapping[int, Client],
    tasks: Mapping[int, LocalTask],
) -> Mapping[int, Any]:
    """Run a round of clients in one process; return each one's update, an exception where it failed.

    Args:
        local: the method's half.
        counterpart: the server's side.
        asks: what each was asked.
        clients: the same.
        tasks: what each trains on.
    """
    try:
        begun = counterpart.begin(asks, tasks) if asks else {}
    except Exception as error:  # of the network, or of what is asked
        return dict.fromkeys(asks, error)
    for client, (own, _) in begun.items():
        clients[client].own = own
    halves = {client: local(asks[client], clients[client]) for client in begun}
    lines = {client: line for client, (_, line) in begun.items()}
    return counterpart.end(_in_turns(halves, lines, counterpart.turns), asks)


def trained_alike(
    local: Callable[[Ask, Client], Generator[Any, Any, Any]],
    counterpart: Counterpart,
    weights: Weights,
    settings: LocalSettings,
    tasks: Sequence[LocalTask],
) -> list[Trained]:
    """Run a round of clients that are all asked the same, for trying out; raise what one failed with."""
    ask = Ask({WEIGHTS: weights}, {PROXIMAL: settings.proximal_mu}, settings)
    clients = {client: Client(len(task.examples), frozenset()) for client, task in enumerate(tasks)}
    ended = run(local, counterpart, dict.fromkeys(clients, ask), clients, dict(enumerate(tasks)))
    found = []
    for one in ended.values():
        if isinstance(one, Exception):
            raise one
        found.append(Trained(one.bundles[WEIGHTS], int(one.weight), one.facts.get("train_loss")))
    return found


def alone(half: Generator[Any, Any, Any], line: Line) -> Any:
    """Run one client's half over its line; return what it gives.

    Raises:
        TrainingError: it asks for something else than to exchange messages.
    """
    running = steps(half, line)
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value


def steps(half: Generator[Any, Any, Any], line: Line) -> Generator[bool, None, Any]:
    """Run a half over a line, and stop for a moment when a message was sent (False), and after each step (True).

    Raises:
        TrainingError: it asks for something else than to exchange messages.
    """
    given = None
    while True:
        try:
            request = half.send(given)
        except StopIteration as end:
            return end.value
        if not isinstance(request, Exchange):
            half.close()
            raise TrainingError(f"the method's client half asks for {request!r:.80}: it may yield Exchange alone")
        if request.message is not None:
            line.send(request.message)
        given = line.receive() if request.answer else None
        if not request.answer:
            yield request.step


def _in_turns(
    halves: Mapping[int, Generator[Any, Any, Any]], lines: Mapping[int, Line], turns: Turns
) -> dict[int, Any]:
    """Run clients' halves over their lines; return what each gave, an exception where it failed."""
    ended: dict[int, Any] = {}

    def kept(client: int, half: Generator[Any, Any, Any]) -> Iterator[bool]:
        try:
            ended[client] = yield from steps(half, lines[client])
        except Exception as error:  # of the network, of the line, or of the server's side
            half.close()
            ended[client] = error

    running = [kept(client, half) for client, half in halves.items()]
    if turns == "client":
        for one in running:
            deque(one, 0)
    elif turns == "step":
        while running:  # a step each, until each has had all of its own
            running = [one for one in running if any(one)]
    else:
        while running:  # all send a batch, then all make its step
            running = [one for one in running if next(one, None) is not None]
    return {client: ended[client] for client in halves}
