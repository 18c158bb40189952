"""Training in parts: the same to the bit as in one piece, where it is the same computation."""

import numpy as np
import pytest
import torch

from edgekit.algorithms.interactive import trained_alike
from edgekit.algorithms.split.device import half
from edgekit.algorithms.split.messages import Backward, Forward, Gradient
from edgekit.algorithms.split.server import SplitServer, split_cohort
from edgekit.algorithms.split.settings import Split
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import Examples
from edgekit.errors import ModelError, RefusedError
from edgekit.models import build
from edgekit.models.cut import CutModel
from edgekit.models.settings import Model

WORK = (
    LocalSettings(batch_size=8, epochs=2, learning_rate=0.1),
    LocalSettings(batch_size=5, momentum=0.9, proximal_mu=0.1, learning_rate=0.1),
)
NETWORKS = {
    "dscnn": (Model(name="dscnn", norm="group", width=0.5), "layers.5", "layers.1"),
    "mlp": (Model(name="mlp"), "layers.2", "layers.1"),
    "mobilenetv2": (Model(name="mobilenetv2", width=0.25), "layers.5", "layers.2"),
}


def tasks(blocks):
    return [LocalTask(block, np.random.default_rng(k), np.random.default_rng(0)) for k, block in enumerate(blocks)]


@pytest.fixture(params=NETWORKS)
def network(request):
    settings, behind, before = NETWORKS[request.param]
    return build(settings, (1, 8, 8), 10, 0), behind, before


def _train(model, data, digits, settings, **split):
    trainer = split_cohort(Split(**split), model, digits)
    return trainer, trained_alike(half, trainer, state(model), settings, tasks(data))


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("work", WORK)
def test_one_client_trains_as_in_one_piece_to_the_bit(network, labels, work, blocks, digits):
    model, cut, _ = network
    data = blocks(21)
    _, (ours,) = _train(model, data, digits, work, cut=cut, labels=labels)
    theirs = TorchTrainer(model).train(Train(state(model), work), tasks(data)[0])
    assert list(ours.arrays) == list(theirs.arrays)
    assert same(ours.arrays, theirs.arrays)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert ours.examples == theirs.examples


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_a_half_for_each_is_federated_averaging(network, order, blocks, digits):
    model, cut, _ = network
    data = blocks(21, 9, 30)
    _, ours = _train(model, data, digits, WORK[0], cut=cut, halves="each", order=order)
    for update, task in zip(ours, tasks(data), strict=True):
        assert same(update.arrays, TorchTrainer(model).train(Train(state(model), WORK[0]), task).arrays)


def test_a_shared_half_learns_from_all(network, blocks, digits):
    model, cut, _ = network
    data = blocks(21, 9, 30)
    trainer, parallel = _train(model, data, digits, WORK[0], cut=cut)
    _, sequential = _train(model, data, digits, WORK[0], cut=cut, order="sequential")
    names = list(trainer.server.weights(0))
    for updates in (parallel, sequential):
        for name in names:
            assert np.array_equal(updates[0].arrays[name], updates[2].arrays[name])
    assert not same(parallel[0].arrays, sequential[0].arrays)
    # One after the other is one client whose server's part was already trained by those before.
    first = trained_alike(
        half,
        split_cohort(Split(cut=cut), model, digits),
        state(model),
        WORK[0],
        tasks(data)[:1],
    )[0]
    device = set(first.arrays) - set(names)
    assert same(sequential[0].arrays, {name: first.arrays[name] for name in device})


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("codec", ["float16", "int8", "top-k"])
def test_what_codecs_lose_costs_little_and_saves_bytes(labels, codec, blocks, digits):
    settings, cut, _ = NETWORKS["dscnn"]
    model = build(settings, (1, 8, 8), 10, 0)
    data = [Examples(digits.test.x[:200], digits.test.y[:200])]
    whole, (exact,) = _train(model, data, digits, WORK[0], cut=cut, labels=labels)
    cheap, (coded,) = _train(model, data, digits, WORK[0], cut=cut, labels=labels, codec=codec)
    assert not same(coded.arrays, exact.arrays)
    assert coded.loss == pytest.approx(exact.loss, rel=0.05 if codec != "top-k" else 0.3)
    up, down = whole.take_traffic()
    share = {"float16": 0.5, "int8": 0.25, "top-k": 0.2}[codec]
    found_up, found_down = cheap.take_traffic()
    assert found_up / up == pytest.approx(share, abs=0.05)
    assert found_down / down == pytest.approx(share, abs=0.05)
    assert whole.take_traffic() == (0, 0)


