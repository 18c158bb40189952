"""Flower's strategies through the adapter: messages that differ, further records, metrics, and who may read what."""

from itertools import pairwise

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, Krum

from edgekit.algorithms import make
from edgekit.algorithms.flower import reads
from edgekit.asks import Aggregate, Train, Update
from edgekit.data import load
from edgekit.errors import ExperimentError, TrainingError
from edgekit.models import build
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator


class ScaledByNode(FedAvg):
    """Sends each node other weights, and looks at what comes back."""

    def configure_train(self, server_round, arrays, config, grid):
        self.sent = {}
        for message in super().configure_train(server_round, arrays, config, grid):
            node = message.metadata.dst_node_id
            self.sent[node] = {name: node * array.numpy() for name, array in arrays.items()}
            content = RecordDict(
                {"arrays": ArrayRecord({k: Array(v) for k, v in self.sent[node].items()}), "config": config}
            )
            yield Message(content, node, "train")

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.moved = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            arrays = {name: array.numpy() for name, array in reply.content["arrays"].items()}
            changes = [np.linalg.norm(array - self.sent[node][name]) for name, array in arrays.items()]
            self.moved[node] = (sum(np.linalg.norm(a) ** 2 for a in arrays.values()) ** 0.5, max(changes))
        return super().aggregate_train(server_round, replies)


class Teacher(FedAvg):
    """A strategy with a client half of its own, a second record on both ways, and a key beside weights."""

    bundles = ("weights", "bias")

    def configure_train(self, server_round, arrays, config, grid):
        config["slope"] = 0.25
        for message in super().configure_train(server_round, arrays, config, grid):
            hint = ArrayRecord({"value": Array(np.full(3, message.metadata.dst_node_id, np.float32))})
            yield Message(RecordDict({**message.content, "hint": hint}), message.metadata.dst_node_id, "train")

    def local(self, ask, client):
        trained = yield Train(ask.bundles["weights"], ask.settings)
        told = {"slope": ask.config["slope"], "words": "said"}
        return Update({"weights": trained.arrays, "bias": {"value": 2 * ask.bundles["hint"]["value"]}}, 5, told)

    def expects(self, ask):
        return {"weights": ask.bundles["weights"], "bias": {"value": np.zeros(3, np.float32)}}

    def aggregate_train(self, server_round, replies):
        self.replies = list(replies)
        for reply in self.replies:
            reply.content.pop("bias")  # Flower's own mean takes one record of arrays
        arrays, metrics = super().aggregate_train(server_round, self.replies)
        return arrays, MetricRecord({**metrics, "asked": len(self.replies)})


