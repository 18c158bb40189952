"""Flower's strategies, unchanged, as federated methods: messages become asks, updates become replies."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from edgekit.algorithms.base import Algorithm, Client, Half, State
from edgekit.algorithms.settings import Federation
from edgekit.arrays import Array, Weights
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Fact, Scored, Update
from edgekit.errors import ExperimentError, TrainingError
from edgekit.flower import begin_any_run, to_record
from edgekit.registry import OF_PRIVACY, STRATEGIES

OF_THE_MEAN = ("FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedProx", "FedYogi")
"""Strategies of Flower that use nothing but the mean update; the others look at single ones."""
ARRAYS, CONFIG, METRICS, EXAMPLES = "arrays", "config", "metrics", "num-examples"
"""Names that Flower's strategies give to records, and the key that updates weigh by."""
_OURS = {
    "fraction_train": "federation.cohort says how many clients take part",
    "fraction_evaluate": "the server measures accuracy; with data.client_test_fraction clients do, too",
    "min_train_nodes": "federation.cohort says how many clients take part",
    "min_evaluate_nodes": "the server measures accuracy; with data.client_test_fraction clients do, too",
    "min_available_nodes": "data.clients says how many clients there are",
    "weighted_by_key": "updates weigh by their clients' examples, or alike under privacy",
    "arrayrecord_key": "edgekit's clients know the name",
    "configrecord_key": "edgekit's clients know the name",
}

_OF_MEASURING = ("fraction_evaluate", "min_evaluate_nodes")


class FlowerStrategy(Algorithm):
    """A strategy of Flower's.

    Its clients train plainly, as its messages say (`proximal-mu`); a class of the user's may bring a client half of its
    own, methods `local` and `expects` as `Algorithm` has them. Further records and config keys of its messages arrive
    there as bundles and config, and what an update holds beside weights comes back as records and metrics.

    Args:
        federation: the [federation] section; `arguments` go to the strategy's constructor.
        released: whether it gets nothing but what noise by the server released.
        measures: whether clients hold examples back to measure models with, as the strategy's own settings say.

    Raises:
        ExperimentError: no such strategy, arguments it does not take, or one that does not go with this.
    """

    def __init__(self, federation: Federation, *, released: bool = False, measures: bool = False) -> None:
        super().__init__()
        self.name = federation.strategy
        self.strategy = build(federation, measures=measures)
        begin_any_run()  # without which there are no messages
        if released and reads(self.strategy) == "each":
            raise ExperimentError(
                f"federation.strategy {self.name} looks at single clients' updates, of which noise by the server (or "
                f"a transform) gives the mean alone: use one of {', '.join(OF_THE_MEAN)}, or privacy.noise = 'client'"
            )
        self.reads = "sum" if released else "each"
        self.proximal = bool(getattr(self.strategy, "proximal", isinstance(self.strategy, flower.FedProx)))
        self.losses = isinstance(self.strategy, flower.QFedAvg)
        self.drifts = bool(getattr(self.strategy, "drifts", False))
        self.stands = _stands(self.strategy)
        self.keeps = bool(getattr(self.strategy, "keeps", False))
        self.bundles = tuple(getattr(self.strategy, "bundles", (WEIGHTS,)))
        self._held: State | None = None
        self._sent: dict[int, Message] = {}

    @property
    def plain(self) -> bool:
        """Whether all that clients do is plain training."""
        return not any(hasattr(self.strategy, name) for name in ("local", "expects"))

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Let the strategy write its messages.

        Raises:
            TrainingError: it fails, or asks a node twice.
        """
        return self._asked(self.strategy.configure_train, state, clients, number)

    def ask_scores(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Let the strategy ask whom it wants how good the model is."""
        return self._asked(self.strategy.configure_evaluate, state, clients, number)

    def tell_scores(self, scores: Mapping[int, Scored], number: int) -> Mapping[str, Any]:
        """Let the strategy aggregate the clients' scores."""
        replies = []
        for client, scored in scores.items():
            numbers = {EXAMPLES: scored.examples, "eval_loss": scored.loss, "eval_acc": scored.score}
            content = RecordDict({METRICS: MetricRecord(numbers)})
            replies.append(Message(content, reply_to=self._sent[client]))
        return dict(self.strategy.aggregate_evaluate(number, replies) or {})

    def _asked(
        self, configure: Callable[..., Iterable[Message]], state: State, clients: Sequence[int], number: int
    ) -> Mapping[int, Ask]:
        self._restored(state)
        grid, config = _Cohort(clients), ConfigRecord()
        try:
            messages = list(configure(number, to_record(state.bundles[WEIGHTS]), config, grid))
        except Exception as error:  # it may be the user's own
            raise TrainingError(f"round {number}: {self.name} could not configure the round: {error}") from error
        self._sent = {message.metadata.dst_node_id: message for message in messages}
        if len(self._sent) < len(messages):
            raise TrainingError(f"round {number}: {self.name} asks a node twice")
        read: dict[int, Weights] = {}
        return {client: _ask_of(self._sent[client], read) for client in sorted(self._sent)}

    def local(self, ask: Ask, client: Client) -> Half:
        """Train plainly, or as the strategy's own class says."""
        own: Callable[[Ask, Client], Half] = getattr(self.strategy, "local", super().local)
        return own(ask, client)

    def expects(self, ask: Ask) -> Bundles:
        """Expect weights, or what the strategy's own class says."""
        own: Callable[[Ask], Bundles] = getattr(self.strategy, "expects", super().expects)
        return own(ask)

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Let the strategy aggregate the replies; those of its metrics that it returns become the round's."""
        self._restored(state)
        if got.updates is None:
            replies = [Message(_content(Update(got.bundles), ()), 0, "train")]
        else:
            # What not all tell, strategies cannot average.
            shared = set.intersection(*(set(update.facts) for update in got.updates.values()))
            replies = [
                Message(_content(update, shared), reply_to=self._sent[client]) for client, update in got.updates.items()
            ]
        record, metrics = self.strategy.aggregate_train(number, replies)
        before: Weights = state.bundles[WEIGHTS]
        after = before
        if record is not None:
            found = {name: array.numpy() for name, array in record.items()}
            after = {name: a.astype(before[name].dtype) if name in before else a for name, a in found.items()}
        arrays, description, self.unkept = state_of(self.strategy)
        facts = {"strategy": description, "metrics": dict(metrics or {})}
        self._held = State({WEIGHTS: after, "strategy": arrays}, facts)
        return self._held

    def _restored(self, state: State) -> None:
        """Give the strategy back what it remembered in a state that comes from a checkpoint."""
        if state is not self._held and "strategy" in state.facts:
            restore(self.strategy, dict(state.bundles.get("strategy", {})), state.facts["strategy"])
        self._held = state


