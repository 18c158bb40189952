"""A network rounds where its integer file does: each layer, given the file's own integers, gives the file's."""

import numpy as np
import pytest
import torch

from edgekit.errors import ExportError
from edgekit.export import places, runtimes
from edgekit.export.convert import as_inputs, to_float32
from edgekit.export.metadata import packed, parsed
from edgekit.export.quantise import check_format, integer_file, quantise
from edgekit.export.tflite import as_device
from edgekit.export.verify import run_examples
from edgekit.models import build
from edgekit.models.fake_quantisation import Rounding, on_grid, quantised
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.settings import Model

SHAPE = (1, 12, 12)
X = np.random.default_rng(0).random((24, *SHAPE), np.float32)
NETWORKS = {
    "dscnn": {"width": 0.25},
    # Additions of equals, hard sigmoids of which the file keeps six times as much, products, means.
    "mobilenetv3": {"arguments": {"head": 24, "stages": [[3, 16, 8, True, False, 2], [3, 24, 8, True, True, 1]]}},
    "ode": {"width": 0.25},
}


def _made(name, preset):
    model = build(Model(name=name, norm="weight-standardised", **NETWORKS[name]), SHAPE, 4, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # a readout and branches begin at zero, where nothing tells them apart
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    model = fold_weight_standardisation(model).eval()
    inputs = as_inputs(SHAPE, as_device(X))
    float32 = to_float32(model, SHAPE)
    integers = integer_file(float32, preset, inputs, 100.0)
    return model, float32, integers, places.find(model, X, inputs, float32, integers)


def _layer(content, name, runtime, examples):
    """What a file's tensor holds, as floats."""
    model = parsed(content)
    graph = model.subgraphs[0]
    graph.outputs = [[tensor.name.decode() for tensor in graph.tensors].index(name)]
    model.signatureDefs = None
    return run_examples(bytes(packed(model, len(content))), as_device(X[:examples]), runtime).scores


class _Forced(Rounding):
    """Goes on with the file's integers, and keeps how many quanta each layer was apart from them."""

    def __init__(self, found, held):
        super().__init__(found.plan)
        self.found, self.held, self.apart = found, held, {}

    def written(self, call, given):
        name = self.found.written[call.name, call.number]
        factor = self.found.grids[name][1]
        own = torch.from_numpy(self.held[name] / np.float32(factor))
        own = own.permute(0, 3, 1, 2) if given.dim() == own.dim() == 4 else own
        self.apart[name] = float((own.reshape(given.shape) - given).abs().max()) / self._plan.grids[call.writes][0]
        return own.reshape(given.shape).contiguous()


@pytest.mark.parametrize(
    ("name", "preset", "runtime", "quanta"),
    [
        ("dscnn", "int8", "ai-edge-litert", 1),
        ("dscnn", "int8-full", "tflite-runtime", 2),
        ("mobilenetv3", "int8-full", "ai-edge-litert", 1),
        pytest.param("mobilenetv3", "int8", "ai-edge-litert", 1, marks=pytest.mark.long),
        pytest.param("mobilenetv3", "int8-full", "tflite-runtime", 2, marks=pytest.mark.long),
        pytest.param("dscnn", "int4", "ai-edge-litert", 1, marks=pytest.mark.long),
        pytest.param("ode", "int8-full", "ai-edge-litert", 1, marks=pytest.mark.long),
    ],
)
def test_each_layer_gives_what_the_file_gives(name, preset, runtime, quanta, request):
    if runtime == "tflite-runtime":
        request.getfixturevalue("old_runtime")
    model, _, integers, found = _made(name, preset)
    assert len(found.written) >= 6
    held = {tensor: _layer(integers, tensor, runtime, 3) for tensor in found.written.values()}
    x, mode = torch.from_numpy(X[:3]), _Forced(found, held)
    if found.plan.given >= 0:
        x = mode.rounded(x, found.plan.given)
    with torch.no_grad(), mode:
        model(x)
    assert mode.done == len(found.plan.calls)
    assert set(mode.apart) == set(held)
    assert max(mode.apart.values()) <= quanta + 1e-3, mode.apart


def test_the_file_takes_the_grids_that_were_trained_and_the_weights_as_they_are():
    model, _, _, found = _made("dscnn", "int8")
    wider = {
        name: (found.plan.grids[place][0] * 1.25 * factor, found.plan.grids[place][1])
        for name, (place, factor) in found.grids.items()
    }
    made = quantised(model, found.plan)
    settled = to_float32(on_grid(made, torch.from_numpy(X[:1])), SHAPE)
    inputs = as_inputs(SHAPE, as_device(X))
    content = quantise(settled, "int8", inputs, grids=wider)
    read = places.grids_of(settled, content)
    assert read.keys() == wider.keys()
    for name, (scale, zero) in wider.items():
        assert read[name] == (pytest.approx(scale, rel=1e-5), zero)
    own = {
        name: (found.plan.grids[place][0] * factor, found.plan.grids[place][1])
        for name, (place, factor) in found.grids.items()
    }
    scores = run_examples(quantise(settled, "int8", inputs, grids=own), as_device(X)).scores
    with torch.no_grad():
        apart = np.abs(scores - made.eval()(torch.from_numpy(X)).numpy())
    quantum = found.plan.grids[found.plan.calls[-1].writes][0]
    assert apart.max() <= 2.001 * quantum
    assert (apart <= 1.001 * quantum).mean() >= 0.95


def test_grids_of_another_network_are_refused_in_a_line():
    _, float32, _, found = _made("dscnn", "int8")
    inputs = as_inputs(SHAPE, as_device(X))
    grids = {name: found.plan.grids[place] for name, (place, _) in found.grids.items()}
    del grids[next(iter(grids))]
    with pytest.raises(ExportError, match="trained") as error:
        quantise(float32, "int8", inputs, grids=grids)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["float32", "int8-dynamic", "int8-mixed", "int16"])
def test_formats_without_such_integers_are_refused(preset):
    with pytest.raises(ExportError, match="take int8, int8-full or int4"):
        check_format(preset)


def test_four_bits_are_refused_where_no_kernel_has_them(old_runtime):
    with pytest.raises(ExportError, match="tflite-runtime has no kernels for int4"):
        runtimes.check(["ai-edge-litert", old_runtime], ["int4"])


def test_a_network_that_trains_otherwise_is_refused_in_a_line():
    model = build(Model(name="exits", norm="weight-standardised", width=0.25), SHAPE, 4, 0)
    model = fold_weight_standardisation(model).eval()
    inputs, float32 = as_inputs(SHAPE, as_device(X)), to_float32(model, SHAPE)
    with pytest.raises(ExportError, match="computes otherwise while it trains") as error:
        places.find(model, X, inputs, float32, integer_file(float32, "int8", inputs, 100.0))
    assert "\n" not in str(error.value)
