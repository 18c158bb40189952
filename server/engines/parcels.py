"""Objects for other processes: a pickle, and its arrays beside it, in shared memory or where a carrier keeps them."""

import io
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from edgekit.errors import TrainingError

ALIGNMENT = 64
"""Bytes: of the arrays, for vector instructions."""
_HEAD = struct.Struct("<QQ")


def pickled(thing: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Return an object as a pickle, and the arrays beside it.

    Functions within functions go along, and classes of the program that was started.

    Raises:
        TrainingError: something of it cannot be sent.
    """
    import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    try:
        return cloudpickle.dumps(thing, protocol=5, buffer_callback=buffers.append), buffers
    except Exception as error:  # pickling calls what may be the user's own
        told = " ".join(str(error).split())
        raise TrainingError(f"it cannot be sent to another process: {type(error).__name__}: {told}") from error


def send(to: socket.socket, thing: Any) -> None:
    """Send an object in shared memory, which has no name and is gone with the last process that holds it."""
    with shared(thing) as file:
        socket.send_fds(to, [b"."], [file.fileno()])


def receive(of: socket.socket, *, mapped: bool) -> Any:
    """Return the next object that was sent; its arrays can be written to, which nobody else sees.

    Args:
        of: where from.
        mapped: whether memory is shared until it is written to; it costs a descriptor for as long as an array lives.

    Raises:
        EOFError: the other side has ended.
        TrainingError: it cannot be read, as where it needs a module that is not here.
    """
    try:
        said, found, _, _ = socket.recv_fds(of, 1, 1)
    except ConnectionError:
        raise EOFError from None
    if not said or not found:
        raise EOFError
    with open(found[0], "rb") as file:
        return opened(file, mapped=mapped)


def shared(thing: Any) -> IO[bytes]:
    """Return an object as a file in memory (Linux), or on the disk without a name."""
    content, buffers = pickled(thing)
    arrays = [buffer.raw() for buffer in buffers]
    file = _unnamed()
    file.write(_HEAD.pack(len(content), len(arrays)) + np.array([a.nbytes for a in arrays], "<u8").tobytes() + content)
    for array in arrays:
        file.seek(-file.tell() % ALIGNMENT, io.SEEK_CUR)
        file.write(array)
    file.truncate()
    file.flush()
    return file


def _unnamed() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("edgekit"), "w+b")
    return tempfile.TemporaryFile()


def opened(file: IO[bytes], *, mapped: bool = True) -> Any:
    """Return the object of a file that `shared` made; arguments and errors as of `receive`."""
    if mapped:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    else:
        file.seek(0)
        whole = memoryview(bytearray(file.read()))
    length, count = _HEAD.unpack_from(whole)
    sizes = np.frombuffer(whole, "<u8", count, _HEAD.size).tolist()
    end = _HEAD.size + 8 * count + length
    content, parts = whole[end - length : end], []
    for size in sizes:
        end += -end % ALIGNMENT
        parts.append(whole[end : end + size])
        end += size
    return restored(content, parts)


def restored(content: bytes | memoryview, parts: Sequence[Any]) -> Any:
    """Return an object of its pickle and arrays.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        return pickle.loads(content, buffers=parts)
    except Exception as error:  # unpickling imports and calls what may be the user's own
        told = " ".join(str(error).split())
        raise TrainingError(f"it cannot be read in another process: {type(error).__name__}: {told}") from error