class _Cohort(Grid):
    """The grid that a strategy sees: a round's cohort is online, and nobody else."""

    def __init__(self, cohort: Sequence[int]) -> None:
        self._cohort = cohort

    def get_node_ids(self) -> Iterable[int]:
        return list(self._cohort)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("a strategy's messages are sent by edgekit: return them from configure_train")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("a strategy's messages are sent by edgekit: return them from configure_train")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("a strategy's messages are sent by edgekit: return them from configure_train")


def _ask_of(message: Message, read: dict[int, Weights]) -> Ask:
    """Return a message as an ask; `read` holds records that were read already, since most messages share theirs."""
    content = message.content
    bundles: dict[str, Weights] = {}
    for name, record in content.array_records.items():
        if id(record) not in read:
            read[id(record)] = {key: array.numpy() for key, array in record.items()}
        bundles[WEIGHTS if name == ARRAYS else name] = read[id(record)]
    config: dict[str, Fact] = {}
    for name, held in (*content.config_records.items(), *content.metric_records.items()):
        config |= {key if name == CONFIG else f"{name}.{key}": value for key, value in held.items()}
    return Ask(bundles, config)


def _content(update: Update, told: Collection[str]) -> RecordDict:
    """Return an update, and these of its facts, as the content of a reply."""
    count = int(update.weight) if float(update.weight).is_integer() else update.weight
    facts = {name: value for name, value in update.facts.items() if name in told}
    words = {name: value for name, value in facts.items() if isinstance(value, str | bool | bytes)}
    numbers = {name: value for name, value in facts.items() if name not in words}
    content = RecordDict()
    for name, arrays in update.bundles.items():
        content[ARRAYS if name == WEIGHTS else name] = to_record(arrays)
    content[METRICS] = MetricRecord({**numbers, EXAMPLES: count})
    if words:
        content[CONFIG] = ConfigRecord(words)
    return content


