"""Clipped sums in passes over many examples: each network of the zoo against autograd, one example after the other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.clients.clipped.rows import MeetError
from edgekit.clients.clipped.sums import ClippedSums
from edgekit.clients.per_example import PerExample, _seeded, fits_at_once
from edgekit.models import build
from edgekit.models.settings import Model

IMAGE, FRAMES = (1, 8, 8), (6, 4)
ZOO = {
    "mlp": IMAGE, "cnn": IMAGE, "dscnn": IMAGE, "mobilenetv2": IMAGE, "mobilenetv3": IMAGE, "efficientnet": IMAGE,
    "shufflenet": IMAGE, "vit": IMAGE, "cnn-vit": IMAGE, "mixer": IMAGE, "capsule": (1, 16, 16), "ode": IMAGE,
    "experts": IMAGE, "exits": IMAGE, "gated": IMAGE, "keyword-dscnn": (1, 20, 10), "tcn": FRAMES, "s4d": FRAMES,
    "ssd": FRAMES, "gru": FRAMES, "mingru": FRAMES,
}  # fmt: skip
SLOW = ("efficientnet", "shufflenet", "mobilenetv3", "ode")
QUICK = ("mlp", "cnn", "dscnn")
CLIP = 0.5


def _given(model, shape, examples=5):
    drawn = torch.Generator().manual_seed(1)
    x = torch.rand(examples, *shape, generator=drawn, dtype=next(model.parameters()).dtype)
    return x, torch.arange(examples) % 3


def _alone(model, x, y, clip=CLIP):
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return PerExample(model)._one_by_one(weights, x, y, clip, _seeded(len(y)))


def _passes(model, x, y, clip=CLIP, owners=None, clients=1):
    made = ClippedSums(model)
    weights = [dict(model.named_parameters())[name].detach() for name in made.names]
    owners = torch.zeros(len(y), dtype=torch.int64) if owners is None else owners
    return made.sums(weights, owners, clients, x, y, clip)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(
            name, norm, marks=() if name in QUICK or (norm == "group" and name not in SLOW) else pytest.mark.long
        )
        for name in ZOO
        for norm in ("none", "group", "weight-standardised")
    ],
)
def test_a_pass_gives_autograds_sums(name, norm):
    width = 0.35 if name in ("mobilenetv2", *SLOW) else 0.5
    model = build(Model(name=name, norm=norm, width=width), ZOO[name], 3, 0).double()
    x, y = _given(model, ZOO[name])
    right = _alone(model, x, y)
    largest = max(float(one.abs().max()) for one in right)
    for found, wanted in zip(_passes(model, x, y), right, strict=True):
        assert float((found[0] - wanted).abs().max()) <= 1e-10 * largest
    owners = torch.tensor([0, 0, 2, 2, 2])
    by_owner = _passes(model, x, y, owners=owners, clients=3)
    first, last = _alone(model, x[:2], y[:2]), _alone(model, x[2:], y[2:])
    for found, one, other in zip(by_owner, first, last, strict=True):
        assert torch.allclose(found[0], one, rtol=1e-8, atol=1e-12)
        assert not found[1].any()
        assert torch.allclose(found[2], other, rtol=1e-8, atol=1e-12)


def test_no_example_counts_for_more_than_the_clip():
    model = build(Model(name="dscnn", norm="group"), IMAGE, 3, 0)
    x, y = _given(model, IMAGE, 40)
    for clip in (1e-3, 0.1, 10.0):
        for i in range(0, 40, 8):
            found = _passes(model, 50 * x[i : i + 1], y[i : i + 1], clip)
            norm = float(torch.stack([one.double().square().sum() for one in found]).sum().sqrt())
            assert norm <= clip


def test_what_is_not_finite_counts_as_zero():
    model = build(Model(name="cnn", norm="group"), IMAGE, 3, 0)
    x, y = _given(model, IMAGE)
    bad = x.clone()
    bad[2] = float("nan")
    rest = torch.tensor([0, 1, 3, 4])
    for found, wanted in zip(_passes(model, bad, y), _passes(model, x[rest], y[rest]), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


class Does(nn.Module):
    """Three linear layers with something between the first two."""

    def __init__(self, what):
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(6, 5), nn.Linear(5, 3), nn.Parameter(torch.rand(5))
        self.table, self._what = nn.Embedding(4, 5, padding_idx=0), what

    def forward(self, x):
        return self.second(self._what(self, self.first(x.flatten(1)[:, :6])))


MEETING = {
    "centred": lambda self, h: h - h.mean(0),
    "centred over all": lambda self, h: h - h.mean(),
    "standardised": lambda self, h: F.batch_norm(h, None, None, training=True),
    "turned": lambda self, h: h.flip(0),
    "rolled": lambda self, h: h.roll(1, 0),
    "shifted": lambda self, h: torch.cat([h[1:], h[:1]]),
    "summed up": lambda self, h: h.cumsum(0),
    "attended": lambda self, h: torch.softmax(h @ h.T, 1) @ h,
    "transposed": lambda self, h: h.T.contiguous().view(h.shape),
    "reshaped": lambda self, h: h.reshape(-1).sort()[0].view(h.shape),
    "broadcast": lambda self, h: h + h[:, 0],
    "picked": lambda self, h: h[torch.randperm(len(h))],
    "sorted": lambda self, h: h.sort(0)[0],
    "einsum": lambda self, h: torch.einsum("bi,ci->ci", h, h),
    "in place": lambda self, h: h.sub_(h.detach().mean(0)),
    "given out": lambda self, h: h / torch.exp(h, out=torch.empty_like(h)).max(),
    "written": lambda self, h: h.clone().index_copy_(0, torch.tensor([0]), h[-1:]),
}


@pytest.mark.parametrize("what", list(MEETING))
def test_examples_never_meet(what):
    """Whatever a network does over its batch, an example's part is that which it has alone, or it is refused."""
    model = Does(MEETING[what]).double()
    x, y = _given(model, IMAGE)
    try:
        found = _passes(model, x, y)
    except Exception:  # of torch, or that it is not known
        return
    for i in range(len(y)):  # no other example, however different, changes it
        others = torch.rand(5, *IMAGE, dtype=x.dtype) * 100
        others[i] = x[i]
        owners = torch.tensor([0 if j < i else 1 if j == i else 2 for j in range(5)])
        one = [each[1] for each in _passes(model, others, y, owners=owners, clients=3)]
        assert all(
            torch.allclose(a, b, rtol=1e-6) for a, b in zip(one, _alone(model, x[i : i + 1], y[i : i + 1]), strict=True)
        )
    assert found


