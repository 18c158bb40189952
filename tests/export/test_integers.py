"""Integer files are right where ranges are not: units that are off, filters of zeros, rare values; and by layer."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import ExportError
from edgekit.export.convert import as_inputs, to_float32
from edgekit.export.equalise import equalised
from edgekit.export.quantise import quantise, worst_layer
from edgekit.export.sensitivity import named, signal_to_noise
from edgekit.export.tflite import Subject, as_device, export
from edgekit.export.verify import run_examples
from edgekit.models import build
from edgekit.models.settings import Model

X = np.random.default_rng(0).random((24, 4), np.float32)


def linear(weight, bias):
    layer = nn.Linear(4, 4)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def zero_row():
    layer = linear(0.5, 0.0)
    with torch.no_grad():
        layer.weight[1], layer.bias[1] = 0.0, 3.0
    return layer


def nearly_off():
    return nn.Sequential(linear(-1.0, 1e-4), nn.ReLU(), linear(0.1, 3.0))


OFF = {
    # LiteRT 2.3 refused it (XNNPACK): the ReLU's range is 0 to 0.
    "a layer that is off": lambda: nn.Sequential(linear(-1.0, 0.0), nn.ReLU()),
    # 0 instead of 3 in tflite-runtime, without a word.
    "before another": lambda: nn.Sequential(linear(-1.0, 0.0), nn.ReLU(), linear(1.0, 3.0)),
    # LiteRT ended the process: double free.
    "behind floats": lambda: nn.Sequential(
        linear(1.0, 0.0), nn.Sigmoid(), linear(-1.0, 0.0), nn.ReLU(), linear(1.0, 3.0)
    ),
    # Wrong by all there is in both, without a word.
    "nearly off": nearly_off,
    "a row of zeros": zero_row,
}


def error_of(network, preset, x, shape, runtime, **more):
    content = quantise(to_float32(network.eval(), shape), preset, as_inputs(shape, as_device(x)), **more)
    with torch.no_grad():
        right = network(torch.from_numpy(x)).numpy()
    found = run_examples(content, as_device(x), runtime).scores
    return np.abs(found - right).max() / max(1e-6, np.abs(right).max())


@pytest.mark.parametrize("name", OFF)
def test_what_is_off_breaks_no_file(name, old_runtime):
    network = OFF[name]()
    with torch.no_grad():
        silent = not network(torch.from_numpy(X)).any()
    for runtime in ("ai-edge-litert", old_runtime):
        error = error_of(network, "int8", X, (4,), runtime)
        assert error <= (0.01 if silent else 0.02), (runtime, error)


class Gated(nn.Module):
    """A squeeze-excite block whose squeezed units are off, as happens to four of four."""

    def __init__(self):
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.out = nn.Linear(8, 5)
        nn.init.constant_(self.squeeze.bias, -9.0)

    def forward(self, x):
        h = nn.functional.silu(self.conv(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.mean((2, 3), keepdim=True)))))
        return self.out((h + h * gate).mean((2, 3)))


def test_a_block_with_a_gate_that_is_off_is_right_in_both_runtimes(old_runtime):
    torch.manual_seed(0)
    network, x = Gated(), np.random.default_rng(1).random((24, 1, 8, 8), np.float32)
    for runtime in ("ai-edge-litert", old_runtime):
        assert error_of(network, "int8", x, (1, 8, 8), runtime) < 0.05


def test_sixteen_bits_are_nearer_than_eight(old_runtime):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5)), X[:, [0, 1, 2, 3, 0, 1]].copy()
    for runtime in ("ai-edge-litert", old_runtime):
        assert error_of(network, "int16", x, (6,), runtime) < 0.5 * error_of(network, "int8", x, (6,), runtime)


def test_a_range_without_the_rarest_values_is_finer_for_the_others():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))
    x = np.concatenate([X, 60 * X[:1]])  # one example far from all others
    content = [
        quantise(to_float32(network, (4,)), "int8", as_inputs((4,), x), percentile=percentile)
        for percentile in (100.0, 96.0)
    ]
    with torch.no_grad():
        right = network(torch.from_numpy(X)).numpy()
    whole, most = (np.abs(run_examples(one, X).scores - right).mean() for one in content)
    assert most < whole


class Spread(nn.Module):
    """One layer in which integers lose nearly everything: one channel is ten thousand times the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.bad, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        with torch.no_grad():
            self.bad.weight[0] *= 1e4
            self.out.weight[:, 0] /= 1e4

    def forward(self, x):
        return self.out(self.bad(torch.tanh(self.first(x))))