@pytest.mark.parametrize("labels", ["device", "server"])
def test_a_window_makes_gradients_older_by_as_much_and_no_more(labels, blocks, digits):
    settings, cut, _ = NETWORKS["mlp"]
    model = build(settings, (1, 8, 8), 10, 0)
    data = [Examples(digits.test.x, digits.test.y)]
    work = LocalSettings(batch_size=16, epochs=2, learning_rate=0.1)
    losses = {}
    for window in (1, 4):
        trainer = split_cohort(Split(cut=cut, labels=labels, window=window), model, digits)
        under_way, most = 0, 0
        answer = trainer.server.answer

        def counted(client, message, answer=answer):
            nonlocal under_way, most
            under_way += isinstance(message, Forward)
            most = max(most, under_way)
            found = answer(client, message)
            under_way -= isinstance(found, Gradient)
            return found

        trainer.server.answer = counted
        losses[window] = trained_alike(half, trainer, state(model), work, tasks(data))[0].loss
        assert most == (window if labels == "device" else 1)
    assert losses[4] != losses[1]
    assert losses[4] == pytest.approx(losses[1], rel=0.1)


def test_cuts_that_do_not_exist_or_split_a_residual_are_told(digits):
    settings, _, _ = NETWORKS["mobilenetv2"]
    model = build(settings, (1, 8, 8), 10, 0)
    cuts = CutModel(model, (1, 8, 8))
    residual = next(name for name, block in model.named_modules() if getattr(block, "residual", False))
    for cut, tail, problem in (
        ("layer.5", "", r"there is no layer 'layer.5' to cut behind; did you mean 'layers.5'\?"),
        (f"{residual}.layers.1", "", "would split a residual"),
        ("layers", "", "nothing is left behind 'layers'"),
        ("layers.5", "layers.3", "not in the order"),
        ("layers.5", "layers.5", "nothing is left for the server"),
        (cuts.cuts[-1].name, "", "nothing is left for the server"),
        (cuts.cuts[-2].name, "", "nothing is left for the server to learn behind"),
    ):
        with pytest.raises(ModelError, match=problem):
            split_cohort(Split(cut=cut, tail=tail), model, digits)
    assert residual in [cut.name for cut in cuts.cuts]
    mlp = build(NETWORKS["mlp"][0], (1, 8, 8), 10, 0)
    with pytest.raises(ModelError, match="the examples themselves would be sent"):
        split_cohort(Split(cut="layers.0"), mlp, digits)  # which only flattens them


def test_every_cut_gives_parts_that_are_the_network(network):
    model, _, _ = network
    cuts = CutModel(model.eval(), (1, 8, 8))
    x = torch.randn(3, 1, 8, 8)
    for cut in cuts.cuts:
        first, second = cuts.parts([cut.name])
        middle = first(x)
        assert tuple(middle.shape[1:]) == cut.shape
        assert torch.equal(second(middle), model(x))
        assert sum(p.numel() for p in first.parameters()) == cut.parameters
        assert {**first.state_dict(), **second.state_dict()}.keys() == model.state_dict().keys()


