"""What a .tflite says about itself: a flatbuffer metadata entry named `edgekit.json`, in any reader's reach."""

import collections
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.errors import ExportError, MissingExtraError

ENTRY = "edgekit.json"
TRAINING, SPLIT_TRAINING, EXITS, STREAM = "training", "split training", "exits", "stream"
"""Kinds of files: with a whole network's training steps, with those of a device's parts of one that is cut, with the
stages of a network with early exits, with a step of a network of sequences;
`edgekit.data.settings.SOUND` is one too, with the features of sound inside."""


def tflite_schema() -> Any:
    """Return the module of TFLite's schema.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "tflite") from None
    return schema_py_generated


def _check_mark(content: bytes) -> None:
    if content[4:8] != b"TFL3":
        raise ExportError("not a .tflite file: it lacks the mark TFL3")


def parsed(content: bytes) -> Any:
    """Return a .tflite as the schema's objects.

    Raises:
        ExportError: this is not a .tflite.
    """
    _check_mark(content)
    try:
        model = tflite_schema().ModelT.InitFromPackedBuf(content, 0)
        for buffer in model.buffers:  # some writers put the data behind the flatbuffer, and its place into the buffer
            if buffer.offset > 1:
                data = content[buffer.offset : buffer.offset + buffer.size]
                if len(data) != buffer.size:
                    raise ValueError("the file ends before its data")
                buffer.data, buffer.offset, buffer.size = np.frombuffer(data, np.uint8), 0, 0
    except MissingExtraError:
        raise
    except Exception as error:  # a reader of flatbuffers follows offsets wherever they lead
        raise ExportError("not a readable .tflite file: it is truncated or corrupt") from error
    return model


def operators_of(model: Any) -> Iterator[tuple[int, Any, Any]]:
    """Yield each operator of a parsed file: its kind, its graph and itself, in the order in which they run."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            yield max(code.builtinCode, code.deprecatedBuiltinCode), graph, operator


def add_metadata(content: bytes, metadata: dict[str, Any]) -> bytes:
    """Return the file with the metadata in it; what it had of ours before is replaced.

    The file is written compactly: equal vectors are stored once (each quantised channel has a zero point of eight
    bytes, mostly zero), and inner tensors, which converters name after every module they passed, are numbered.
    """
    schema, model = tflite_schema(), parsed(content)
    for graph in model.subgraphs:
        outer = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name if number in outer else str(number)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = ENTRY
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*(other for other in model.metadata or [] if other.name != ENTRY.encode()), entry]
    return packed(model, len(content))


def packed(model: Any, size: int) -> bytes:
    """Return the file of the schema's objects, of about this size."""
    builder = _builder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _builder(size: int) -> Any:
    """Return a builder of flatbuffers that stores equal numeric vectors once, as the format allows."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        stored: dict[tuple[str, bytes], int]

        def CreateNumpyVector(self, x: Any) -> int:  # noqa: N802 (the library's name)
            key = (str(x.dtype), x.tobytes())
            if key not in self.stored:
                self.stored[key] = super().CreateNumpyVector(x)
            return self.stored[key]

    builder = Builder(size)
    builder.stored = {}
    return builder


def read_metadata(content: bytes) -> dict[str, Any] | None:
    """Return the metadata of a .tflite, None if it has none of ours.

    Raises:
        ExportError: this is not a .tflite.
    """
    _check_mark(content)
    try:
        return _entry(content)
    except Exception as error:  # a reader of flatbuffers follows offsets wherever they lead
        raise ExportError("not a readable .tflite file: it is truncated or corrupt") from error


def _entry(content: bytes) -> dict[str, Any] | None:
    """Find the entry with flatbuffers alone, which a device with no more than tflite-runtime has too."""
    from flatbuffers import encode, number_types, packer
    from flatbuffers.table import Table

    def tables(table: Any, field: int) -> list[Any]:
        offset = table.Offset(4 + 2 * field)
        start = table.Vector(offset) if offset else 0
        count = table.VectorLen(offset) if offset else 0
        return [Table(table.Bytes, table.Indirect(start + 4 * number)) for number in range(count)]

    model = Table(content, encode.Get(packer.uoffset, content, 0))
    buffers, entries = 4, 6  # of the table Model in TFLite's schema
    for entry in tables(model, entries):
        name, number = entry.Offset(4), entry.Offset(6)
        if name and entry.String(entry.Pos + name).decode() == ENTRY:
            place = entry.Get(number_types.Uint32Flags, entry.Pos + number) if number else 0
            buffer = tables(model, buffers)[place]
            data = buffer.Offset(4)
            start, size = buffer.Vector(data), buffer.VectorLen(data)
            found: dict[str, Any] = json.loads(content[start : start + size])
            return found
    return None


def describe(content: bytes) -> dict[str, Any]:
    """Return what a .tflite holds: its signatures, operators, number formats, size and our metadata.

    Raises:
        ExportError: this is not a .tflite.
    """
    schema, model = tflite_schema(), parsed(content)
    metadata = read_metadata(content)
    try:
        kinds = names_of(schema.BuiltinOperator)
        types = names_of(schema.TensorType)
        operators: collections.Counter[str] = collections.Counter()
        weights: collections.Counter[str] = collections.Counter()
        for kind, _, operator in operators_of(model):
            code = model.operatorCodes[operator.opcodeIndex]
            custom = code.customCode.decode() if code.customCode else "CUSTOM"
            operators[custom if kinds[kind] == "CUSTOM" else kinds[kind]] += 1
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                data = model.buffers[tensor.buffer].data
                if data is not None:
                    weights[types[tensor.type]] += len(data)
        return {
            "bytes": len(content),
            "signatures": _signatures(model, types),
            "operators": dict(operators.most_common()),
            "constant_bytes": dict(weights.most_common()),
            "metadata": metadata,
        }
    except Exception as error:
        raise ExportError("not a readable .tflite file: it is truncated or corrupt") from error


def names_of(enumeration: Any) -> dict[int, str]:
    """Return the names of one of the schema's enumerations, by their numbers."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _signatures(model: Any, types: dict[int, str]) -> dict[str, Any]:
    def tensor(graph: Any, number: int) -> dict[str, Any]:
        found = graph.tensors[number]
        told = found.shape if found.shapeSignature is None else found.shapeSignature  # -1 is of any size
        shape = [] if told is None else [int(size) for size in told]
        return {"shape": shape, "dtype": types[found.type].lower()}

    result: dict[str, Any] = {}
    for signature in model.signatureDefs or []:
        graph = model.subgraphs[signature.subgraphIndex]
        ends = {"inputs": signature.inputs, "outputs": signature.outputs}
        result[signature.signatureKey.decode()] = {
            end: {pair.name.decode(): tensor(graph, pair.tensorIndex) for pair in pairs} for end, pairs in ends.items()
        }
    if not result:
        graph = model.subgraphs[0]
        ends = {"inputs": graph.inputs, "outputs": graph.outputs}
        result["(no signature)"] = {
            end: {graph.tensors[number].name.decode(): tensor(graph, number) for number in numbers}
            for end, numbers in ends.items()
        }
    return result
