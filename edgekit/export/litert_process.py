"""The process behind edgekit.export.verify: `python -m edgekit.export.litert_process MODEL INPUTS OUTPUTS`.

Numpy and LiteRT only, so that it starts fast and is what a device runs.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(model: str, inputs: str, outputs: str) -> None:
    """Run the file's only signature on each example, and save the scores."""
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    ((name, signature),) = interpreter.get_signature_list().items()
    runner = interpreter.get_signature_runner(name)
    (input_name,), (output_name,) = signature["inputs"], signature["outputs"]
    scores = [runner(**{input_name: example[None]})[output_name][0].copy() for example in np.load(inputs)]
    np.save(outputs, np.stack(scores))


if __name__ == "__main__":
    main(*sys.argv[1:])
