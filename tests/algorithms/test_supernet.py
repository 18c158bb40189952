"""A supernet: each weight is the mean over those who had it, worked out here client by client."""

import numpy as np
import pytest

from edgekit.algorithms.supernet import Supernet, SupernetSettings, part_of, skeleton
from edgekit.asks import Train
from edgekit.clients.torch_trainer import TorchTrainer, load_weights, trained_weights
from edgekit.clients.trainer import LocalTask
from edgekit.data import load
from edgekit.errors import EdgekitError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint
from edgekit.server.loop.sync import Coordinator

NETWORKS = "[{width = 0.5}, {arguments = {hidden = [8, 8]}}, {width = 2.0, arguments = {hidden = [8, 8]}}]"
CHOSEN = (
    "federation.algorithm=supernet", f"federation.arguments.networks={NETWORKS}", "model.name=mlp",
    "model.arguments={hidden=[16]}", "training.learning_rate=0.2",
)  # fmt: skip


@pytest.fixture
def made(tmp_path, make_experiment):
    def make(*overrides, name="run"):
        experiment = make_experiment(*CHOSEN, *overrides)
        dataset = load(experiment.data, 0)
        model = build(experiment.model, dataset.shape, 10, 0, dataset.calibration.x)
        folder = RunFolder(tmp_path / name)
        return Coordinator(
            experiment, dataset, model, folder if folder.path.exists() else RunFolder.create(folder.path)
        )

    return make


def test_weights_are_means_over_who_drew_them(made):
    one = made("federation.rounds=2")
    method, dataset = one.algorithm, one.dataset
    shared = dict(one._first.state.bundles["weights"])
    sections = {"": Model(name="mlp", arguments={"hidden": [16]}), **method.modules}
    networks = {name: build(section, dataset.shape, 10, 0) for name, section in sections.items()}
    drawn = set()
    for number in (1, 2):
        sums = {key: [np.zeros(array.shape), np.zeros(array.shape)] for key, array in shared.items()}
        for client in range(6):
            name = method.network_of(client, number)
            drawn.add(name)
            shapes = {key: w.shape for key, w in trained_weights(networks[name]).items()}
            part = part_of(shared, shapes)
            task = LocalTask(dataset.client(client), *(generator(0, "batches", number, client) for _ in range(2)))
            after = TorchTrainer(networks[name]).train(Train(part, one.local_settings), task).arrays
            for own, array in after.items():
                place = tuple(slice(0, size) for size in array.shape)
                total, weight = sums[f"{skeleton(shapes)}/{own}"]
                total[place] += len(task.examples) * array.astype(np.float64)
                weight[place] += len(task.examples)
        shared = {
            key: np.where(weight > 0, total / np.maximum(weight, 1), shared[key])
            for key, (total, weight) in sums.items()
        }
        shared = {key: array.astype(np.float32) for key, array in shared.items()}
    assert len(drawn) > 2
    assert len({skeleton(shapes) for shapes in method.slices.values()}) == 2
    found = one.run()
    kept = checkpoint.latest(one.run_folder.checkpoint).state.bundles["weights"]
    assert all(np.allclose(kept[key], shared[key], atol=1e-5) for key in shared)
    own = part_of(kept, {key: array.shape for key, array in found.weights.items()})
    assert all(np.array_equal(own[key], found.weights[key]) for key in own)
    assert len(own) == len(found.weights)


def test_it_goes_on_with_the_same_bits(made):
    whole = made("federation.rounds=3").run().weights
    made("federation.rounds=2", name="parts").run()
    after = made("federation.rounds=3", name="parts").run().weights
    assert all(np.array_equal(after[name], whole[name]) for name in whole)


def test_a_network_of_other_layers_has_no_part():
    assert part_of({}, {"a": (2, 3)}) == {}
    shapes = {"a": (2, 3)}
    shared = {f"{skeleton(shapes)}/a": np.arange(12, dtype=np.float32).reshape(3, 4)}
    assert part_of(shared, shapes)["a"].tolist() == [[0, 1, 2], [4, 5, 6]]
    assert part_of(shared, {"a": (4, 3)}) == {}  # larger than all that share
    network = build(Model(name="mlp", arguments={"hidden": [4]}), (3,), 2, 0)
    load_weights(network, part_of(shared, {"layers.1.weight": (4, 3)}))


@pytest.mark.parametrize(
    ("networks", "told"),
    [
        ("[]", "networks"),
        ("[{depth = 3}]", "is no \\[model\\] section"),
        ("[{width = -1.0}]", "is no \\[model\\] section"),
    ],
)
def test_networks_that_are_none_are_one_line(made, networks, told):
    with pytest.raises(EdgekitError, match=told) as caught:
        made(f"federation.arguments.networks={networks}")
    assert "\n" not in str(caught.value)


def test_one_that_cannot_be_built_is_left_out():
    method = Supernet(SupernetSettings(networks=[{"arguments": {"pool": 7}}, {"width": 0.5}]))
    method.prepare(Model(name="dscnn"), (1, 8, 8), lambda one: build(one, (1, 8, 8), 10, 0), released=False, seed=0)
    assert list(method.modules) == ["n1"]
