"""What a federated method is: both its halves, the server's and the clients', in one file."""

import dataclasses
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import ValidationError

from edgekit.algorithms.split.settings import Split
from edgekit.arrays import Array, Weights
from edgekit.asks import (
    BUFFERS,
    WEIGHTS,
    Aggregate,
    Ask,
    Bundles,
    Request,
    Score,
    Scored,
    Train,
    Trained,
    Update,
    own_bundles,
)
from edgekit.asks import Client as Client
from edgekit.asks import State as State
from edgekit.data.settings import Data
from edgekit.errors import ExperimentError, TrainingError
from edgekit.guarantee import UNPROTECTED, Statement
from edgekit.local_settings import LocalSettings
from edgekit.models.settings import Model
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.privacy import mechanisms
from edgekit.privacy.settings import Privacy
from edgekit.registry import ALGORITHMS
from edgekit.section import Section, first_problem
from edgekit.transforms.base import Mechanism

if TYPE_CHECKING:
    from torch import nn

    from edgekit.data import FederatedDataset
    from edgekit.data.federated import Floats

Half = Generator[Request, Any, Update]
"""A client's half of a round: it yields what it wants done, is sent the answers, and returns the update."""
AVERAGE, BEST, DEVICES, HISTORY = "average", "best", "devices", "history"
"""What checkpoints hold beside the bundles of a method's state: no bundle may be called so."""
OF_TRANSFORMS = "transform-"
"""With which no bundle of a method's state may begin: in checkpoints transforms' do."""
LARGEST_LOSS = 1e9
"""Beyond which a loss tells nothing."""
PROXIMAL = "proximal-mu"
"""Key of FedProx's mu in what a client is told; Flower's own FedProx names it so."""
MODULE, OWN_CLASSES = "module", "own-classes"
"""Likewise of the network that it trains, one of the method's `modules`, and of a loss of its own classes alone."""


