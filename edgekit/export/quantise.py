"""Post-training quantisation, by ai-edge-quantizer."""

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.data.federated import Floats
from edgekit.errors import ExportError, MissingExtraError
from edgekit.export import cache
from edgekit.export.convert import SIGNATURE
from edgekit.export.quiet import quiet
from edgekit.export.settings import Preset

PRESETS: dict[Preset, str] = {
    "float32": "32-bit floats: what training gave",
    "float16": "16-bit weights, computed in 32 bits: half the size",
    "int8-weights": "8-bit weights, computed in 32 bits: a quarter of the size, no calibration",
    "int8-dynamic": "8-bit weights, activations quantised as they come: small and fast, no calibration",
    "int8": "8-bit weights and activations in convolutions and fully connected layers, float elsewhere",
    "int8-full": "8-bit integers throughout, input and output too: for chips without floating point",
}
"""What each number format is."""

CALIBRATED = ("int8", "int8-full")
"""Presets that take the activations' ranges from examples."""


def quantise(float32: bytes, preset: Preset, name: str, calibration: Floats | None) -> bytes:
    """Bring a float32 file into another number format.

    In `int8` only convolutions and fully connected layers become integers: normalisation in float costs little and is
    sturdier (Jacob et al. 2018 fold it away; group norms cannot be folded).

    Args:
        float32: the float32 file.
        preset: the number format.
        name: of the signature's input.
        calibration: examples as the file takes them, (examples, ...); needed by `CALIBRATED` presets.

    Raises:
        MissingExtraError: ai-edge-quantizer is not installed.
        ExportError: there is no calibration data, or the quantiser failed.
    """
    if preset == "float32":
        return float32
    if preset in CALIBRATED and (calibration is None or len(calibration) == 0):
        raise ExportError(f"{preset} needs examples to calibrate on")
    with quiet():
        try:
            from ai_edge_quantizer import quantizer
        except ImportError:
            raise MissingExtraError("ai-edge-quantizer", "tflite") from None
    examples = calibration if preset in CALIBRATED else None
    seen: list[bytes | str] = [float32, name]
    if examples is not None:
        seen += [repr((examples.dtype, examples.shape)), examples.tobytes()]
    try:
        with quiet():
            made = quantizer.Quantizer(float32)
            RECIPES[preset](made)

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


RECIPES: dict[Preset, Callable[[Any], None]] = {
    "float16": _float16,
    "int8-weights": _weights,
    "int8-dynamic": _dynamic,
    "int8": _static,
    "int8-full": _full,
}
