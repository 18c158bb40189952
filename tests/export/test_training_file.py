"""The training file: every signature is torch's, step by step, in LiteRT; and what cannot be trained is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import ExportError
from edgekit.experiment import Experiment, load
from edgekit.export.convert import to_float32
from edgekit.export.metadata import describe, read_metadata
from edgekit.export.training import file as training
from edgekit.export.training.file import reference, training_file
from edgekit.export.training.steps import Options, Steps
from edgekit.export.verify import call, run_examples
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.server.engines.graphs import options_of

SMALL = {"mobilenetv2": {"stages": [[1, 16, 1, 1], [4, 24, 2, 1], [4, 24, 1, 1]], "head": 32}}
ZOO = [(name, norm) for name in ("mlp", "dscnn", "mobilenetv2") for norm in ("group", "weight-standardised", "none")]


class Everything(nn.Module):
    """What users' networks have and the zoo has not. Each element of the dilated kernel is seconds of conversion."""

    def __init__(self, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 2, padding=1)
        self.grouped = nn.Conv2d(4, 4, kernel, groups=2, dilation=2, padding=(kernel[0] - 1, kernel[1] - 1))
        self.frozen = nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)
        self.along = nn.Conv1d(12, 3, 2, stride=2)
        self.norm = nn.LayerNorm(9)
        self.out = nn.Linear(9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.first(x).relu(), 2)
        x = x + 0.5 * self.frozen(self.grouped(x))
        x = self.along(x.flatten(1, 2).repeat(1, 1, 2)).flatten(1)
        return self.out(self.norm(x))


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(8))
        self.out = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x[:, 0].clone()
        h[:, 0] = self.position
        return self.out(h.mean(1))


class Accumulated(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1)).logcumsumexp(1)


def network(name: str, norm: str) -> nn.Module:
    return build(Model(name=name, norm=norm, arguments=SMALL.get(name, {})), (1, 8, 8), 10, 0)


@pytest.mark.parametrize(("name", "norm"), ZOO)
def test_a_traced_step_is_torchs_for_every_network_of_the_zoo(name, norm):
    model = network(name, norm).train()
    steps = Steps(model, Options(4, 0.5, momentum=True, proximal=True))
    samples = training._samples(steps, (1, 8, 8), 10)
    right = reference(model, steps.options, samples)
    for signature in ("train", "train_dp", "infer", "evaluate"):
        found = getattr(steps, signature)(**samples[signature])
        for key, expected in right[signature].items():
            assert np.allclose(found[key].detach().numpy(), expected, atol=1e-5), (signature, key)


@pytest.mark.parametrize(
    ("optimiser", "decay"), [("adam", 0.0), ("adam", 0.1), ("adamw", 0.0), ("adamw", 0.1), ("sgd", 0.1)]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_traced_steps_are_those_of_torchs_optimisers(optimiser, decay, frozen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).train()
    model[0].requires_grad_(not frozen)
    steps = Steps(model, Options(4, optimiser=optimiser, decay=decay > 0))
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    theirs = kinds[optimiser]([p for p in model.parameters() if p.requires_grad], 0.05, weight_decay=decay)
    w = steps.initial()
    state = {} if optimiser == "sgd" else {"first": torch.zeros_like(w), "second": torch.zeros_like(w)}
    for number in range(1, 6):
        x, y = torch.randn(4, 6), torch.randint(0, 3, (4,))
        more = {"corrections": torch.tensor([1 / (1 - b**number) for b in (0.9, 0.999)])} if state else {}
        more |= {"decay": torch.tensor([decay])} if decay else {}
        label = nn.functional.one_hot(y, 3).float()
        found = steps.train(x, label, torch.ones(4), torch.tensor([0.05]), w, **state, **more)
        w, state = found["w"].detach(), {name: found[name].detach() for name in state}
        theirs.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        theirs.step()
        assert torch.allclose(w, steps.initial(), atol=2e-6)


@pytest.fixture(
    scope="module", params=[{"channels": [8]}, pytest.param({}, marks=pytest.mark.long)], ids=["small", "whole"]
)
def made(request, old_runtime):
    """A file that was held against torch in both runtimes. What takes time is how many layers it has."""
    model = build(Model(name="dscnn", norm="weight-standardised", arguments=request.param), (1, 8, 8), 10, 0)
    options, both = Options(8, 0.5, momentum=True), ["ai-edge-litert", old_runtime]
    content, error = training_file(model, (1, 8, 8), 10, options, {"name": "test"}, both)
    return model, content, error


def test_the_file_steps_as_torchs_optimiser_does_over_many_steps(made, digits):
    model, content, error = made
    assert error < 1e-5
    x, y = digits.test.x[:8], np.eye(10, dtype=np.float32)[digits.test.y[:8]]
    batch = {"x": x.transpose(0, 2, 3, 1).copy(), "y": y, "mask": np.ones(8, np.float32)}
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    w = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    velocity = np.zeros_like(w)
    for _ in range(5):
        step = {
            "lr": np.array([0.1], np.float32),
            "momentum": np.array([0.9], np.float32),
            "velocity": velocity,
            "w": w,
        }
        (result,) = call(content, [("train", {**batch, **step})])
        w, velocity = result["w"], result["velocity"]
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(digits.test.y[:8]))
        loss.backward()
        optimiser.step()
        assert abs(float(result["loss"]) - float(loss)) < 1e-5
        ours = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
        assert np.abs(w - ours).max() < 1e-5


