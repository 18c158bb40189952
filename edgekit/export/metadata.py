"""What a .tflite says about itself: a flatbuffer metadata entry named `edgekit.json`, in any reader's reach."""

import json
from typing import Any

import numpy as np

from edgekit.errors import ExportError, MissingExtraError

ENTRY = "edgekit.json"


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "tflite") from None
    return schema_py_generated


def add_metadata(content: bytes, metadata: dict[str, Any]) -> bytes:
    """Return the file with the metadata in it."""
    import flatbuffers

    schema = _schema()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = ENTRY
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_metadata(content: bytes) -> dict[str, Any] | None:
    """Return the metadata of a .tflite, None if it has none of ours.

    Raises:
        ExportError: this is not a .tflite.
    """
    if content[4:8] != b"TFL3":
        raise ExportError("not a .tflite file: it lacks the mark TFL3")
    model = _schema().Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name().decode() == ENTRY:
            found: dict[str, Any] = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            return found
    return None
