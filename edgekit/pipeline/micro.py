"""A folder for whoever programs a microcontroller: the model as an array of C, its ends, examples, and a sketch."""

import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from edgekit.data.federated import Floats
from edgekit.export import runtimes
from edgekit.export.metadata import describe, parsed
from edgekit.export.verify import run_examples
from edgekit.export.worker import encoded
from edgekit.runfolder import write_whole

PRESET = "int8-full"
SPARE = 1.25
"""Times the arena that was measured: other kernels take scratch memory too."""
AS_METHODS = {"PADV2": "PadV2", "BATCH_MATMUL": "BatchMatMul", "LOG_SOFTMAX": "LogSoftmax"}
"""Names of a resolver's methods that do not follow from the operator's."""
PER_LINE = 12


def write(content: bytes, facts: dict[str, Any], examples: Floats, readme: dict[str, Any], out: Path) -> list[Path]:
    """Write the folder; return its files.

    Args:
        content: an int8-full .tflite.
        facts: of the preprocessing.
        examples: of its self-test, as the file takes them.
        readme: words for its README.
        out: the folder.

    Raises:
        MissingExtraError: tflite-micro is not installed: the arena's size is measured.
        ExportError: the file does not run in it.
    """
    ran = run_examples(content, examples, runtimes.MICRO)
    arena = int(ran.arena or 0)
    spare = -(-int(arena * SPARE) // 16) * 16
    graph = parsed(content).subgraphs[0]
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    ends = [_end(source), _end(target)]
    as_integers = encoded(examples, {"dtype": np.int8, "quantization": ends[0]})
    scores = encoded(ran.scores, {"dtype": np.int8, "quantization": ends[1]})
    operators = list(describe(content)["operators"])
    room = files("edgekit.export").joinpath("micro")
    labels = [" ".join(name.split()) for name in facts["output"]["labels"]]
    texts = {
        "model.h": _header(content, labels, ends, examples[0].size, spare),
        "model.cc": f'#include "model.h"\n\nalignas(16) const unsigned char g_model[] = {{\n{_bytes(content)}\n}};\n',
        "example.h": _examples(as_integers, scores),
        "sketch.cc": Template(room.joinpath("sketch.cc").read_text()).substitute(
            count=len(operators), operators="\n    ".join(f"operators.Add{_method(name)}();" for name in operators)
        ),
        "preprocessing.json": json.dumps(facts, indent=1) + "\n",
        "README.md": room.joinpath("README.md")
        .read_text()
        .format(**readme, runtime=runtimes.label(runtimes.MICRO), arena=arena, spare=spare - arena, size=len(content)),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "model.tflite", content)
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / "model.tflite", *(out / name for name in sorted(texts))]


def _end(tensor: Any) -> tuple[float, int]:
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])


def _header(content: bytes, labels: list[str], ends: list[tuple[float, int]], size: int, arena: int) -> str:
    (scale, zero), (scale_out, zero_out) = ends
    named = ", ".join(json.dumps(label) for label in labels)
    return f"""#pragma once
#include <cstdint>

extern const unsigned char g_model[];
constexpr int kModelBytes = {len(content)};
constexpr int kArenaBytes = {arena};
constexpr int kInputSize = {size};
constexpr float kInputScale = {scale!r}f;
constexpr int kInputZero = {zero};
constexpr int kOutputSize = {len(labels)};
constexpr float kOutputScale = {scale_out!r}f;
constexpr int kOutputZero = {zero_out};
constexpr const char* kLabels[] = {{{named}}};
"""


def _examples(inputs: Any, scores: Any) -> str:
    rows = [", ".join(str(int(value)) for value in row.ravel()) for row in inputs]
    answers = [", ".join(str(int(value)) for value in row.ravel()) for row in scores]
    return (
        '#pragma once\n#include "model.h"\n\n'
        f"constexpr int kExamples = {len(rows)};\n"
        f"constexpr int8_t kExampleInputs[kExamples][kInputSize] = {{{', '.join(f'{{{row}}}' for row in rows)}}};\n"
        f"constexpr int8_t kExampleScores[kExamples][kOutputSize] = {{{', '.join(f'{{{row}}}' for row in answers)}}};\n"
    )


def _bytes(content: bytes) -> str:
    lines = [content[start : start + PER_LINE] for start in range(0, len(content), PER_LINE)]
    return "\n".join("    " + " ".join(f"0x{value:02x}," for value in line) for line in lines)


def _method(operator: str) -> str:
    return AS_METHODS.get(operator, "".join(part.capitalize().replace("2d", "2D") for part in operator.split("_")))