class Algorithm:
    """A federated method; this one's clients train plainly, and what is made of their updates is left to others.

    Args:
        settings: of the experiment, of the class's own `Settings`.

    Attributes:
        Settings: the method's keys in the experiment's `federation.arguments`.
        reads: whether it looks at single updates (`each`) or at their mean alone (`sum`). Privacy goes by this, not
            by a name: with noise by the server a method that reads sums is given the released mean and nothing else.
        bundles: names of those that clients send.
        proximal: whether clients are told a mu.
        drifts: whether clients train with a drift.
        plain_sgd: whether it reckons with steps of plain SGD, of whichever length.
        keeps: whether clients keep something between rounds.
        losses: whether it needs the clients' training losses, which private ones keep to themselves.
        unkept: names of what it remembers but checkpoints cannot hold.
        interactive: whether clients exchange messages with the server within a round (see `interactive.Interactive`).
        unprotected: what is to be said of a run without privacy.
        modules: further networks that clients or server train, by the names that `Train` gives: [model] sections.
        changes: what is done to some of them first, by name: steps of `edgekit.compression.record`.
        unequal: whether clients of a round train networks of unequal shapes, each a corner of the run's.
        statistics: whether one set of running statistics does for all of its clients' networks.
        moves: of its bundles those that move the model; () is all, others are counts and the like.
        trainings: how often a client trains in a round.
        stands: share of attackers among its clients up to which it promises anything.
        phases: whether it goes on where the network changes between rounds, as compression has it.
        relays: whether clients pass on what others sent, so that an update tells nothing of one client by itself.
        needs_public: whether it looks at public examples: the server's own.
        public: these, set before it begins; None at clients, and of methods that need none.
        outputs: how many scores the run's network gives for an example; likewise.
        needs_torch: what of it only nodes with torch can do, "" if nothing.
    """

    Settings: ClassVar[type[Section]] = Section
    reads: Literal["sum", "each"] = "sum"
    bundles: tuple[str, ...] = (WEIGHTS,)
    proximal: bool = False
    drifts: bool = False
    plain_sgd: bool = False
    keeps: bool = False
    losses: bool = False
    unkept: Sequence[str] = ()
    interactive: bool = False
    unprotected: ClassVar[Statement] = UNPROTECTED
    modules: Mapping[str, Model] = MappingProxyType({})
    changes: Mapping[str, Sequence[Mapping[str, Any]]] = MappingProxyType({})
    unequal: bool = False
    statistics: bool = True
    moves: tuple[str, ...] = ()
    trainings: int = 1
    stands: float = 1.0
    phases: bool = True
    relays: bool = False
    needs_public: bool = False
    public: Array | None = None
    outputs: int = 0
    needs_torch: str = ""

    def __init__(self, settings: Section | None = None) -> None:
        self.settings = settings or self.Settings()

    @classmethod
    def around(cls, inner: "Algorithm", split: Split) -> "Algorithm":
        """Return the method that an experiment asks for, where what is made of updates is `inner`'s."""
        return inner

    @staticmethod
    def mechanism(privacy: Privacy, split: Split) -> Mechanism | None:
        """Return what protects its clients' data, not planned yet; None without privacy."""
        return mechanisms.make(privacy)

    @staticmethod
    def dataset(
        data: Data,
        split: Split,
        seed: int,
        *,
        whole_groups: bool,
        private: bool = False,
        objective: Objective = PLAIN,
    ) -> "FederatedDataset":
        """Return an experiment's data, as this sort of method needs it."""
        from edgekit.data import load

        return load(data, seed, whole_groups=whole_groups, private=private, objective=objective)

    @staticmethod
    def network(
        model: Model,
        split: Split,
        dataset: "FederatedDataset",
        seed: int,
        calibration: "Floats | None" = None,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> "nn.Module":
        """Return an experiment's network, not trained yet; its first weights are scaled by calibration examples."""
        from edgekit.models import build

        return build(model, dataset.shape, len(dataset.classes), seed, calibration, on_notice, dataset.objective)

    @property
    def buffer(self) -> int:
        """Updates of which it makes a step while others go on training; 0 of one that waits for all of a round."""
        return 0

    @property
    def plain(self) -> bool:
        """Whether all that clients do is plain training, which any device can do."""
        own = ("local", "evaluate", "expects")
        return all(getattr(type(self), name) is getattr(Algorithm, name) and name not in vars(self) for name in own)

    def prepare(
        self,
        model: Model,
        shape: Sequence[int],
        build: Callable[[Model], "nn.Module"],
        *,
        released: bool,
        seed: int,
    ) -> None:
        """Get to know the run before anything begins; most methods need not.

        Args:
            model: the run's [model] section.
            shape: of one example.
            build: builds a network for the run's data.
            released: whether it will get the mean of the updates alone.
            seed: of the run.

        Raises:
            EdgekitError: the method has no meaning for this network.
        """

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Return the state before the first round.

        Args:
            weights: the network's first: its trained parameters, each once.
            learnt: names of those that training moves by gradients: of an interactive method not all.
        """
        return State({WEIGHTS: weights})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Return what each client of a round is asked; it may differ from client to client."""
        ask = Ask({WEIGHTS: state.bundles[WEIGHTS]})
        return dict.fromkeys(clients, ask)

    def local(self, ask: Ask, client: Client) -> Half:
        """Do a client's half of a round."""
        trained = yield Train(ask.bundles[WEIGHTS], with_mu(ask), module=module_of(ask))
        return plain_update(trained)

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the model on what a client holds back."""
        scored: Scored = yield Score(ask.bundles[WEIGHTS], module_of(ask))
        return scored

    def ask_scores(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Return what clients are sent that measure the model after a round on what they hold back."""
        return self.ask(state, clients, number)

    def tell_scores(self, scores: Mapping[int, Scored], number: int) -> Mapping[str, Any]:
        """Return metrics of the method's own, made of the clients' scores."""
        return {}

    def expects(self, ask: Ask) -> Bundles:
        """Return arrays of the names, shapes and types that an answer to `ask` must have."""
        return {WEIGHTS: ask.bundles[WEIGHTS]}

    def whole(self, update: Update, ask: Ask, weights: Weights) -> Update:
        """Return an answer to `ask` in the form in which it is bounded, merged and noised, the same for all clients.

        Args:
            update: as `expects` says.
            ask: of the client.
            weights: the global ones.
        """
        return update

    def whole_like(self, ask: Ask, weights: Weights) -> Bundles:
        """Return arrays of the names, shapes and types that `whole` gives."""
        return self.expects(ask)

    def rounds_for(self, clients: int) -> int:
        """Return how many rounds of the loop a round of training takes, of so many clients."""
        return 1

    def batches(self, ask: Ask) -> int | None:
        """Return how many batches a client takes for this ask, as time is reckoned; None is as its settings say."""
        return None

    def shares(self, name: str) -> bool:
        """Whether the server sees clients' values of a running statistic, and averages them."""
        return True

    def merge(self, state: State, got: Aggregate, number: int) -> State | Generator[Request, Any, State]:
        """Return the state after a round.

        It may be a generator, as `local` is: then a trainer at the server answers what it yields, on the examples that
        the server has itself (`data.calibration_examples`), which no client owns.

        Raises:
            Exception: whatever its author's code raises; it ends the run with what was trained.
        """
        raise NotImplementedError

    def model(self, state: State) -> Weights:
        """Return the global model."""
        return state.bundles[WEIGHTS]


def made(name: str, arguments: Mapping[str, Any], *, released: bool) -> Algorithm:
    """Make one of our methods, or of the user's own.

    Args:
        name: in the registry, or an import path.
        arguments: the method's own.
        released: whether it gets the mean of the updates alone: under noise by the server, and behind some transforms.

    Raises:
        ExperimentError: there is none, the arguments do not fit, or it looks at single updates.
    """
    loaded = ALGORITHMS.load(name)
    if not (isinstance(loaded, type) and issubclass(loaded, Algorithm)):
        raise ExperimentError(f"federation.algorithm {name!r} is not an edgekit.algorithms.base.Algorithm")
    try:
        algorithm = loaded(loaded.Settings.model_validate(dict(arguments)))
    except ValidationError as error:
        raise ExperimentError(f"federation.arguments do not fit {name}: {first_problem(error)}") from None
    except Exception as error:  # it may be the user's own
        raise ExperimentError(f"federation.algorithm {name} cannot be made: {type(error).__name__}: {error}") from error
    if released and algorithm.reads != "sum":
        raise ExperimentError(
            f"federation.algorithm {name} looks at single clients' updates, of which noise by the server (or a "
            "transform) gives the mean alone: use another, or privacy.noise = 'client'"
        )
    return algorithm


def checked(state: object) -> State:
    """Return a method's state, if it is one that can be kept.

    Raises:
        TrainingError: it is not; the message tells why.
    """
    if not isinstance(state, State) or not isinstance(state.bundles, Mapping):
        raise TrainingError(f"its state is {type(state).__name__}, not a State with bundles of arrays")
    for bundle, arrays in state.bundles.items():
        if ":" in bundle or bundle in (AVERAGE, BEST, DEVICES, HISTORY, BUFFERS) or bundle.startswith(OF_TRANSFORMS):
            raise TrainingError(f"the bundle {bundle!r} of its state needs another name")
        if not isinstance(arrays, dict) or not all(
            isinstance(array, np.ndarray | np.generic) for array in arrays.values()
        ):
            raise TrainingError(f"the bundle {bundle!r} of its state holds what is not an array")
    try:
        json.dumps(dict(state.facts), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the facts of its state are not JSON: {error}") from None
    return state


def checked_asks(made: object, clients: Sequence[int]) -> Mapping[int, Ask]:
    """Return what a method asks, if it asks clients of the cohort.

    Raises:
        TrainingError: it does not; the message tells why.
    """
    if not isinstance(made, Mapping) or not all(isinstance(ask, Ask) for ask in made.values()):
        raise TrainingError("it does not give an Ask for each client")
    if not made:
        raise TrainingError("it asks nobody")
    if strangers := sorted(set(made) - set(clients)):
        raise TrainingError(f"it asks client {strangers[0]}, which is not in the cohort")
    return made


def answer_like(algorithm: Algorithm, ask: Ask) -> Bundles:
    """Return arrays such as an answer to `ask` must have: what a method expects, and the running statistics."""
    sent = ask.bundles.get(BUFFERS)
    shared = {} if sent is None else {name: array for name, array in sent.items() if algorithm.shares(name)}
    return {**expected_of(algorithm, ask), **({} if sent is None else {BUFFERS: shared})}


def expected_of(algorithm: Algorithm, ask: Ask) -> Bundles:
    """Return what a method expects of an answer to `ask`; it does not see running statistics."""
    return dict(algorithm.expects(dataclasses.replace(ask, bundles=own_bundles(ask.bundles))))


def with_mu(ask: Ask) -> LocalSettings:
    """Return an ask's settings, with what its method tells: the mu of FedProx, and whose classes the loss is of."""
    mu, own = ask.config.get(PROXIMAL, 0.0), ask.config.get(OWN_CLASSES, False)
    if not isinstance(mu, int | float):
        raise TrainingError(f"{PROXIMAL} is {mu!r}; it must be a number")
    if not isinstance(own, bool):
        raise TrainingError(f"{OWN_CLASSES} is {own!r}; it must be true or false")
    if (mu, own) == (ask.settings.proximal_mu, ask.settings.own_classes):
        return ask.settings
    return dataclasses.replace(ask.settings, proximal_mu=float(mu), own_classes=own)


def module_of(ask: Ask) -> str:
    """Return the name of the network that an ask is of, "" of the run's own."""
    return str(ask.config.get(MODULE, ""))


def plain_update(trained: Trained) -> Update:
    """Return what a plain training made, as an update."""
    return Update({WEIGHTS: trained.arrays}, trained.examples, facts_of(trained))


def facts_of(trained: Trained) -> dict[str, float]:
    """Return the figures that go with an update."""
    if trained.loss is None or not abs(trained.loss) < LARGEST_LOSS:
        return {}
    return {"train_loss": trained.loss}


def step_weight(steps: int, momentum: float) -> float:
    """Return the l1 norm of the weights with which a client's gradients make up its change, over the learning rate.

    The number of steps for plain SGD; with momentum, gradient k of K weighs (1 - m^(K-k+1)) / (1 - m) (Wang et al.
    2020, section 4.2).
    """
    if not momentum:
        return float(steps)
    return sum((1 - momentum ** (steps - k)) / (1 - momentum) for k in range(steps))