class Ordinary(torch.nn.Module):
    """What users bring: batch norms, dropout, layers in place, constants, buffers that are not kept."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first = torch.nn.Linear(64, 16)
        self.act = torch.nn.ReLU(inplace=True)
        self.norm = torch.nn.BatchNorm1d(16)
        self.drop = torch.nn.Dropout(dropout)
        self.last = torch.nn.Linear(16, 10)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, x):
        x = self.act(self.first(x.flatten(1)))
        return self.last(self.drop(self.norm(x * self.scale + torch.tensor(0.25))))


@pytest.mark.parametrize("cut", ["first", "act", "norm"])
def test_networks_of_users_train_as_in_one_piece(cut, blocks, digits):
    torch.manual_seed(0)
    model = Ordinary(0.0).eval()  # as networks are built
    before = list(vars(model))
    data = blocks(24)
    for labels in ("device", "server") if cut != "norm" else ("server",):  # behind which only the last layer learns
        _, (ours,) = _train(model, data, digits, WORK[0], cut=cut, labels=labels)
        held = state(model)
        weights = {name: held[name] for name, _ in model.named_parameters()}
        asked = Train(weights, WORK[0], buffers={name: held[name] for name in held if name not in weights})
        whole = TorchTrainer(model).train(asked, tasks(data)[0])
        assert same(ours.arrays, {**whole.arrays, **whole.buffers})
    assert list(vars(model)) == before
    assert not model.training


def test_layers_that_draw_do_so_and_repeat_with_the_seed(blocks, digits):
    torch.manual_seed(0)
    model = Ordinary(0.5)
    data = blocks(24, 16)
    found = [_train(model, data, digits, WORK[0], cut="act")[1] for _ in range(2)]
    assert same(found[0][1].arrays, found[1][1].arrays)
    model.drop.p = 0.0
    assert not same(_train(model, data, digits, WORK[0], cut="act")[1][1].arrays, found[0][1].arrays)


def test_networks_that_cannot_be_cut_say_why():
    tied = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    tied[1].weight = tied[0].weight

    class Deciding(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Asserting(torch.nn.Module):
        def forward(self, x):
            assert isinstance(x, torch.Tensor)
            return x

    for model, problem in (
        (tied, "'0.weight' and '1.weight' are one and the same tensor"),
        (Deciding(), "cannot be followed"),
        (Asserting(), "cannot be followed"),
        (torch.nn.Linear(8, 8), "no two layers"),
    ):
        with pytest.raises(ModelError, match=problem):
            CutModel(model, (8,))


def test_what_does_not_fit_the_step_is_refused(digits):
    settings, cut, _ = NETWORKS["mlp"]
    model = build(settings, (1, 8, 8), 10, 0)
    trainers = [split_cohort(Split(cut=cut, labels=labels), model, digits) for labels in ("device", "server")]
    device, server = (trainer.server for trainer in trainers)
    x, y = np.zeros((4, 64), np.float32), np.zeros(4, np.int64)
    for made in (device, server):
        made.begin(state(model), WORK[0], 0)
    for made, message, problem in (
        (device, Forward(1, x[:, :3], None), "activations have shape"),
        (device, Forward(1, x, y), "labels stay with the device"),
        (server, Forward(1, x, None), "labels belong to the server"),
        (server, Forward(1, x, y[:2]), "one for each example"),
        (server, Forward(1, x, y + 10), "below 10"),
        (device, Forward(1, np.zeros((9, 64), np.float32), None), "at most 8 examples"),
        (device, Backward(1, x), "has no activation that waits"),
    ):
        with pytest.raises(RefusedError, match=problem):
            made.answer(0, message)
    output = device.answer(0, Forward(1, x, None))
    with pytest.raises(RefusedError, match="more than 1 batches"):
        device.answer(0, Forward(2, x, None))
    with pytest.raises(RefusedError, match="has no activation that waits"):
        device.answer(1, Backward(1, output.activation))  # another client's
    with pytest.raises(RefusedError, match="a gradient has shape"):
        device.answer(0, Backward(1, output.activation[:2]))
    assert isinstance(device.answer(0, Backward(1, output.activation)), Gradient)
    assert isinstance(device, SplitServer)