def test_the_file_says_what_a_trainer_needs_to_know(made):
    facts = read_metadata(made[1])
    assert (facts["kind"], facts["batch"], facts["clip"], facts["momentum"], facts["proximal"], facts["name"]) == (
        "training", 8, 0.5, True, False, "test"
    )  # fmt: skip
    assert [p["name"] for p in facts["parameters"]] == [name for name, _ in made[0].named_parameters()]


class Everyday(nn.Module):
    """`view` after a convolution, as in PyTorch's first tutorials, and a normalisation that nothing ever changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.conv, self.pool, self.out = nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.Linear(54, 4)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv((x - self.mean) / 0.25)))
        return self.out(x.view(-1, 54))


@pytest.mark.long
def test_everyday_torch_becomes_a_file_that_trains_and_one_that_classifies():
    torch.manual_seed(0)
    model = Everyday()
    content, error = training_file(model, (3, 8, 8), 4, Options(2, 0.5), {})
    assert error < 1e-5
    assert [p["name"] for p in read_metadata(content)["parameters"]] == [name for name, _ in model.named_parameters()]
    x = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
    ran = run_examples(to_float32(model.eval(), (3, 8, 8)), x.transpose(0, 2, 3, 1).copy())
    with torch.no_grad():
        assert np.allclose(ran.scores, model(torch.from_numpy(x)).numpy(), atol=1e-5)


@pytest.mark.long  # two conversions of a minute each
@pytest.mark.parametrize("kernel", [(1, 2), (2, 2)])
def test_a_users_network_with_grouped_and_one_dimensional_convolutions_and_frozen_weights(kernel):
    torch.manual_seed(0)
    model = Everything(kernel)
    content, error = training_file(model, (1, 6, 6), 10, Options(2, 0.5), {})
    assert error < 1e-5
    frozen = {"name": "frozen.weight", "shape": [4, 4, 1, 1], "trainable": False}
    assert read_metadata(content)["parameters"][4] == frozen


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (nn.BatchNorm2d(1), r"layer '1' \(BatchNorm2d\) mixes the examples of a batch"),
        (nn.Dropout(0.3), r"layer '1' \(Dropout\) draws random numbers"),
    ],
)
def test_a_layer_that_cannot_be_trained_in_a_file_is_named(layer, complaint):
    model = nn.Sequential(nn.Identity(), layer, nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ExportError, match=complaint):
        training_file(model, (1, 8, 8), 10, Options(2), {})


class InPlace(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x.flatten(1)).relu()
        x += 1
        return x


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(64, 10)
        self.two = nn.Linear(64, 10)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x.flatten(1)) + self.two(x.flatten(1))


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (InPlace(64, 10), "torch itself cannot train the network: one of the variables"),
        (Tied(), "parameter 'two.weight' is another name of a shared one"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False), "no parameters that can be trained"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(), r"parameter '1.weight' is torch.float64"),
    ],
)
def test_a_network_that_cannot_be_traced_or_held_is_refused_in_one_line(model, complaint):
    with pytest.raises(ExportError, match=complaint):
        training_file(model, (1, 8, 8), 10, Options(2), {})


def test_the_check_sees_the_clipped_gradients_whatever_the_bound():
    model = network("mlp", "none")
    for clip in (1e-3, 1.0, 100.0):
        samples = training._samples(Steps(model, Options(4, clip)), (1, 8, 8), 10)
        right = reference(model, Options(4, clip), samples)["train_dp"]["w"]
        noise = samples["train_dp"]["noise"] * samples["train_dp"]["lr"]
        assert np.abs(right - (samples["train_dp"]["w"] - noise).numpy()).max() > 1e-3


def test_a_parameter_whose_examples_gradients_are_not_known_is_named():
    with pytest.raises(ExportError, match="parameter 'position' is used in a way.*--no-private"):
        training_file(Written(), (1, 8, 8), 10, Options(2), {})
    content, error = training_file(network("mlp", "none"), (1, 8, 8), 10, Options(2, private=False), {})
    assert error < 1e-5
    assert "train_dp" not in describe(content)["signatures"]


def test_an_operator_whose_gradient_has_no_form_is_named():
    model = Accumulated(64, 10)
    with pytest.raises(ExportError, match=r"cannot be converted: aten\.\S+ has no TFLite form"):
        training_file(model, (1, 8, 8), 10, Options(2, private=False), {})


def test_a_file_whose_steps_are_not_torchs_is_refused(monkeypatch):
    right = training.reference

    def wrong(*arguments):
        expected = right(*arguments)
        expected["train_dp"]["w"] = expected["train_dp"]["w"] + 1e-3
        return expected

    monkeypatch.setattr(training, "reference", wrong)
    with pytest.raises(
        ExportError, match=r"in ai-edge-litert the training graph's w of train_dp differs from torch's by 0\.00(1|099)$"
    ):
        training_file(network("mlp", "group"), (1, 8, 8), 10, Options(8, 0.5, momentum=True, proximal=True), {})


def test_an_experiments_settings_decide_what_the_file_can_do():
    experiment = Experiment.model_validate(
        {
            "training": {"momentum": 0.9, "batch_size": 32},
            "federation": {"strategy": "FedProx"},
            "privacy": {"clip": 0.3},
        }
    )
    assert options_of(experiment, proximal=True, drift=False) == Options(32, 0.3, True, True)
    assert options_of(Experiment(), proximal=False, drift=True) == Options(16, 1.0, drift=True)
    adaptive = load(None, ["training.optimiser=adamw", "training.weight_decay=0.01"])
    made = options_of(adaptive, proximal=False, drift=False)
    assert (made.optimiser, made.decay) == ("adamw", True)
