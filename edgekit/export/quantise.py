"""Post-training quantisation to int8, by ai-edge-quantizer."""

import numpy as np

from edgekit.data.federated import Floats
from edgekit.errors import ExportError, MissingExtraError
from edgekit.export.convert import SIGNATURE
from edgekit.export.quiet import quiet


def to_int8(float32: bytes, name: str, calibration: Floats) -> bytes:
    """Quantise convolutions and fully connected layers to 8-bit weights and activations; the rest stays float.

    Normalisation in float costs little and is sturdier (Jacob et al. 2018 fold it away; group norms cannot be folded).
    Input and output stay float32, so the file is called like its float32 twin.

    Args:
        float32: the float32 file.
        name: of the signature's input.
        calibration: examples as the file takes them, (examples, ...); they set the activations' ranges.

    Raises:
        MissingExtraError: ai-edge-quantizer is not installed.
        ExportError: the quantiser failed.
    """
    with quiet():
        try:
            from ai_edge_quantizer import qtyping, quantizer
        except ImportError:
            raise MissingExtraError("ai-edge-quantizer", "tflite") from None
    operators = qtyping.TFLOperationName
    try:
        with quiet():
            made = quantizer.Quantizer(float32)
            for operator in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED):
                made.add_static_config(".*", operator, 8, 8)
            samples = [{name: np.ascontiguousarray(example[None])} for example in calibration]
            return bytes(made.quantize(made.calibrate({SIGNATURE: samples})).quantized_model)
    except Exception as error:  # the quantiser raises whatever its passes raise
        raise ExportError(f"the model cannot be quantised to int8: {' '.join(str(error).split())[:300]}") from error
