"""Post-training quantisation, by litert-quantizer."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgekit.errors import ExperimentError, ExportError, MissingExtraError
from edgekit.export import cache, places, ranges
from edgekit.export.metadata import add_metadata, read_metadata
from edgekit.export.quiet import quiet
from edgekit.export.ranges import Inputs
from edgekit.export.sensitivity import ENOUGH, LayerError, kept_in_float, layer_errors
from edgekit.models.fake_quantisation import HIGH, LOW
from edgekit.registry import PRESETS

COMPARED = 32
"""Examples that layers are compared on."""
GROUP_NORM = ".*ChannelsLastGroupNorm.*"
"""Scopes of what stands for group norms (`group_norm.py`)."""
STAY = "layers in float32"
"""Key of a file's metadata, until the model's card replaces them: which layers of a mixed format are no integers."""
Notice = Callable[[str], None]


@dataclass(frozen=True)
class NumberFormat:
    """A number format of files; `edgekit.registry.PRESETS` names them.

    Attributes:
        recipe: tells litert-quantizer's quantizer what becomes of which operator; None leaves the floats.
        calibrated: whether it takes the activations' ranges from examples.
        mixed: whether layers stay in float that cost the scores too much.
    """

    recipe: Callable[[Any], None] | None
    calibrated: bool = False
    mixed: bool = False


def number_format(preset: str) -> NumberFormat:
    """Return a preset's number format.

    Raises:
        ExperimentError: there is none of this name.
    """
    found = PRESETS.load(preset)
    if not isinstance(found, NumberFormat):
        raise ExperimentError(f"export.presets {preset!r} is not an edgekit.export.quantise.NumberFormat")
    return found


def quantise(
    float32: bytes,
    preset: str,
    inputs: Inputs,
    percentile: float = 100.0,
    on_notice: Notice = lambda line: None,
    grids: Mapping[str, places.Grid] | None = None,
) -> bytes:
    """Bring a float32 file into another number format.

    In `int8` only convolutions and fully connected layers become integers: normalisation in float costs little and is
    sturdier (Jacob et al. 2018 fold it away; group norms cannot be folded).

    Args:
        float32: the float32 file.
        preset: the number format's name.
        inputs: examples by signature, as the file takes them; needed by formats that are calibrated.
        percentile: share of an activation's values, in percent, that integer ranges hold.
        on_notice: told which layers stay in float, where some do.
        grids: scale and zero point by tensor that the network was trained with; None takes them from the examples.

    Raises:
        MissingExtraError: litert-quantizer is not installed.
        ExportError: there is no calibration data, the quantiser failed, or its file has other grids than were given.
    """
    form = number_format(preset)
    if form.recipe is None:
        return float32
    if form.calibrated and not any(len(examples) for examples in inputs.values()):
        raise ExportError(f"{preset} needs examples to calibrate on")
    with quiet():
        try:
            from litert_quantizer import quantizer
        except ImportError:
            raise MissingExtraError("litert-quantizer", "tflite") from None
    seen: list[bytes | str] = [float32, repr(percentile)]
    if form.calibrated:
        for signature, examples in inputs.items():
            for example in examples:
                for name, array in example.items():
                    seen += [f"{signature} {name} {array.dtype} {array.shape}", array.tobytes()]
    try:
        with quiet():
            made = quantizer.Quantizer(float32)
            form.recipe(made)

        def make() -> bytes:
            with quiet():
                if not form.calibrated:
                    return bytes(made.quantize(None).quantized_model)
                return (
                    _calibrated(float32, form, inputs, percentile)
                    if grids is None
                    else _trained(float32, preset, grids)
                )

        seen += [] if grids is None else [repr(sorted(grids.items()))]
        content = cache.kept(f"{preset}.tflite", [*seen, repr(made.get_quantization_recipe())], make)
    except ExportError:
        raise
    except Exception as error:  # the quantiser raises whatever its passes raise
        raise ExportError(f"the model cannot be quantised to {preset}: {' '.join(str(error).split())[:300]}") from error
    for line in (read_metadata(content) or {}).get(STAY, []):
        on_notice(line)
    return content


def _calibrated(float32: bytes, form: NumberFormat, inputs: Inputs, percentile: float) -> bytes:
    """Return the file with integers; a mixed format leaves the layers in float that cost the scores most."""
    found = _ranges_of(float32, form, inputs, percentile)
    fitting = ranges.with_weights_for_biases(float32, found, _codes())
    if not form.mixed:
        return _made(fitting, form, found)
    make, few = partial(_made, fitting, form, found), _few(inputs)
    errors = layer_errors(make, ranges.layers(float32, _codes()), float32, few)
    kept = kept_in_float(make, errors, float32, few)
    lines = [
        f"layer {one.layer} stays in float32: with its integers alone the scores have {one.decibels:.0f} dB, with all "
        f"{ENOUGH:.0f} are wanted"
        for one in errors[:kept]
    ]
    return add_metadata(make([one.tensor for one in errors[kept:]]), {STAY: lines})


def _trained(float32: bytes, preset: str, grids: Mapping[str, places.Grid]) -> bytes:
    """Return the file with the integers that a network was trained with.

    Raises:
        ExportError: it has others.
    """
    form, found = number_format(preset), ranges.Ranges()
    for name, (scale, zero) in grids.items():
        found[name] = {"min": np.array([[(LOW - zero) * scale]], np.float32)}
        found[name]["max"] = np.array([[(HIGH - zero) * scale]], np.float32)
    try:
        content = _made(ranges.with_weights_for_biases(float32, found, _codes()), form, found)
    except Exception as error:  # the quantiser raises whatever its passes raise
        told = " ".join(str(error).split())[:200]
        raise ExportError(f"the network was trained to round otherwise than its {preset} file does: {told}") from error
    for name, (scale, zero) in places.grids_of(float32, content).items():
        if name not in grids or abs(scale - grids[name][0]) > 1e-5 * scale or zero != grids[name][1]:
            raise ExportError(
                f"the network was trained to round {name} otherwise than its file does: it was converted by another "
                "version then; train it again, or leave compression's quantise out"
            )
    return content


def check_format(preset: str) -> None:
    """See that a preset has integers that a network can be trained with.

    Raises:
        ExportError: it has none.
    """
    form = number_format(preset)
    if form not in (INT8, INT4, INT8_FULL):
        raise ExportError(f"a network cannot be trained to compute as {preset!r} does: take int8, int8-full or int4")


def integer_file(float32: bytes, preset: str, inputs: Inputs, percentile: float) -> bytes:
    """Return an integer file whose grids come from examples, for a network that shall be trained with them.

    Raises:
        ExportError: the preset has no grids, or the quantiser failed.
    """
    check_format(preset)
    form = number_format(preset)
    with quiet():
        try:
            return _made(float32, form, _ranges_of(float32, form, inputs, percentile))
        except Exception as error:  # the quantiser raises whatever its passes raise
            told = " ".join(str(error).split())[:300]
            raise ExportError(f"the model cannot be quantised to {preset}: {told}") from error


def worst_layer(float32: bytes, preset: str, inputs: Inputs) -> LayerError | None:
    """Return the layer whose integers cost the scores most; None of a format without calibrated integers."""
    form = number_format(preset)
    if not form.calibrated:
        return None
    with quiet():
        make = partial(_made, float32, INT8, _ranges_of(float32, form, inputs))
        return next(iter(layer_errors(make, ranges.layers(float32, _codes()), float32, _few(inputs))), None)


def _few(inputs: Inputs) -> Inputs:
    return {signature: examples[:COMPARED] for signature, examples in inputs.items()}


def _ranges_of(float32: bytes, form: NumberFormat, inputs: Inputs, percentile: float = 100.0) -> ranges.Ranges:
    from litert_quantizer import quantizer

    assert form.recipe is not None
    whole = quantizer.Quantizer(float32)
    form.recipe(whole)
    return ranges.widened(ranges.from_examples(whole, inputs, float32, percentile), float32, _codes())


def _made(float32: bytes, form: NumberFormat, found: ranges.Ranges, layers: Sequence[str] | None = None) -> bytes:
    """Return the file with integers of these ranges, in the layers that write these tensors alone, or in all."""
    from litert_quantizer import quantizer

    assert form.recipe is not None
    made = quantizer.Quantizer(float32)
    form.recipe(made)
    if layers is not None:
        _all_but(made, layers)
    return bytes(made.quantize(found).quantized_model)


def _all_but(made: Any, layers: Sequence[str]) -> None:
    """Leave all layers in float but those that write these tensors."""
    from litert_quantizer.algorithm_manager import AlgorithmName

    which = "|".join(re.escape(name) for name in layers)
    others = f"^(?!(?:{which});$)" if layers else ".*"
    for operator in _weighty():
        made.update_quantization_recipe(others, operator, None, AlgorithmName.NO_QUANTIZE)


def _codes() -> list[int]:
    from ai_edge_litert import schema_py_generated as schema

    return [getattr(schema.BuiltinOperator, operator.value) for operator in _weighty()]


def _weighty() -> list[Any]:
    from litert_quantizer.qtyping import TFLOperationName as Operator

    return [Operator.CONV_2D, Operator.DEPTHWISE_CONV_2D, Operator.FULLY_CONNECTED]


def _float16(made: Any) -> None:
    from litert_quantizer import qtyping
    from litert_quantizer.algorithm_manager import AlgorithmName

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
    from litert_quantizer import qtyping

    for operator in _weighty():
        made.add_dynamic_config(".*", operator, 8)
    # With a scale for each channel, fully connected layers give garbage in tflite-runtime 2.14, and no error.
    made.add_dynamic_config(
        ".*", qtyping.TFLOperationName.FULLY_CONNECTED, 8, granularity=qtyping.QuantGranularity.TENSORWISE
    )


def _static(made: Any) -> None:
    for operator in _weighty():
        made.add_static_config(".*", operator, 8, 8)
    _norms_in_float(made)


def _four(made: Any) -> None:
    from litert_quantizer.qtyping import TFLOperationName as Operator

    for operator in _weighty():  # the quantiser, and the runtime, have no depthwise convolutions of four bits
        made.add_static_config(".*", operator, 8, 8 if operator is Operator.DEPTHWISE_CONV_2D else 4)
    _norms_in_float(made)


def _norms_in_float(made: Any) -> None:
    """Leave the small products of group norms' statistics in float: as integers they cost bytes, time and accuracy."""
    from litert_quantizer.algorithm_manager import AlgorithmName
    from litert_quantizer.qtyping import TFLOperationName as Operator

    made.update_quantization_recipe(GROUP_NORM, Operator.FULLY_CONNECTED, None, AlgorithmName.NO_QUANTIZE)


