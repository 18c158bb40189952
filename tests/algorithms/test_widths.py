"""Clients of unequal widths: HeteroFL's equations in plain numpy, FjORD's order, and what does not go."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from edgekit.algorithms.heterofl import HeteroFL, HeteroFLSettings
from edgekit.asks import Aggregate, Ask, State, Update
from edgekit.clients.torch_trainer import load_weights, state
from edgekit.compression.record import rebuilt
from edgekit.data import batches, load
from edgekit.errors import EdgekitError, ExperimentError, ModelError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.models.slices import Ladder, counts, is_corner, ordered, problem_with_order
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator
from edgekit.transforms.base import Transform

MLP = ["model.name=mlp", "model.norm=none", "model.arguments={hidden=[16]}"]
QUICK = [
    *MLP, "federation.rounds=3", "training.batch_size=16", "training.learning_rate=0.1", "data.alpha=0.3",
    "federation.algorithm=heterofl", "federation.arguments.widths=[1.0, 0.5, 0.25]",
]  # fmt: skip
W1, B1, W2, B2 = "layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"


@pytest.fixture
def run(tmp_path, make_experiment):
    """Train digits; return the coordinator, first and last weights, and the folder."""

    def train(*overrides, name="run", shared=QUICK):
        experiment = make_experiment(*shared, *overrides)
        dataset = load(experiment.data, 0)
        model = build(experiment.model, dataset.shape, 10, 0)
        folder = RunFolder.create(tmp_path / name)
        made = Coordinator(experiment, dataset, model, folder)
        first = state(model)
        return made, first, made.run().weights, folder

    return train


def _descend(made, number, client, w, scale, *, masked):
    """Local SGD on relu(x w1 + b1) scale w2 + b2."""
    examples, training = made.dataset.client(client), made.local_settings
    w = {name: array.astype(np.float64) for name, array in w.items()}
    own = np.isin(np.arange(10), examples.y) if masked else np.ones(10)
    for batch in batches.draw(len(examples), training, generator(0, "batches", number, client)):
        x, y = examples.x[batch].reshape(len(batch), -1).astype(np.float64), examples.y[batch]
        before = (x @ w[W1].T + w[B1]) * scale
        hidden = np.maximum(before, 0)
        scores = (hidden @ w[W2].T + w[B2]) * own
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[range(len(y)), y] -= 1
        back = p * own / len(y)
        inner = (back @ w[W2]) * (before > 0) * scale
        gradient = {W1: inner.T @ x, B1: inner.sum(0), W2: back.T @ hidden, B2: back.sum(0)}
        w = {name: array - training.learning_rate * gradient[name] for name, array in w.items()}
    return w, own.astype(bool)


@pytest.mark.parametrize(
    ("chosen", "masked"),
    [
        ([], False),
        (["federation.arguments.scaler=false"], False),
        (["federation.arguments.masked=true", "data.partition=shards"], True),
        (["training.trainer=one-by-one", "federation.arguments.masked=true", "data.partition=shards"], True),
        (["federation.arguments.change=true", "federation.cohort=4"], False),
    ],
)
def test_heterofl(run, chosen, masked):
    """Diao et al. 2021, algorithm 1, equations 2 to 5; the scaler of section 3.2, the masked loss of 3.3."""
    made, w, found, folder = run(*chosen)
    scaler = "federation.arguments.scaler=false" not in chosen
    widths = set()
    for number in (1, 2, 3):
        change = {name: np.zeros(array.shape) for name, array in w.items()}
        weight = {name: np.zeros(array.shape) for name, array in w.items()}
        sent = 0
        for client in made.cohorts.draw(made.engine, number, 0):
            name = made.algorithm.network_of(client, number)
            units = {"": 16, "0.5": 8, "0.25": 4}[name]
            widths.add(units)
            sent += 4 * (64 * units + units + units * 10 + 10)
            places = {W1: np.s_[:units], B1: np.s_[:units], W2: np.s_[:, :units], B2: np.s_[:]}
            part = {key: w[key][place] for key, place in places.items()}
            after, own = _descend(made, number, client, part, 16 / units if scaler else 1.0, masked=masked)
            size = len(made.dataset.client(client))
            for key, place in places.items():
                held = np.ones(after[key].shape) * (
                    own.reshape(-1, *[1] * (after[key].ndim - 1)) if key in (W2, B2) else 1
                )
                change[key][place] += size * held * (after[key] - part[key])
                weight[key][place] += size * held
        w = {key: w[key] + change[key] / np.maximum(weight[key], 1) for key in w}
        assert list(read_lines(folder.metrics))[number - 1]["bytes_up"] == sent
    assert widths == {16, 8, 4}
    assert all(np.allclose(found[key], w[key], atol=1e-6) for key in w)


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(run, tmp_path, make_experiment):
    chosen = ["federation.arguments.change=true", "training.momentum=0.5", "federation.cohort=4"]
    _, _, whole, _ = run(*chosen)
    run(*chosen, "federation.rounds=2", name="parts")
    experiment = make_experiment(*QUICK, *chosen)
    dataset = load(experiment.data, 0)
    again = Coordinator(
        experiment, dataset, build(experiment.model, dataset.shape, 10, 0), RunFolder(tmp_path / "parts")
    )
    after = again.run().weights
    assert all(np.array_equal(after[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("algorithm", "unit"), [pytest.param("heterofl", "example", marks=pytest.mark.long), ("fjord", "client")]
)
def test_noise_by_the_server_goes_to_all_that_anybody_has(run, algorithm, unit):
    """Of a released mean nobody may tell who took part: the shares of all clients stand for the cohort's."""
    chosen = [
        f"federation.algorithm={algorithm}",
        f"privacy.unit={unit}",
        "privacy.noise=server",
        "federation.rounds=1",
    ]
    chosen += ["privacy.epsilon=100", "privacy.clip=0.1", "federation.selector=uniform", "privacy.sample_rate=1"]
    made, first, found, _ = run(*chosen)
    assert made.algorithm.reads == "sum"
    moved = {name: np.abs(found[name] - first[name]) for name in first}
    assert all(np.isfinite(found[name]).all() for name in found)
    assert moved[W1][:4].max() > 1e-4
    shares = made.algorithm._of_everyone(6)[B1]
    assert np.allclose(shares, [1] * 4 + [2 / 3] * 4 + [1 / 3] * 8)