class Strangers(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        config["server-round"] = server_round
        return [Message(RecordDict({"arrays": arrays, "config": config}), 77, "train")]


class Twice(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        return 2 * list(super().configure_train(server_round, arrays, config, grid))


class Careful(FedAvg):
    """Declares that it reads the mean alone, and counts what it gets."""

    reads = "sum"

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.got = [*getattr(self, "got", []), len(replies)]
        return super().aggregate_train(server_round, replies)


class Curious(FedAvg):
    reads = "each"


@pytest.fixture
def run(tmp_path, make_experiment):
    def train(strategy, *overrides):
        chosen = [f"federation.strategy=test_flower:{strategy}", "model.name=mlp", "data.clients=4", *overrides]
        experiment = make_experiment(*chosen)
        dataset = load(experiment.data, 0)
        model = build(experiment.model, dataset.shape, 10, 0)
        made = Coordinator(experiment, dataset, model, RunFolder.create(tmp_path / "run"))
        return made, made.run()

    return train


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """What import paths name is this module."""
    import sys

    monkeypatch.setitem(sys.modules, "test_flower", sys.modules[__name__])


@pytest.mark.parametrize("trainer", ["auto", "one-by-one"])
def test_each_client_trains_from_what_its_own_message_brings(run, trainer):
    made, _ = run("ScaledByNode", f"training.trainer={trainer}", "federation.rounds=1")
    norms = [made.algorithm.strategy.moved[node][0] for node in range(4)]
    assert all(later > earlier + 3 for earlier, later in pairwise(norms))
    assert all(change > 1e-3 for _, change in made.algorithm.strategy.moved.values())


def test_records_and_keys_arrive_at_clients_and_come_back(run, tmp_path):
    made, outcome = run("Teacher")
    for node, reply in enumerate(made.algorithm.strategy.replies):
        assert reply.metadata.src_node_id == node
        assert dict(reply.content["metrics"]) == {"num-examples": 5, "slope": 0.25}
        assert dict(reply.content["config"]) == {"words": "said"}
    (first, _) = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert first["metrics"] == {"slope": 0.25, "asked": 4}
    assert outcome.rounds == 2


def test_the_further_record_holds_what_the_client_made_of_it(make_experiment):
    federation = make_experiment("federation.strategy=test_flower:Teacher").federation
    algorithm = make(federation)
    weights = {"w": np.zeros(2, np.float32)}
    before = algorithm.begin(weights, frozenset(weights))
    asks = algorithm.ask(before, [3, 8], 1)
    assert [asks[node].bundles["hint"]["value"].tolist() for node in (3, 8)] == [[3] * 3, [8] * 3]
    assert asks[3].config == {"slope": 0.25, "server-round": 1}
    assert asks[3].bundles["weights"] is asks[8].bundles["weights"]  # shared: a cohort copies it once
    kept = {}

    def spy(self, number, replies):
        kept.update({reply.metadata.src_node_id: reply.content["bias"]["value"].numpy().tolist() for reply in replies})
        return None, None

    Teacher.aggregate_train, own = spy, Teacher.aggregate_train
    try:
        updates = {n: Update({"weights": weights, "bias": {"value": np.full(3, n, np.float32)}}) for n in (3, 8)}
        assert algorithm.merge(before, Aggregate({}, {}, 2, 2, updates), 1).bundles["weights"] is weights
    finally:
        Teacher.aggregate_train = own
    assert kept == {3: [3] * 3, 8: [8] * 3}


@pytest.mark.parametrize(
    ("strategy", "message"),
    [("Strangers", "Strangers could not configure the round: it asks client 77"), ("Twice", "Twice asks a node twice")],
)
def test_messages_to_nobody_or_twice_end_the_run_and_say_whose_fault_it_is(run, strategy, message):
    with pytest.raises(TrainingError, match=message):
        run(strategy)


def test_what_a_strategy_may_see_is_what_it_declares(run):
    """Under noise by the server a strategy gets the released mean, one reply, and nothing else."""
    assert [reads(made) for made in (Careful(), Curious(), FedAvg(), FedMedian(), Krum(), Teacher())] == [
        *("sum", "each", "sum", "each", "each", "sum")
    ]
    made, _ = run("Careful", "privacy.unit=client")
    assert made.algorithm.strategy.got == [1, 1]
    with pytest.raises(ExperimentError, match="looks at single clients' updates"):
        make(made.experiment.federation.model_copy(update={"strategy": "test_flower:Curious"}), released=True)


def test_without_noise_the_same_strategy_sees_each_update(run):
    assert run("Careful")[0].algorithm.strategy.got == [4, 4]


def test_a_config_that_means_nothing_to_plain_training_changes_nothing(make_experiment):
    algorithm = make(make_experiment("federation.strategy=FedProx", "federation.arguments.proximal_mu=0.5").federation)
    weights = {"w": np.zeros(2, np.float32)}
    ask = algorithm.ask(algorithm.begin(weights, frozenset(weights)), [0], 1)[0]
    assert ask.config["proximal-mu"] == 0.5
    assert algorithm.plain
    assert algorithm.proximal
    assert ConfigRecord({"server-round": 1})["server-round"] == ask.config["server-round"]


def test_what_not_all_clients_tell_is_left_out_and_the_weight_is_the_checked_one(make_experiment):
    algorithm = make(make_experiment("federation.strategy=FedAvg").federation)
    weights = {"w": np.zeros(2, np.float32)}
    before = algorithm.begin(weights, frozenset(weights))
    algorithm.ask(before, [0, 1], 1)
    told = ({"train_loss": 1.0, "extra": 3, "num-examples": 10**6}, {"train_loss": 2.0})
    updates = {
        n: Update({"weights": {"w": np.full(2, 8.0 * n, np.float32)}}, 10 + 20 * n, facts)
        for n, facts in enumerate(told)
    }
    after = algorithm.merge(before, Aggregate({}, {}, 2, 2, updates), 1)
    assert after.bundles["weights"]["w"].tolist() == [6.0, 6.0]
    assert after.facts["metrics"] == {"train_loss": 1.75}
