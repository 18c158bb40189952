"""Each operator of the training graph: its values and its gradients, summed and per example, are autograd's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.export.training import norms, operators, pooling
from edgekit.export.training.rules import as_images, as_map

SIDES = {"height": st.integers(4, 9), "width": st.integers(4, 9)}
GEOMETRY = {
    "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
}
BATCH = 3


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float32)


def agree(ours, theirs, x: torch.Tensor, *weights: torch.Tensor) -> None:
    """Compare two functions of (x, *weights) and their gradients; `ours` also takes each example's own gradients."""
    x = x.clone().requires_grad_()
    weights = tuple(weight.clone().requires_grad_() for weight in weights)
    right = theirs(x, *weights)
    g = draw(*right.shape)
    expected = torch.autograd.grad(right, (x, *weights), g)
    none = [None] * len(weights)
    left = ours(x, *weights, *none)
    assert torch.allclose(left, right, atol=1e-5)
    for found, wanted in zip(torch.autograd.grad(left, (x, *weights), g), expected, strict=True):
        assert torch.allclose(found, wanted, atol=2e-4), (found - wanted).abs().max()
    if not weights:
        return
    each = [torch.zeros(len(x), *weight.shape, requires_grad=True) for weight in weights]
    frozen = [weight.detach() for weight in weights]
    by_x, *by_each = torch.autograd.grad(ours(x, *frozen, *each), (x, *each), g)
    assert torch.allclose(by_x, expected[0], atol=2e-4)
    for i in range(len(x)):
        one = torch.autograd.grad(theirs(x[i : i + 1], *weights), weights, g[i : i + 1])
        for found, wanted in zip(by_each, one, strict=True):
            assert torch.allclose(found[i], wanted, atol=2e-4)


def fits(height, width, kernel, padding, dilation) -> bool:
    return all(side + 2 * padding[i] > dilation[i] * (kernel[i] - 1) for i, side in enumerate((height, width))) and all(
        padding[i] <= dilation[i] * (kernel[i] - 1) for i in range(2)
    )


@given(**SIDES, **GEOMETRY, inputs=st.integers(1, 6), outputs=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_convolution(height, width, kernel, stride, padding, dilation, inputs, outputs):
    if not fits(height, width, kernel, padding, dilation):
        return
    geometry = (stride, padding, dilation)
    agree(
        lambda x, w, each: as_images(operators.Convolution.apply(as_map(x), w, each, *geometry)),
        lambda x, w: F.conv2d(x, w, None, stride, padding, dilation),
        draw(BATCH, inputs, height, width),
        draw(outputs, inputs, *kernel),
    )


@given(**SIDES, **GEOMETRY, channels=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_depthwise(height, width, kernel, stride, padding, dilation, channels):
    if not fits(height, width, kernel, padding, dilation):
        return
    geometry = (stride, padding, dilation)
    agree(
        lambda x, w, each: as_images(operators.Depthwise.apply(as_map(x), w, each, *geometry)),
        lambda x, w: F.conv2d(x, w, None, stride, padding, dilation, channels),
        draw(BATCH, channels, height, width),
        draw(channels, 1, *kernel),
    )


def test_a_depthwise_convolution_of_more_channels_than_litert_holds_is_cut(monkeypatch):
    monkeypatch.setattr(operators, "MOST_CHANNELS", 7)
    test_depthwise.hypothesis.inner_test(6, 5, (3, 3), (2, 2), (1, 1), (1, 1), 4)


@pytest.mark.parametrize("shape", [(BATCH, 5), (BATCH, 4, 5)])
def test_linear(shape):
    agree(operators.Linear.apply, F.linear, draw(*shape), draw(7, 5))


@pytest.mark.parametrize(("shape", "dim"), [((BATCH, 6), 0), ((BATCH, 4, 6), 0)])
def test_offset(shape, dim):
    agree(lambda x, b, each: operators.Offset.apply(x, b, each, dim), torch.add, draw(*shape), draw(6))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(groups):
    agree(
        lambda x, w, b, each_w, each_b: as_images(norms.GroupNorm.apply(as_map(x), w, b, each_w, each_b, groups, 1e-5)),
        lambda x, w, b: F.group_norm(x, groups, w, b),
        draw(BATCH, 6, 5, 4),
        draw(6),
        draw(6) + 1,
    )


def test_relu_and_relu6_also_at_their_corners():
    corners = torch.tensor([[-1.0, 0.0, 1e-30, 0.5, 1.0, 5.9999995, 6.0, 6.0000005, 60.0]])
    for x in (corners, 6 * draw(BATCH, 50)):
        agree(lambda x: operators.ReLU.apply(x, None), F.relu, x)
        agree(lambda x: operators.ReLU.apply(x, 6.0), F.relu6, x)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 2)])
def test_pools_also_where_windows_do_not_reach_the_edge_and_maxima_are_tied(size, kernel):
    x = draw(BATCH, 3, *size).round()  # many ties
    agree(lambda x: as_images(pooling.AveragePool.apply(as_map(x), kernel)), lambda x: F.avg_pool2d(x, kernel), x)
    agree(lambda x: as_images(pooling.MaxPool.apply(as_map(x), kernel)), lambda x: F.max_pool2d(x, kernel), x)