def _wide(made: Any) -> None:
    from litert_quantizer.qtyping import QuantGranularity
    from litert_quantizer.qtyping import TFLOperationName as Operator

    for operator in _weighty():
        # With a scale for each channel, fully connected layers of several rows give garbage in tflite-runtime 2.14.
        each = QuantGranularity.TENSORWISE if operator is Operator.FULLY_CONNECTED else QuantGranularity.CHANNELWISE
        made.add_static_config(".*", operator, 16, 8, weight_granularity=each)
    _norms_in_float(made)


def _full(made: Any) -> None:
    from litert_quantizer.qtyping import TFLOperationName as Operator

    for operator in (Operator.ALL_SUPPORTED, Operator.INPUT, Operator.OUTPUT):
        made.add_static_config(".*", operator, 8, 8)


FLOAT32 = NumberFormat(None)
FLOAT16 = NumberFormat(_float16)
INT8_WEIGHTS = NumberFormat(_weights)
INT8_DYNAMIC = NumberFormat(_dynamic)
INT8 = NumberFormat(_static, calibrated=True)
INT8_MIXED = NumberFormat(_static, calibrated=True, mixed=True)
INT4 = NumberFormat(_four, calibrated=True)
INT8_FULL = NumberFormat(_full, calibrated=True)
INT16 = NumberFormat(_wide, calibrated=True)
