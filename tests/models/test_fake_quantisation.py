"""Rounding while a network trains, beside the papers' equations in numpy."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.models.fake_quantisation import Call, Plan, Rounding, on_grid, plain, plan_of, quantised, rounded_weight

PLAN = Plan(((0.1, -28), (0.05, -128)), (Call("linear", 0, 8, True, 0, -1), Call("relu", 0, writes=1)))


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def _rounded(x, scale, zero):
    """Jacob et al. 2018, equation 1."""
    integers = np.clip(np.round(x / np.float32(scale)) + zero, -128, 127)
    return (integers - zero) * np.float32(scale)


def test_numbers_lie_on_their_grid_and_gradients_pass_inside_its_range():
    x = torch.linspace(-30, 30, 101).requires_grad_()
    y = Rounding(PLAN).rounded(x, 0)
    np.testing.assert_allclose(y.detach().numpy(), _rounded(x.detach().numpy(), 0.1, -28), atol=1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    inside = (x.detach() / 0.1 >= -100) & (x.detach() / 0.1 <= 155)
    assert 0 < inside.sum() < len(x)
    assert torch.equal(gradient, inside.float())


def test_a_learnt_range_has_the_gradient_of_esser():
    """Equation 3 of Esser et al. 2020, times its scale of section 2.2."""
    x, stretch = torch.randn(64) * 8, torch.ones(2, requires_grad=True)
    y = Rounding(PLAN, stretch).rounded(x, 0)
    (gradient,) = torch.autograd.grad(y.sum(), stretch)
    steps = x.numpy().astype(np.float64) / 0.1
    each = np.where(steps <= -100, -100, np.where(steps >= 155, 155, np.round(steps) - steps))
    np.testing.assert_allclose(gradient[0], each.sum() * 0.1 / np.sqrt(64 * 127), rtol=1e-3)
    assert gradient[1] == 0


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
@pytest.mark.parametrize("each", [True, False])
def test_a_weight_has_a_scale_a_row_or_one(bits, top, each):
    weight = torch.randn(4, 3, 2).requires_grad_()
    w = weight.detach().numpy()
    scale = np.abs(w).max((1, 2), keepdims=True) / top if each else np.abs(w).max() / top
    made = rounded_weight(weight, bits, each)
    np.testing.assert_allclose(made.detach().numpy(), np.round(w / scale) * scale, atol=1e-6)
    assert torch.equal(torch.autograd.grad(made.sum(), weight)[0], torch.ones_like(weight))
    np.testing.assert_allclose(rounded_weight(made.detach(), bits, each), made.detach(), atol=1e-6)


def test_a_network_rounds_as_numpy_does_and_is_the_ordinary_one_afterwards():
    model = _network()
    made, x = quantised(model, PLAN), torch.randn(6, 5) * 4
    first, last = model[0], model[2]
    weight = rounded_weight(first.weight, 8).detach().numpy()
    hidden = _rounded(x.numpy(), 0.1, -28) @ weight.T + first.bias.detach().numpy()
    hidden = _rounded(np.maximum(hidden, 0), 0.05, -128)
    wanted = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(made(x).detach().numpy(), wanted, atol=1e-4)
    assert list(made.state_dict()) == list(model.state_dict())
    assert type(plain(made)) is nn.Sequential
    assert torch.equal(plain(made)(x), model(x))
    settled = on_grid(made, x[:1])
    np.testing.assert_allclose(settled[0].weight.detach(), weight, atol=1e-6)
    assert torch.equal(settled[2].weight, model[2].weight)  # which the plan does not round
    np.testing.assert_allclose(quantised(settled, PLAN)(x).detach(), made(x).detach(), atol=1e-5)
    assert plan_of(model) is None


def test_learnt_ranges_are_told_and_left_behind():
    made = quantised(_network(), PLAN, learnt=True)
    with torch.no_grad():
        made.stretch.copy_(torch.tensor([2.0, 1.0]))
    assert plan_of(made).grids == ((0.2, -28), (0.05, -128))
    assert "stretch" not in plain(made).state_dict()


def test_a_plan_of_another_network_is_noticed():
    other = Plan(PLAN.grids, (*PLAN.calls, Call("conv2d", 0, 8)))
    with pytest.raises(ModelError, match="rounds at 3 places, and came by 2"):
        quantised(_network(), other)(torch.zeros(1, 5))


def test_integers_of_the_same_name_are_not_taken_for_the_call():
    class Indexed(nn.Module):
        def forward(self, x):
            return x[:, torch.arange(2) + 1] + x[:, :2]

    plan = Plan(((0.5, 0),), (Call("add", 0, writes=0),))
    x = torch.tensor([[0.1, 0.2, 0.4]])
    assert torch.equal(quantised(Indexed(), plan)(x), torch.tensor([[0.5, 0.5]]))


def test_a_plan_is_plain_data():
    told = json.loads(json.dumps(PLAN.told()))
    assert Plan.of(told) == PLAN
    for wrong in ({}, {**told, "grids": [[0.0, 1]]}, {**told, "given": 9}, {**told, "calls": [{"name": "x"}]},
                  {**told, "grids": [["inf", 0]]}, {**told, "calls": 3}, {**told, "grids": [[1e-320, 0], [1, 0]]},
                  *({**told, "calls": [one]} for one in (
                      {"name": [], "number": 0}, {"name": "linear", "number": 0, "reads": 0.5},
                      {"name": "relu", "number": 0, "bits": 8}, {"name": "relu", "number": -1}))):  # fmt: skip
        with pytest.raises(ModelError, match="rounds"):
            Plan.of(wrong)