def test_a_released_mean_is_taken_for_what_all_have():
    method = HeteroFL(HeteroFLSettings(widths=[1.0, 0.5]))
    method.prepare(Model(name="mlp", arguments={"hidden": [4]}), (3,), _build, released=True, seed=0)
    before = {name: np.ones(shape, np.float32) for name, shape in method.shapes.items()}
    ask = Ask({"weights": method.part(before, "0.5")})
    moved = {name: array + 1 for name, array in ask.bundles["weights"].items()}
    whole = method.whole(Update({"weights": moved}), ask, before).bundles["weights"]
    assert whole[B1].tolist() == [2, 2, 1, 1]
    mean = {name: (whole[name] + 2) / 2 for name in whole}  # beside a client of full width that moved by one too
    after = method.merge(State({"weights": before}), Aggregate({"weights": mean}, {}, 2, 2), 1)
    assert all((array == 2).all() for array in after.bundles["weights"].values())


def _build(section):
    return build(section, (3,), 2, 0)


def test_what_is_delivered_gives_by_itself_what_clients_trained(run):
    made, _, found, _ = run("model.name=cnn", "model.arguments={channels=[8, 16]}", shared=QUICK[3:])
    x = torch.from_numpy(made.dataset.test.x[:20])
    for name, (section, weights) in made.algorithm.delivered(found).items():
        delivered = build(section, made.dataset.shape, 10, 0).eval()
        load_weights(delivered, weights)
        trained = rebuilt(build(section, made.dataset.shape, 10, 0), made.dataset.shape, made.algorithm.changes[name])
        load_weights(trained, made.algorithm.part(found, name))
        assert torch.allclose(delivered(x), trained.eval()(x), atol=1e-4)
        assert not torch.allclose(delivered(x), trained(2 * x), atol=1e-2)