def test_the_layer_that_costs_most_is_named_and_a_mixed_file_leaves_it_in_float(tmp_path):
    network, shape = Spread().eval(), (4,)
    inputs, float32 = as_inputs(shape, X), to_float32(network, shape)
    worst = worst_layer(float32, "int8", inputs)
    assert worst.layer in ("bad (Linear)", "out (Linear)")  # one writes what the other reads
    assert worst.decibels < 20
    told = []
    mixed = quantise(float32, "int8-mixed", inputs, on_notice=told.append)
    assert told
    assert "stays in float32" in told[0]
    with torch.no_grad():
        right = network(torch.from_numpy(X)).numpy()
    of_mixed, of_int8 = (
        signal_to_noise(right, run_examples(one, X).scores) for one in (mixed, quantise(float32, "int8", inputs))
    )
    assert of_mixed > 28 > of_int8
    again = []
    assert quantise(float32, "int8-mixed", inputs, on_notice=again.append) == mixed  # from the cache
    assert again == told
    subject = Subject(network, shape, X, right.argmax(1), X, list("abcde"), None)
    with pytest.raises(ExportError, match=r"lost; layer (bad|out) \(Linear\) costs most, .* dB: preset int8-mixed"):
        export(subject, ["int8"], tmp_path, {}, 0.001)
    assert export(subject, ["int8-mixed"], tmp_path, {}, 0.05)["int8-mixed"].score >= 0.95


def test_a_network_without_such_layers_is_integers_throughout(digits):
    network = build(Model(name="dscnn", norm="group", arguments={"channels": [8]}), (1, 8, 8), 10, 0)
    network.load_state_dict({k: v + 0.1 * torch.randn_like(v) for k, v in network.state_dict().items()})
    told, x = [], as_device(digits.calibration.x[:40])
    float32 = to_float32(network, (1, 8, 8))
    mixed = quantise(float32, "int8-mixed", as_inputs((1, 8, 8), x), on_notice=told.append)
    plain = quantise(float32, "int8", as_inputs((1, 8, 8), x))
    if not told:
        assert np.array_equal(run_examples(mixed, x[:5]).scores, run_examples(plain, x[:5]).scores)
    assert len(told) <= 2


class Branches(nn.Module):
    """Layers that may be equalised, and some that may not: called twice, read by two, or with a ReLU6 between."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)
        self.twice, self.capped, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        with torch.no_grad():
            for layer in (self.a, self.b, self.c, self.twice, self.capped):
                layer.weight *= torch.logspace(-2, 2, 8).reshape(-1, *[1] * (layer.weight.dim() - 1))

    def forward(self, x):
        h = torch.relu(self.c(torch.relu(self.b(nn.functional.relu(self.a(x)))))).mean((2, 3))
        h = torch.relu(self.twice(torch.relu(self.twice(h))))
        return self.out(nn.functional.relu6(self.capped(h)))


def test_equalised_channels_have_like_ranges_and_the_same_answers():
    torch.manual_seed(0)
    network, x = Branches().eval(), torch.rand(4, 1, 8, 8)
    made, changed = equalised(network)
    assert changed == 2  # a to b, b to c
    with torch.no_grad():
        right = network(x)
        assert torch.allclose(made(x), right, atol=1e-5 * float(right.abs().max()))
    for layer in (made.a, made.b):
        largest = layer.weight.detach().abs().flatten(1).amax(1)
        assert largest.max() / largest.min() < 1e3  # of 1e4
    for name in ("twice", "capped", "out"):
        assert torch.equal(getattr(made, name).weight, getattr(network, name).weight)
    # Equation 11: after it, what one layer gives a channel is as large as what the next makes of it.
    first, second = (layer.weight.detach().abs() for layer in (made.b, made.c))
    assert torch.allclose(first.flatten(1).amax(1), second.amax((0, 2, 3)), rtol=0.01)


def test_equalised_files_lose_less_where_channels_differ(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    with torch.no_grad():
        scale = torch.logspace(-2, 2, 16)
        network[0].weight *= scale[:, None]
        network[0].bias *= scale
        network[2].weight /= scale
        right = network(torch.from_numpy(X)).numpy()
    subject = Subject(network, (4,), X, right.argmax(1), X, list("abcde"), None)
    plain, like = (
        export(subject, ["int8"], tmp_path, {}, 1.0, equalise=wanted)["int8"].max_abs_error for wanted in (False, True)
    )
    assert like < 0.5 * plain


def test_signal_to_noise_by_hand():
    right = np.array([3.0, 4.0])
    assert signal_to_noise(right, right) == 200
    assert signal_to_noise(right, 1.1 * right) == pytest.approx(20)
    assert signal_to_noise(right, np.zeros(2)) == pytest.approx(0)


def test_layers_are_named_by_their_modules():
    tensor = "x.convert._Signature/mine.nets.Net_model/torch.nn.modules.container.Sequential_layers/torch.nn.Conv2d_3;1"
    assert named(tensor) == "layers.3 (Conv2d)"
    assert named("serving_default_x") == "serving_default_x"