KNOWN = {
    "a scale": lambda self, h: h * self.scale + self.scale.exp(),
    "used twice": lambda self, h: h * self.scale + F.linear(h, self.second.weight.mT @ self.second.weight),
    "a table": lambda self, h: h + self.table((h.detach() > 0).sum(1) % 4),
    "in place": lambda self, h: F.relu(h * 1.0, inplace=True) + (h * 3.0).mul_(2.0),
    "added in place": lambda self, h: F.linear(h, self.second.weight.mT @ self.second.weight).add_(h.detach()),
    "products": lambda self, h: (h[:, :, None] @ h[:, None, :]).mean(2) @ self.second.weight.mT @ self.second.weight,
    "branches": lambda self, h: torch.where(h > 0, h, h * self.scale),
    "not used": lambda self, h: h.detach(),
}


@pytest.mark.parametrize("what", list(KNOWN))
def test_parameters_are_found_wherever_they_are_used(what):
    model = Does(KNOWN[what]).double()
    x, y = _given(model, IMAGE)
    for found, wanted in zip(_passes(model, x, y), _alone(model, x, y), strict=True):
        assert torch.allclose(found[0], wanted, rtol=1e-9, atol=1e-12)


def test_what_a_layer_was_given_may_not_be_changed_after_it():
    model = Does(lambda self, h: F.linear(h, self.second.weight.mT @ self.second.weight) + h.mul_(2.0)).double()
    x, y = _given(model, IMAGE)
    with pytest.raises(MeetError, match="changed in place after it"):
        _passes(model, x, y)


@pytest.mark.parametrize("name", ["mlp", "cnn", "dscnn", "vit", "gru", "s4d", "capsule", "exits", "experts", "gated"])
def test_the_zoo_takes_one_pass(name):
    assert fits_at_once(build(Model(name=name, norm="group", width=0.5), ZOO[name], 3, 0), ZOO[name])


class Turns(torch.autograd.Function):
    """Turns all gradients round if one example is large: no function of the forward pass shows it."""

    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h.clone()

    @staticmethod
    def backward(ctx, gradient):
        (h,) = ctx.saved_tensors
        return -gradient if h.abs().max() > 8 else gradient


@torch.jit.script
def _scripted(h: torch.Tensor) -> torch.Tensor:
    return h / h.abs().max().clamp(min=8.0)


def _plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def _patched(model):
    model[2].forward = lambda h: h - h.mean(0)
    return model


def _hooked(model):
    model[2].register_forward_hook(lambda layer, inputs, output: output - output.mean(0))
    return model


class Sequential(nn.Sequential):
    """A class of somebody's with a known name."""

    def forward(self, x):
        return super().forward(x) / len(x)


Sequential.__module__ = "edgekit.models.mlp"


@pytest.mark.parametrize(
    "network",
    [
        Does(lambda self, h: Turns.apply(h)),
        Does(lambda self, h: _scripted(h)),
        Does(lambda self, h: h * 8 / max(8, len(h))),
        _patched(_plain()),
        _hooked(_plain()),
        Sequential(*_plain()),
        torch.jit.script(_plain()),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)),
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(64, 3)),
    ],
)
def test_code_of_others_never_gets_many_examples_at_once(network):
    assert not fits_at_once(network, IMAGE)
    assert fits_at_once(_plain(), IMAGE)


def test_a_small_and_a_large_vector_are_clipped_together():
    """Each one's square alone would be lost, or be infinite, in single precision."""
    model = nn.Sequential(nn.Linear(4, 1000))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-53.0)
        model[0].bias[0] = 0.0
    for clip in (1e-4, 1e-6):
        found = _passes(model, torch.full((1, 4), 1e18), torch.zeros(1, dtype=torch.int64), clip)
        assert float(torch.stack([one.double().square().sum() for one in found]).sum().sqrt()) <= clip


def test_the_examples_stay_as_they_were():
    model = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(64, 3))
    x, y = torch.randn(4, *IMAGE), torch.arange(4) % 3
    before = x.clone()
    _passes(model, x, y)
    assert torch.equal(x, before)


def test_what_cannot_be_run_at_once_is_run_otherwise():
    x, y = torch.rand(4, *IMAGE), torch.arange(4) % 3
    drops = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    weights = dict(drops.named_parameters())
    found = PerExample(drops).clipped_sum(weights, x, y, 1.0, torch.Generator().manual_seed(0))
    assert np.isfinite(float(found["2.weight"].abs().sum()))