@pytest.mark.parametrize(("name", "arguments"), [("mlp", {}), ("dscnn", {"channels": [32, 64]}), ("cnn", {})])
def test_fjord_leaves_out_what_narrower_networks_lack(name, arguments):
    sections = [Model(name=name, arguments=arguments, width=width) for width in (2.0, 1.0, 0.5)]
    whole, *narrower = [build(section, (1, 8, 8), 10, 0) for section in sections]
    x = torch.rand(5, 1, 8, 8)
    assert problem_with_order(whole, narrower, x) == ""
    made = ordered(build(sections[0], (1, 8, 8), 10, 0), counts(whole, narrower)).train()
    seen = []
    first = next(layer for layer in made.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    first.register_forward_hook(
        lambda layer, inputs, out: seen.append(
            int((out.flatten(2).abs().sum((0, 2)) > 0).sum()) if out.dim() == 4 else int((out.abs().sum(0) > 0).sum())
        )
    )
    for _ in range(300):
        made(x)
    # Each width has the same chance (Horvath et al. 2021, section 3.1).
    widths, drawn = np.unique(seen, return_counts=True)
    assert len(widths) == 3
    assert stats.chisquare(drawn).pvalue > 1e-3
    made.eval()(x)
    assert seen[-1] == widths[-1]


def test_fjords_clients_draw_alike_alone_and_together(run):
    chosen = ["federation.algorithm=fjord", "training.momentum=0.5", "training.learning_rate=0.03"]
    *_, together, _ = run(*chosen)
    *_, alone, _ = run(*chosen, "training.trainer=one-by-one", name="alone")
    *_, other, _ = run(*chosen, "federation.algorithm=heterofl", name="other")
    assert all(np.allclose(together[name], alone[name], atol=1e-5) for name in alone)
    assert not np.allclose(together[W1], other[W1], atol=1e-3)


class Same(Transform):
    pass


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["federation.arguments.widths=[0.5, 1.0]"], "widths = [0.5, 1.0] must fall from 1"),
        (["federation.arguments.shares=[1.0]"], "shares are 1, but there are 3 widths"),
        (["federation.arguments.widths=[1.0, 0.98]"], "is as large as the one before it"),
        (
            ["federation.arguments.memory_mb=[9, 8, 7]", 'federation.arguments.profiles=["no-such-board"]'],
            "no-such-board",
        ),
        (
            ["federation.arguments.memory_mb=[9, 8, 7]", 'federation.arguments.profiles=["cortex-m7"]'],
            "does not say its mem",
        ),
        (['federation.arguments.profiles=["raspberry-pi-4"]'], "profiles are for memory_mb"),
        (['model.only=["layers.3"]'], "model.only keeps layers as they are"),
        (["federation.algorithm=fjord", "model.norm=group"], "mixes the channels that are left out"),
        (["federation.algorithm=fjord", "training.trainer=litert"], "FjORD draws a width at each step"),
        (["federation.arguments.masked=true", "training.trainer=litert"], "masked needs torch"),
        (["federation.arguments.masked=true", "privacy.unit=client"], "own classes"),
        (["split.cut=layers.2"], "clients do more than train one network"),
        (["serve.statistics_every=1"], "serve.statistics_every"),
        (["federation.arguments.masked=true", "training.weight_decay=0.1"], "training.weight_decay moves the rows"),
        (["model.name=cnn", "model.arguments={channels=[-3, 8]}"], "channels are [-3, 8]"),
        (['federation.transforms=["tests.algorithms.test_widths:Same"]'], "updates of one shape"),
    ],
)
def test_what_does_not_go_is_one_clear_line(run, chosen, message):
    with pytest.raises(EdgekitError) as caught:
        run(*chosen)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Normed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, int(16 * width)), nn.BatchNorm1d(int(16 * width)))
        self.head = nn.Linear(int(16 * width), 10)

    def forward(self, x):
        return self.head(self.layers(x))