def _stands(strategy: Strategy) -> float:
    """Return up to which share of attackers a strategy promises anything."""
    if isinstance(strategy, flower.FedTrimmedAvg):
        return float(strategy.beta)
    return 0.5 if isinstance(strategy, flower.FedMedian) else 1.0


def reads(strategy: Strategy) -> str:
    """Return whether a strategy looks at single updates, `each`, or at their mean alone, `sum`.

    A class of the user's may say so, `reads = "sum"`; else it is as the class of Flower's that it comes from.
    """
    declared = getattr(strategy, "reads", None)
    if declared in ("sum", "each"):
        return str(declared)
    of_flower = next((base.__name__ for base in type(strategy).__mro__ if base.__module__.startswith("flwr.")), "")
    return "sum" if of_flower in OF_THE_MEAN else "each"


def build(federation: Federation, *, measures: bool = False) -> Strategy:
    """Make the strategy that the experiment names; `measures` lets it ask clients how good the model is.

    Raises:
        ExperimentError: no such strategy, or arguments it does not take.
    """
    name = federation.strategy
    if name.startswith(OF_PRIVACY):
        raise ExperimentError(
            f"federation.strategy {name}: privacy has a section of its own; set privacy.unit = 'client' and "
            "privacy.noise, which count the sampling too"
        )
    for argument in federation.arguments:
        if argument in _OURS and not (measures and argument in _OF_MEASURING):
            raise ExperimentError(f"federation.arguments.{argument} is set by edgekit: {_OURS[argument]}")
    arguments = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0 if measures else 0.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 0,
        "min_available_nodes": 1,
        **federation.arguments,
    }
    loaded = STRATEGIES.load(name)
    if not (isinstance(loaded, type) and issubclass(loaded, Strategy)):
        raise ExperimentError(f"federation.strategy {name!r} is not a flwr.serverapp.strategy.Strategy")
    try:
        strategy = loaded(**arguments)
    except TypeError as error:
        reason = str(error).removeprefix(f"{name}.__init__() ")
        raise ExperimentError(f"federation.arguments do not fit {name}: {reason}") from None
    except Exception as error:  # it may be the user's own
        raise ExperimentError(f"federation.arguments do not fit {name}: {error}") from None
    found: Strategy = strategy
    return found


def state_of(strategy: Strategy) -> tuple[Weights, dict[str, Any], list[str]]:
    """Return what a strategy remembers between rounds: arrays, JSON, and the names of what can be neither.

    Flower has no checkpoints. A strategy's memory is its attributes: numbers, arrays, and lists and dicts of them.
    Functions are settings that the constructor makes again.
    """
    arrays: Weights = {}
    description = {}
    skipped = []
    for name, value in vars(strategy).items():
        encoded = _encode(value, name, arrays)
        if encoded is not None:
            description[name] = encoded
        elif not callable(value):
            skipped.append(name)
    return arrays, description, skipped


def restore(strategy: Strategy, arrays: Weights, description: dict[str, Any]) -> None:
    """Give a strategy back what `state_of` returned."""
    for name, encoded in description.items():
        setattr(strategy, name, _decode(encoded, arrays))


def _encode(value: Any, path: str, arrays: Weights) -> dict[str, Any] | None:
    """Describe a value as {kind: …}, putting its arrays aside under their path; None for what is not state."""
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, np.ndarray | np.generic):
        arrays[path] = np.asarray(value)
        return {"array": path, "scalar": isinstance(value, np.generic)}
    if isinstance(value, ArrayRecord):
        inner = {name: array.numpy() for name, array in value.items()}
        return {"record": _encode(inner, path, arrays)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = {key: _encode(item, f"{path}/{key}", arrays) for key, item in value.items()}
        return None if None in items.values() else {"dict": items}
    if isinstance(value, list | tuple):
        parts = [_encode(item, f"{path}/{place}", arrays) for place, item in enumerate(value)]
        return None if None in parts else {"list": parts}
    return None


def _decode(encoded: dict[str, Any], arrays: Weights) -> Any:
    if "value" in encoded:
        return encoded["value"]
    if "array" in encoded:
        array: Array = arrays[encoded["array"]]
        return array[()] if encoded["scalar"] else array
    if "record" in encoded:
        return to_record(_decode(encoded["record"], arrays))
    if "dict" in encoded:
        return {key: _decode(item, arrays) for key, item in encoded["dict"].items()}
    return [_decode(item, arrays) for item in encoded["list"]]
