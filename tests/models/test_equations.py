"""Networks against the equations of their papers, written out once more."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.models import build
from edgekit.models.attention import Attention, Favor, Windowed
from edgekit.models.capsule import Capsule, squash
from edgekit.models.cost import layers
from edgekit.models.graph import Graph
from edgekit.models.gru import GRU
from edgekit.models.mingru import MinGRULayer
from edgekit.models.ode import ODE
from edgekit.models.s4d import S4DLayer
from edgekit.models.settings import Model
from edgekit.models.ssd import SSDLayer


def test_random_features_estimate_softmax_attention_and_windows_see_their_neighbours():
    torch.manual_seed(0)
    exact, windowed = Attention(8, 2, 12), Windowed(8, 2, 12, window=2)
    q, k, v = (torch.randn(3, 2, 12, 4) * 0.5 for _ in range(3))
    errors = []
    for features in (16, 1024):
        favor = Favor(8, 2, 12, features)
        errors.append(float((favor.mixed(q, k, v) - exact.mixed(q, k, v)).abs().mean()))
    assert errors[1] < 0.02
    assert errors[1] < errors[0]
    changed = v.clone()
    changed[:, :, 5:] = 9.0
    assert torch.equal(windowed.mixed(q, k, v)[:, :, :3], windowed.mixed(q, k, changed)[:, :, :3])
    assert not torch.allclose(windowed.mixed(q, k, v)[:, :, 3], windowed.mixed(q, k, changed)[:, :, 3])


def test_a_recurrent_unit_is_torchs_own():
    torch.manual_seed(0)
    ours, theirs = GRU((6, 5), 10, hidden=8), nn.GRU(6, 8, batch_first=True)
    for name, layer in (("ih", ours.into), ("hh", ours.again)):
        getattr(theirs, f"weight_{name}_l0").data.copy_(layer.weight.data)
        getattr(theirs, f"bias_{name}_l0").data.copy_(layer.bias.data)
    x = torch.randn(3, 6, 5)
    assert torch.allclose(ours(x), ours.readout(theirs(x.transpose(1, 2))[0].mean(1)), atol=1e-6)


def test_closed_forms_are_their_recurrences():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 6)
    small = MinGRULayer(6, 7)
    gate, new = small.into(x).chunk(2, -1)
    z, h, states = torch.sigmoid(gate), torch.zeros(2, 6), []
    for frame in range(7):
        h = (1 - z[:, frame]) * h + z[:, frame] * new[:, frame]
        states.append(h)
    assert torch.allclose(small(x), small.out(torch.stack(states, 1)), atol=1e-5)

    wide = SSDLayer(6, 3, 7, 2)
    value, gate, b, c, step = wide.into(x).split(wide.sizes, -1)
    step, value = F.softplus(step), value.reshape(2, 7, 2, 3)
    state, outputs = torch.zeros(2, 2, 3, 3), []
    for t in range(7):
        fade = torch.exp(-wide.log_a.exp() * step[:, t])[..., None, None]
        state = fade * state + step[:, t][..., None, None] * value[:, t][..., None] * b[:, t][:, None, None]
        outputs.append((state * c[:, t][:, None, None]).sum(-1) + wide.skip[:, 0] * value[:, t])
    y = torch.stack(outputs, 1).reshape(2, 7, 6)
    assert torch.allclose(wide(x), wide.out(y * F.silu(gate)), atol=1e-5)

    diagonal = S4DLayer(6, 3, 7)
    step = diagonal.log_step.exp()
    a = torch.complex(-diagonal.log_decay.exp(), diagonal.angle) * step
    c = torch.complex(diagonal.real, diagonal.imaginary)
    state, outputs = torch.zeros(2, 6, 3, dtype=torch.complex64), []
    for t in range(7):
        state = torch.exp(a) * state + x[:, t][..., None]
        outputs.append(2 * step[:, 0] * (c * state).sum(-1).real + diagonal.skip * x[:, t])
    y = torch.stack(outputs, 1)
    assert torch.allclose(diagonal(x), diagonal.out(F.gelu(y, approximate="tanh")), atol=1e-4)


def test_routing_is_the_papers_procedure():
    torch.manual_seed(0)
    model = Capsule((1, 8, 8), 3, channels=8, kinds=2, size=4, out=4, routings=3)
    x = torch.rand(1, 1, 8, 8)
    u = model.layers(x)[0].flatten(1).reshape(2, 4, -1).permute(0, 2, 1)
    votes = np.einsum("kpi,kij->kpj", squash(u).detach().numpy(), model.votes.detach().numpy()).reshape(-1, 3, 4)
    b = np.zeros(votes.shape[:2])
    for _ in range(3):  # procedure 1, in numpy
        c = np.exp(b) / np.exp(b).sum(1, keepdims=True)
        s = (c[..., None] * votes).sum(0)
        size = np.linalg.norm(s, axis=1, keepdims=True)
        v = size**2 / (1 + size**2) * s / size
        b = b + (votes * v).sum(-1)
    assert np.allclose(model(x)[0].detach().numpy(), 10 * np.linalg.norm(v, axis=1), atol=1e-4)


def test_padding_of_a_graph_and_the_order_of_its_nodes_change_nothing():
    torch.manual_seed(0)
    adjacency = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0.0]])
    features = torch.cat(
        [torch.tensor([[1.0], [1], [1], [0]]), torch.rand(4, 2) * torch.tensor([[1], [1], [1], [0]])], 1
    )
    order = [2, 0, 1, 3]
    for kind in ("gcn", "gat"):
        model = Graph((4, 7), 5, kind=kind, hidden=8, depth=2)
        one = torch.cat([features, adjacency], 1)[None]
        other = torch.cat([features[order], adjacency[order][:, order]], 1)[None]
        assert torch.allclose(model(one), model(other), atol=1e-6)


def test_a_step_is_runge_and_kuttas():
    model = ODE((1, 8, 8), 8, channels=8, steps=1)
    model.stem = model.readout = nn.Identity()
    h = torch.rand(2, 8, 3, 3)
    model.slope = lambda h, t: h
    assert torch.allclose(model(h), h.mean((2, 3)) * (1 + 1 + 1 / 2 + 1 / 6 + 1 / 24))  # e, to the fourth order
    model.slope = lambda h, t: torch.full_like(h, 4 * t**3)  # whose integral the rule has exactly
    assert torch.allclose(model(h), h.mean((2, 3)) + 1)


def test_what_a_network_costs_is_counted_with_its_products():
    rows = layers(build(Model(name="vit", arguments={"dim": 8, "depth": 1, "heads": 2}), (1, 8, 8), 10, 0), (1, 8, 8))
    attention = next(row for row in rows if row.kind == "Attention")
    assert attention.macs == 2 * 16 * 16 * 8  # q k^T and its product with v, 16 tokens
    patches = next(row for row in rows if row.name == "patches")
    assert (patches.macs, patches.parameters, patches.activation_bytes) == (16 * 4 * 8, 4 * 8 + 8, 4 * 16 * 8)
