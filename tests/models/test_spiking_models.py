"""Networks for spikes: QCFS by its equation, surrogate gradients as snnTorch has them, spiking networks of the zoo."""

import numpy as np
import pytest
import snntorch
import torch

from edgekit.errors import ModelError
from edgekit.models import build
from edgekit.models.qcfs import QCFS
from edgekit.models.settings import Model
from edgekit.models.spiking import SpikingCNN, SpikingMLP, spike


def test_qcfs_is_equation_13_of_bu_et_al():
    layer = QCFS(4, 2.0)
    x = torch.linspace(-1, 4, 401)
    wanted = 2.0 * (torch.floor(x * 4 / 2.0 + 0.5) / 4).clamp(0, 1)
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    assert len(torch.unique(layer(x))) == 5


def test_qcfs_gradients_go_straight_through_inside_the_range():
    layer = QCFS(4, 2.0)
    x = torch.tensor([-0.5, 0.3, 1.7, 2.6], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    # In x/threshold the floor is passed through: d/dt [t q(x/t)] = q - x/t inside, 1 above.
    quantised = torch.floor(x.detach() * 2 + 0.5) / 4
    inside = (quantised - x.detach() / 2)[1:3]
    assert layer.threshold.grad.item() == pytest.approx(float(inside.sum()) + 1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {}),
        ("dscnn", {}),
        ("mobilenetv2", {"stages": [[1, 16, 1, 1], [4, 24, 2, 2], [4, 24, 1, 1]], "head": 32}),
        pytest.param("mobilenetv2", {}, marks=pytest.mark.long),
    ],
)
def test_every_relu_gives_way_to_qcfs_with_a_fitted_threshold(name, arguments, digits):
    model = build(
        Model(name=name, activation="qcfs", levels=8, arguments=arguments), digits.shape, 10, 0, digits.calibration.x
    )
    layers = [layer for layer in model.modules() if isinstance(layer, QCFS)]
    assert layers
    assert not any(isinstance(layer, torch.nn.ReLU | torch.nn.ReLU6) for layer in model.modules())
    assert all(layer.levels == 8 and 0 < layer.threshold.item() < 50 for layer in layers)
    assert len({round(layer.threshold.item(), 6) for layer in layers}) > 1


def test_spikes_and_their_gradients_are_snntorchs():
    x = torch.arange(-50, 51) / 16
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    fired, wanted = spike(ours), snntorch.surrogate.atan(alpha=2.0)(theirs)
    weights = torch.linspace(0.5, 2, 101)
    (fired * weights).sum().backward()
    (wanted * weights).sum().backward()
    away = x != 0
    assert torch.equal(fired[away], wanted[away])
    assert fired[x == 0] == 1  # at the threshold ours fires
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize("decays", [(0.1, 1.0), (0.0, 1.0), (0.2, 0.5)])
def test_a_spiking_network_is_one_of_snntorchs(decays, digits):
    voltage_decay, current_decay = decays
    model = SpikingMLP((20,), 5, hidden=(12,), steps=7, voltage_decay=voltage_decay, current_decay=current_decay)
    first, readout = model.layers
    shared = {"beta": 1 - voltage_decay, "reset_mechanism": "subtract", "reset_delay": False}
    neurons = snntorch.Leaky(**shared) if current_decay == 1 else snntorch.Synaptic(alpha=1 - current_decay, **shared)
    neurons.mem_reset = torch.zeros_like
    x = 3 * torch.rand(9, 20)
    state = [torch.zeros(9, 12)] * (1 if current_decay == 1 else 2)
    total = 0
    for _ in range(7):
        fired, *state = neurons(first(x), *state)
        total = total + fired
    assert total.sum() > 20
    assert torch.allclose(model(x), readout(total / 7), atol=1e-5)


def test_frames_take_a_step_each(digits):
    model = SpikingCNN((5, 2, 12, 12), 10, channels=(4,))
    assert (model.steps, model.sequence, model.frame_shape) == (5, True, (2, 12, 12))
    x = torch.rand(3, 5, 2, 12, 12)
    assert model(x).shape == (3, 10)
    assert not torch.allclose(model(x), model(x.flip(1)))  # their order matters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpikingMLP((4,), 3, norm="group"), "no norm 'group'.*model.norm = 'none'"),
        (lambda: SpikingCNN((4,), 3), "needs images"),
        (lambda: SpikingMLP((4,), 3, voltage_decay=1.0), r"voltage_decay must be in \[0, 1\)"),
        (lambda: SpikingMLP((4,), 3, current_decay=0.0), r"current_decay in \(0, 1\]"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


def test_surrogate_gradients_train_a_spiking_network(digits):
    model = build(Model(name="spiking-mlp", arguments={"hidden": [64]}), digits.shape, 10, 0, digits.calibration.x)
    x = torch.from_numpy(np.concatenate([digits.client(i).x for i in range(20)]))
    y = torch.from_numpy(np.concatenate([digits.client(i).y for i in range(20)]))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    test = model(torch.from_numpy(digits.test.x)).argmax(1).numpy()
    assert (test == digits.test.y).mean() > 0.9
