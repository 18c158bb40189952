"""Post-training quantisation, by ai-edge-quantizer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.data.federated import Floats
from edgekit.errors import ExperimentError, ExportError, MissingExtraError
from edgekit.export import cache
from edgekit.export.convert import SIGNATURE
from edgekit.export.quiet import quiet
from edgekit.registry import PRESETS


@dataclass(frozen=True)
class NumberFormat:
    """A number format of files; `edgekit.registry.PRESETS` names them.

    Attributes:
        recipe: tells ai-edge-quantizer's quantizer what becomes of which operator; None leaves the floats.
        calibrated: whether it takes the activations' ranges from examples.
    """

    recipe: Callable[[Any], None] | None
    calibrated: bool = False


def number_format(preset: str) -> NumberFormat:
    """Return a preset's number format.

    Raises:
        ExperimentError: there is none of this name.
    """
    found = PRESETS.load(preset)
    if not isinstance(found, NumberFormat):
        raise ExperimentError(f"export.presets {preset!r} is not an edgekit.export.quantise.NumberFormat")
    return found


def quantise(float32: bytes, preset: str, name: str, calibration: Floats | None) -> bytes:
    """Bring a float32 file into another number format.

    In `int8` only convolutions and fully connected layers become integers: normalisation in float costs little and is
    sturdier (Jacob et al. 2018 fold it away; group norms cannot be folded).

    Args:
        float32: the float32 file.
        preset: the number format's name.
        name: of the signature's input.
        calibration: examples as the file takes them, (examples, ...); needed by formats that are calibrated.

    Raises:
        MissingExtraError: ai-edge-quantizer is not installed.
        ExportError: there is no calibration data, or the quantiser failed.
    """
    form = number_format(preset)
    if form.recipe is None:
        return float32
    if form.calibrated and (calibration is None or len(calibration) == 0):
        raise ExportError(f"{preset} needs examples to calibrate on")
    with quiet():
        try:
            from ai_edge_quantizer import quantizer
        except ImportError:
            raise MissingExtraError("ai-edge-quantizer", "tflite") from None
    examples = calibration if form.calibrated else None
    seen: list[bytes | str] = [float32, name]
    if examples is not None:
        seen += [repr((examples.dtype, examples.shape)), examples.tobytes()]
    try:
        with quiet():
            made = quantizer.Quantizer(float32)
            form.recipe(made)

        def make() -> bytes:
            with quiet():
                found = None if examples is None else _ranges(made, name, examples)
                return bytes(made.quantize(found).quantized_model)

        return cache.kept(f"{preset}.tflite", [*seen, repr(made.get_quantization_recipe())], make)
    except Exception as error:  # the quantiser raises whatever its passes raise
        raise ExportError(f"the model cannot be quantised to {preset}: {' '.join(str(error).split())[:300]}") from error


def _ranges(made: Any, name: str, calibration: Floats) -> dict[str, Any]:
    """Return the smallest and largest value of each tensor over all examples.

    Given all at once, the quantiser would take a moving average of each example's extremes, and large scores saturate:
    on the built-in example the largest error was ten times this one's.
    """
    found: dict[str, Any] = {}
    for example in calibration:
        for tensor, one in made.calibrate({SIGNATURE: [{name: np.ascontiguousarray(example[None])}]}).items():
            before = found.get(tensor, one)
            found[tensor] = {
                **one,
                "min": np.minimum(before["min"], one["min"]),
                "max": np.maximum(before["max"], one["max"]),
            }
    return found


def _weighty() -> list[Any]:
    from ai_edge_quantizer.qtyping import TFLOperationName as Operator

    return [Operator.CONV_2D, Operator.DEPTHWISE_CONV_2D, Operator.FULLY_CONNECTED]


def _float16(made: Any) -> None:
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    for operator in _weighty():
        made.update_quantization_recipe(".*", operator, config, AlgorithmName.FLOAT_CASTING)


def _weights(made: Any) -> None:
    for operator in _weighty():
        made.add_weight_only_config(".*", operator, 8)


def _dynamic(made: Any) -> None:
    from ai_edge_quantizer import qtyping

    for operator in _weighty():
        made.add_dynamic_config(".*", operator, 8)
    # With a scale for each channel, fully connected layers give garbage in tflite-runtime 2.14, and no error.
    made.add_dynamic_config(
        ".*", qtyping.TFLOperationName.FULLY_CONNECTED, 8, granularity=qtyping.QuantGranularity.TENSORWISE
    )


def _static(made: Any) -> None:
    for operator in _weighty():
        made.add_static_config(".*", operator, 8, 8)


def _full(made: Any) -> None:
    from ai_edge_quantizer.qtyping import TFLOperationName as Operator

    for operator in (Operator.ALL_SUPPORTED, Operator.INPUT, Operator.OUTPUT):
        made.add_static_config(".*", operator, 8, 8)


FLOAT32 = NumberFormat(None)
FLOAT16 = NumberFormat(_float16)
INT8_WEIGHTS = NumberFormat(_weights)
INT8_DYNAMIC = NumberFormat(_dynamic)
INT8 = NumberFormat(_static, calibrated=True)
INT8_FULL = NumberFormat(_full, calibrated=True)
