"""Any function of torch in a training step: its gradients, by one example too, are those that torch has alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ExportError
from edgekit.export.training import file as training
from edgekit.export.training.file import reference, training_file
from edgekit.export.training.steps import Options, Steps
from edgekit.export.training.tracing import traced
from edgekit.export.verify import call

SEQUENCE, IMAGE = (5, 6), (1, 8, 8)


class Net(nn.Module):
    """Layers by name, and a forward of them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.5)


def recurrent(kind: type[nn.RNNBase], ways: int = 1, **settings) -> Net:
    first = settings.get("batch_first", False)

    def forward(self, x):
        y = self.layer(x if first else x.transpose(0, 1))[0]
        return self.out(y[:, -1] if first else y[-1])

    return Net(forward, layer=kind(6, 3, **settings), out=nn.Linear(3 * ways, 10))


def _in_place(self, x):
    h = self.into(x)
    h += self.p
    h.mul_(self.p)
    h -= 0.5 * self.p
    h /= 2
    return self.out(h.mean(1))


def _batch_second(self, x):
    x = x.transpose(0, 1)
    return self.out(self.layer(x, x, x)[0].mean(0))


def _merged(self, x):
    h = self.norm(self.into(x.reshape(-1, 6)) * self.p)
    return self.out(h.reshape(len(x), 5, -1).mean(1))


def networks():
    """Yield names, networks and the shapes of their examples."""
    torch.manual_seed(0)
    out = nn.Linear
    yield "layer norm of two dimensions", Net(
        lambda self, x: self.out(self.second(self.first(x)).flatten(1)),
        first=nn.LayerNorm((5, 6)), second=nn.LayerNorm(6, elementwise_affine=False), out=out(30, 10),
    ), SEQUENCE  # fmt: skip
    yield "class token and positions", Net(
        lambda self, x: self.out(
            self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places)[:, 0]
        ),
        block=nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
        token=parameter(1, 1, 6), places=parameter(6, 6), out=out(6, 10),
    ), SEQUENCE  # fmt: skip
    yield "attention, the batch second", Net(_batch_second, layer=nn.MultiheadAttention(6, 2), out=out(6, 10)), SEQUENCE
    yield "gru", recurrent(nn.GRU, batch_first=True), SEQUENCE
    yield "two layers both ways", recurrent(nn.GRU, 2, num_layers=2, bidirectional=True), (2, 6)
    yield "lstm without biases", recurrent(nn.LSTM, batch_first=True, bias=False), SEQUENCE
    yield "rnn", recurrent(nn.RNN, nonlinearity="relu"), SEQUENCE
    yield "embedding", Net(
        lambda self, x: self.out(self.layer((x * 7).long().flatten(1)).mean(1)),
        layer=nn.Embedding(7, 4, padding_idx=0), out=out(4, 10),
    ), SEQUENCE  # fmt: skip
    yield "transposed convolutions", Net(
        lambda self, x: self.out(self.third(self.second(self.first(x).relu()).mean(3)).mean(2)),
        first=nn.Conv2d(1, 4, 3, stride=2, padding=1), second=nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, groups=2),
        third=nn.ConvTranspose1d(2, 3, 2, stride=2), out=out(3, 10),
    ), IMAGE  # fmt: skip
    yield "weight norm and prelu", Net(
        lambda self, x: self.out(self.second(self.first(self.layer(x)).mean((2, 3)))),
        layer=nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), first=nn.PReLU(4), second=nn.PReLU(),
        out=out(4, 10),
    ), IMAGE  # fmt: skip
    yield "pooling along a line", Net(
        lambda self, x: self.out(F.adaptive_avg_pool1d(self.pool(self.layer(x).relu()), 1)[..., 0]),
        layer=nn.Conv1d(5, 4, 3), pool=nn.MaxPool1d(2), out=out(4, 10),
    ), (5, 9)  # fmt: skip
    yield "pooling that overlaps", Net(
        lambda self, x: self.out(self.pool(self.layer(x).relu()).mean((2, 3))),
        layer=nn.Conv2d(1, 4, 3), pool=nn.MaxPool2d(3, 2, 1), out=out(4, 10),
    ), IMAGE  # fmt: skip
    yield "pooling with sizes rounded up", Net(
        lambda self, x: self.out(self.more(self.pool(self.layer(x).relu())).mean((2, 3))),
        layer=nn.Conv2d(1, 4, 2), pool=nn.MaxPool2d(3, 2, ceil_mode=True), more=nn.MaxPool2d(2, 2, 1, ceil_mode=True),
        out=out(4, 10),
    ), IMAGE  # fmt: skip
    yield "bilinear", Net(
        lambda self, x: self.out(self.layer(x.mean(1), F.normalize(x[:, 0] * self.p, dim=1))),
        layer=nn.Bilinear(6, 6, 4), p=parameter(6), out=out(4, 10),
    ), SEQUENCE  # fmt: skip
    yield (
        "batch and time as one",
        Net(_merged, into=out(6, 8), p=parameter(8), norm=nn.GroupNorm(2, 8), out=out(8, 10)),
        SEQUENCE,
    )
    yield "in place", Net(_in_place, into=out(6, 6), p=parameter(6), out=out(6, 10)), SEQUENCE
    yield "a product with einsum", Net(
        lambda self, x: self.out(torch.einsum("bti,hio->btho", x, self.p).tanh().flatten(2).amax(1)),
        p=parameter(2, 6, 3), out=out(6, 10),
    ), SEQUENCE  # fmt: skip


NETWORKS = {name: (network, shape) for name, network, shape in networks()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_traced_step_is_torchs(name):
    network, shape = NETWORKS[name]
    options = Options(5, 0.5)
    steps = Steps(network.train(), options)
    samples = training._samples(steps, shape, 10)
    right = reference(network, options, samples)
    for signature in ("train", "train_dp"):
        made = traced(getattr(steps, signature), samples[signature])
        found = made(**samples[signature])["w"]
        assert np.allclose(found.numpy(), right[signature]["w"], rtol=0, atol=1e-6), signature


@pytest.mark.long  # 10 to 90 s each
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_torchs_in_both_runtimes(name, old_runtime):
    network, shape = NETWORKS[name]
    _, error = training_file(network, shape, 10, Options(4), {}, ["ai-edge-litert", old_runtime])
    assert error <= 1e-5


def test_a_batch_that_is_mixed_or_walked_through_is_refused():
    def centred(self, x):
        return self.out((x - x.mean(0)).flatten(1) * self.p)

    def walked(self, x):
        return torch.stack([self.out(one.flatten() * self.p) for one in x])

    for forward, complaint in ((centred, "differs from torch's"), (walked, "other things for another batch")):
        network = Net(forward, p=parameter(30), out=nn.Linear(30, 10))
        with pytest.raises(ExportError, match=complaint):
            training_file(network, SEQUENCE, 10, Options(3), {})


def test_a_permutation_of_what_was_expanded_reaches_the_file():
    # The converter alone gives (0, 1, 2) here, in both runtimes.
    def step(w: Tensor) -> dict[str, Tensor]:
        return {"y": w.reshape(3, 3).expand(2, 3, 3).permute(0, 2, 1)}

    w = torch.arange(9.0)
    content = training.converted({"step": step}, {"step": {"w": w}}, torch.ones(3))
    (found,) = call(content, [("step", {"w": w.numpy()})])
    assert np.array_equal(found["y"], step(w)["y"].numpy())
