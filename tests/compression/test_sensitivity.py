"""Each layer is pruned alone, as the paper says, and the network is as before."""

import numpy as np
import torch
from torch import nn

from edgekit.compression.sensitivity import sensitivity


def test_each_layer_alone_beside_numpy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(18, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
    x = torch.randn(6, 18)
    first, second = (model[place].weight.detach().numpy().astype(np.float64) for place in (0, 2))

    def total(one, other):
        return (np.maximum(x.numpy() @ one.T, 0) @ other.T).sum()

    def score(one):
        return float(one(x).sum())

    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sensitivity(model, 0.5, True, [], score)
    rows = [w * (abs(w).sum(1) > np.sort(abs(w).sum(1))[round(0.5 * len(w)) - 1])[:, None] for w in (first, second)]
    np.testing.assert_allclose(found["0"], total(rows[0], second), rtol=1e-5)
    np.testing.assert_allclose(found["2"], total(first, rows[1]), rtol=1e-5)
    found = sensitivity(model, 0.5, False, ["2"], score)
    assert set(found) == {"0"}
    np.testing.assert_allclose(
        found["0"], total(first * (abs(first) > np.sort(abs(first).ravel())[143]), second), rtol=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
