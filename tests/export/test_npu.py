"""What Arm's compiler estimates of a file, and what it refuses."""

import numpy as np
import pytest

from edgekit.errors import ExportError, UsageError
from edgekit.export.convert import as_inputs, to_float32
from edgekit.export.npu import estimate
from edgekit.export.quantise import quantise
from edgekit.export.tflite import as_device
from edgekit.models import build
from edgekit.models.cost import macs
from edgekit.models.settings import Model

SHAPE = (1, 12, 12)


@pytest.fixture(scope="module")
def files():
    model = build(Model(name="dscnn", norm="none", width=0.25), SHAPE, 4, 0)
    float32 = to_float32(model, SHAPE)
    x = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    return model, float32, quantise(float32, "int8-full", as_inputs(SHAPE, as_device(x)))


def test_a_larger_accelerator_takes_fewer_cycles(files):
    model, _, integers = files
    small, large = (estimate(integers, name) for name in ("ethos-u55-32", "ethos-u55-256"))
    assert small["left_to_the_processor"] == 0
    assert small["operators"] >= 7
    assert 0 < large["cycles"] <= small["cycles"]
    assert small["cycles"] >= macs(model, SHAPE) / 32  # it does no more in a cycle
    assert 0 < small["flash"] < len(integers)


def test_floats_and_strangers_are_refused_in_a_line(files):
    with pytest.raises(ExportError, match="take the int8-full file"):
        estimate(files[1], "ethos-u55-128")
    with pytest.raises(UsageError, match="there are ethos-u55-32"):
        estimate(files[2], "ethos-u99")
    with pytest.raises(ExportError, match="Vela cannot compile") as error:
        estimate(files[2][:400], "ethos-u55-128")
    assert "\n" not in str(error.value)