class Rigid(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [("Normed", "running statistics, as of 'layers.2."), ("Rigid", "as large as the one before it")],
)
def test_networks_of_which_there_are_no_slices(run, network, message):
    with pytest.raises(ExperimentError, match=message):
        run(f"model.name=tests.algorithms.test_widths:{network}", shared=QUICK[3:])


@pytest.mark.parametrize(
    ("name", "shape", "corners"),
    [
        ("mobilenetv2", (1, 16, 16), True), ("mixer", (1, 16, 16), True), ("s4d", (12, 8), True),
        ("gru", (12, 8), False), ("mingru", (12, 8), False), ("vit", (1, 16, 16), False),
        ("shufflenet", (1, 16, 16), False),
    ],
)  # fmt: skip
def test_gates_heads_and_shuffled_channels_are_no_corners(name, shape, corners):
    whole, half = (build(Model(name=name, width=width), shape, 10, 0) for width in (1.0, 0.5))
    assert is_corner(whole, half, torch.rand(4, *shape)) == corners
    method = HeteroFL(HeteroFLSettings(widths=[1.0, 0.5]))

    def made(section):
        return build(section, shape, 10, 0)

    if corners:
        method.prepare(Model(name=name), shape, made, released=False, seed=0)
        return
    with pytest.raises(ExperimentError, match="gates, heads or channels"):
        method.prepare(Model(name=name), shape, made, released=False, seed=0)


def test_what_nobody_has_gets_no_noise_and_real_nodes_count_as_they_are():
    method = HeteroFL(HeteroFLSettings(widths=[1.0, 0.5], memory_mb=[1000, 0]))
    method.prepare(Model(name="mlp", arguments={"hidden": [4]}), (3,), _build, released=True, seed=0)
    before = {name: np.ones(shape, np.float32) for name, shape in method.shapes.items()}
    mean = {name: w + 1 for name, w in before.items()}

    def merged():
        after = method.merge(State({"weights": before}), Aggregate({"weights": mean}, {}, 2, 9), 1)
        return after.bundles["weights"][B1].tolist()

    for node in (7, 8):
        method.assign(node, {"memory": 500})
    assert merged() == [2, 2, 1, 1]  # of the second half there is noise alone
    method.assign(9, {"memory": 4000})
    method.assign(10, {"memory": 4000})
    assert merged() == [2, 2, 3, 3]
    assert method.bytes_of_everyone(4) == 4 * (method_size(4) + method_size(2)) / 2


def method_size(units):
    return 3 * units + units + units * 2 + 2


def test_bytes_do_not_tell_who_took_part(run):
    chosen = ["privacy.unit=client", "privacy.noise=server", "privacy.epsilon=50", "federation.cohort=2"]
    made, _, _, folder = run(*chosen, "federation.rounds=4")
    each = made.algorithm.bytes_of_everyone(6)
    lines = list(read_lines(folder.metrics))
    assert [line["bytes_down"] for line in lines] == [round(line["cohort"] * each) for line in lines]
    assert [line["bytes_up"] for line in lines] == [round(line["replies"] * each) for line in lines]


@pytest.mark.parametrize(
    "step",
    [
        {"step": "scale", "by": {"layers.9": 2.0}},
        {"step": "scale", "by": {"layers.1": float("nan")}},
        {"step": "scale", "by": {"layers.1": 0.0}},
        {"step": "scale", "by": [1]},
        {"step": "ordered", "outputs": {"layers.1": [16, 99]}},
        {"step": "ordered", "outputs": {"layers.1": [16, 8], "layers.3": [10]}},
        {"step": "ordered", "outputs": {}},
        {"step": "ordered"},
    ],
)
def test_a_strange_record_of_a_slice_is_refused(step):
    with pytest.raises(ModelError):
        rebuilt(build(Model(name="mlp", arguments={"hidden": [16]}), (64,), 10, 0), (64,), [step])


def test_a_ladder_forgets_what_it_drew():
    ladder = Ladder({"a": [4, 2]})
    ladder.begin(nn.Linear(1, 1).train(), (torch.ones(1, 1),))
    assert ladder._drawn is not None
    ladder.end(nn.Linear(1, 1), (), None)
    assert ladder._drawn is None
