"""`events:` recordings of event cameras: AEDAT 3.1, AEDAT 4 and .npy, binned to frames when a client is sampled.

Layouts: one subfolder a class; or recordings, each with a `NAME_labels.csv` beside it, of the rows
`class,startTime_usec,endTime_usec`, as DVS128 Gesture has them (Amir et al. 2017): each row is an example, and
what stands before the first underscore of the name owns it.
"""

import csv
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import why_unreadable
from edgekit.data.federated import Floats, Integers
from edgekit.data.images import class_folders
from edgekit.data.settings import Events
from edgekit.errors import DataError, MissingExtraError

EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")])
"""One event: microseconds, column, row (0, 0 is the upper left), and whether the pixel grew brighter."""

_SUFFIXES = {".aedat", ".aedat4", ".npy"}
_PACKET = np.dtype(
    [(name, "<i2") for name in ("type", "source")]
    + [(name, "<i4") for name in ("size", "offset", "overflow", "capacity", "number", "valid")]
)
_POLARITY = 1
_CACHED = 4
"""Recordings kept: one with labels is cut into many examples."""


@dataclass(frozen=True)
class Recording:
    """Events and the sensor's size, (height, width); None where the file does not say."""

    events: NDArray[Any]
    sensor: tuple[int, int] | None


@dataclass(frozen=True)
class EventFolder:
    """Recordings, or parts of them, with a class each; `load` reads them as they are asked for.

    Attributes:
        files: a recording for each example.
        spans: first and last microsecond of each example; None is the whole recording.
        labels, classes, groups, description, normalisation: see `Source`.
        settings: how events become frames.
    """

    files: list[Path]
    spans: list[tuple[int, int] | None]
    labels: Integers
    classes: list[str]
    settings: Events
    description: str
    groups: NDArray[np.str_] | None = None
    normalisation: dict[str, Any] = field(default_factory=lambda: {"mean": 0.0, "std": 1.0})

    def load(self, indices: Integers) -> Floats:
        """Return frames (examples, frames, 2, height, width): darker and brighter, 0..1.

        Raises:
            DataError: a file is not a readable recording; the message names it.
        """
        return np.stack([self._frames(int(index)) for index in indices])

    def _frames(self, index: int) -> Floats:
        recording = read(self.files[index])
        events, span = recording.events, self.spans[index]
        if span is not None:
            first, last = np.searchsorted(events["t"], span)
            events = events[first:last]
        sensor = recording.sensor or (self.settings.sensor_height, self.settings.sensor_width)
        if not all(sensor):
            raise DataError(
                f"{self.files[index]} does not say how large its sensor is: set data.events.sensor_height and "
                "sensor_width"
            )
        return to_frames(events, sensor, self.settings, str(self.files[index]))


def read_folder(folder: Path, settings: Events) -> EventFolder:
    """List the recordings of a folder, in either layout.

    Raises:
        DataError: no such folder, or no recordings in it.
    """
    size = f"{settings.frames} frames of {settings.height} x {settings.width}"
    tables = sorted(folder.glob("*_labels.csv")) if folder.is_dir() else []
    if not tables:
        whole, labels, classes = class_folders(folder, _SUFFIXES)
        text = f"{folder}, {len(whole)} recordings as {size}"
        return EventFolder(whole, [None] * len(whole), labels, classes, settings, text)
    files: list[Path] = []
    spans: list[tuple[int, int] | None] = []
    found, owners = [], []
    for table in tables:
        stem = table.name.removesuffix("_labels.csv")
        recordings = [path for path in sorted(folder.glob(f"{stem}.*")) if path.suffix in _SUFFIXES]
        if not recordings:
            raise DataError(f"{table} has no recording {stem}.aedat, .aedat4 or .npy beside it")
        for name, start, end in _rows(table):
            files.append(recordings[0])
            spans.append((start, end))
            found.append(name)
            owners.append(stem.partition("_")[0])
    names, labels = np.unique(found, return_inverse=True)
    order = sorted(range(len(names)), key=lambda i: (len(names[i]), names[i]))  # 2 before 10
    places = np.argsort(order)
    return EventFolder(
        files,
        spans,
        places[labels].astype(np.int64),
        [str(names[i]) for i in order],
        settings,
        f"{folder}, {len(files)} gestures of {len(set(owners))} people as {size}",
        np.array(owners),
    )


def _rows(table: Path) -> list[tuple[str, int, int]]:
    try:
        with table.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row]
        return [(row[0].strip(), int(row[1]), int(row[2])) for row in rows[1:]]
    except (OSError, UnicodeDecodeError, ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{table} is no table of class,startTime_usec,endTime_usec: {error}") from None


@lru_cache(_CACHED)
def read(path: Path) -> Recording:
    """Read a recording.

    Raises:
        DataError: it is missing, corrupt, or of a kind that is not read.
        MissingExtraError: AEDAT 4 needs the package `aedat`.
    """
    try:
        if path.suffix == ".npy":
            return _read_npy(path)
        with path.open("rb") as file:
            begin = file.read(14)
        if begin.startswith(b"#!AER-DAT3.1"):
            return read_aedat3(path.read_bytes(), str(path))
        if begin.startswith(b"#!AER-DAT4.0"):
            return _read_aedat4(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    raise DataError(f"{path} is neither AEDAT 3.1 nor AEDAT 4.0; it begins with {begin[:12]!r}")


def _read_npy(path: Path) -> Recording:
    """Read an array of (events, 4), columns t, x, y, p; or a structured one with these fields (p may be `on`)."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy file: {why_unreadable(error)}") from None
    if array.dtype.names is not None:
        names = array.dtype.names
        polarity = next((name for name in ("p", "on", "polarity") if name in names), "")
        if not {"t", "x", "y"} <= set(names) or not polarity:
            raise DataError(f"{path} has the fields {', '.join(names)}; it needs t, x, y and p")
        columns = [array[name] for name in ("t", "x", "y", polarity)]
    elif array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "uif":
        columns = list(array.T)
    else:
        raise DataError(f"{path} has shape {array.shape}; events are rows of t, x, y, p")
    for column in columns:
        if column.dtype.kind not in "uifb" or not np.isfinite(column).all():
            raise DataError(f"{path} holds events that are not finite numbers")
    if any(c.size and not 0 <= c.min() <= c.max() < 1 << 15 for c in columns[1:3]):
        raise DataError(f"{path} holds events at x or y below 0 or beyond 32767")
    return Recording(_events(*columns), None)


def _events(t: NDArray[Any], x: NDArray[Any], y: NDArray[Any], p: NDArray[Any]) -> NDArray[Any]:
    """Return events in the order of time."""
    found = np.empty(len(t), EVENT)
    found["t"], found["x"], found["y"], found["p"] = t, x, y, np.asarray(p) > 0
    return found if (np.diff(found["t"]) >= 0).all() else found[np.argsort(found["t"], kind="stable")]


def read_aedat3(content: bytes, where: str) -> Recording:
    """Read the polarity events of AEDAT 3.1 (iniVation's "AEDAT file formats", section 3.1); others are skipped.

    Args:
        content: of the file.
        where: names it in errors.

    Raises:
        DataError: the header or a packet is broken, or packets are compressed.
    """
    end = re.search(rb"^#!END-HEADER\r?\n", content[: 1 << 16], re.MULTILINE)
    if end is None:
        raise DataError(f"{where}: its header has no end")
    head = content[: end.start()].decode("latin-1")
    position = end.end()
    times, addresses = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    while position < len(content):
        if position + _PACKET.itemsize > len(content):
            raise DataError(f"{where} is cut short in a packet's header")
        header = np.frombuffer(content, _PACKET, 1, position)[0]
        packet = {name: int(header[name]) for name in _PACKET.names or ()}
        position += _PACKET.itemsize
        if packet["type"] < 0:
            raise DataError(f"{where}: its packets are compressed (Serial-TS); write it again as RAW")
        body = packet["capacity"] * packet["size"]
        if packet["size"] < 8 or not 0 <= packet["number"] <= packet["capacity"] or position + body > len(content):
            raise DataError(f"{where} is cut short or corrupt in a packet of {packet['number']} events")
        if packet["type"] == _POLARITY:
            layout = np.dtype(
                {
                    "names": ["data", "time"],
                    "formats": ["<u4", "<u4"],
                    "offsets": [0, min(max(packet["offset"], 0), packet["size"] - 4)],
                    "itemsize": packet["size"],
                }
            )
            part = np.frombuffer(content, layout, packet["number"], position)
            valid = part[(part["data"] & 1) == 1]
            addresses.append(valid["data"])
            times.append(valid["time"].astype(np.int64) | (packet["overflow"] << 31))
        position += body
    data = np.concatenate(addresses)
    sensor = (128, 128) if "DVS128" in head else None
    found = _events(np.concatenate(times), (data >> 17) & 0x7FFF, (data >> 2) & 0x7FFF, (data >> 1) & 1)
    return Recording(found, sensor)


def _read_aedat4(path: Path) -> Recording:
    try:
        import aedat
    except ImportError:
        raise MissingExtraError("aedat", "events") from None
    try:
        decoder = aedat.Decoder(str(path))
        streams = {number: stream for number, stream in decoder.id_to_stream().items() if stream["type"] == "events"}
        packets = [packet["events"] for packet in decoder if "events" in packet]
    except Exception as error:  # the package raises RuntimeError and others
        raise DataError(f"{path} is not a readable AEDAT 4 file: {' '.join(str(error).split())}") from None
    if not streams:
        raise DataError(f"{path} holds no stream of events")
    stream = next(iter(streams.values()))
    if not packets:
        return Recording(np.zeros(0, EVENT), (int(stream["height"]), int(stream["width"])))
    joined = np.concatenate(packets)
    polarity = (joined.dtype.names or ())[3]
    found = _events(joined["t"], joined["x"], joined["y"], joined[polarity])
    return Recording(found, (int(stream["height"]), int(stream["width"])))


def to_frames(events: NDArray[Any], sensor: tuple[int, int], settings: Events, where: str) -> Floats:
    """Count events into frames: equal parts of time, of the map, darker and brighter apart.

    Args:
        events: of EVENT, in the order of time.
        sensor: its (height, width).
        settings: the frames.
        where: names the recording in errors.

    Returns:
        (frames, 2, height, width), counts up to `largest` as a share of it; with `binary`, 0 or 1.

    Raises:
        DataError: events lie outside the sensor.
    """
    counts = np.zeros((settings.frames, 2, settings.height, settings.width), np.float32)
    if len(events) == 0:
        return counts
    y, x = events["y"].astype(np.int64), events["x"].astype(np.int64)
    if y.min() < 0 or x.min() < 0 or y.max() >= sensor[0] or x.max() >= sensor[1]:
        raise DataError(f"{where} has events outside its sensor of {sensor[0]} x {sensor[1]}")
    since = events["t"] - events["t"][0]
    span = int(1000 * settings.window_ms) * settings.frames if settings.window_ms else int(since[-1]) + 1
    inside = since < span
    frame = since[inside] * settings.frames // span
    row = y[inside] * settings.height // sensor[0]
    column = x[inside] * settings.width // sensor[1]
    np.add.at(counts, (frame, events["p"][inside].astype(np.int64), row, column), 1)
    if settings.binary:
        return np.asarray(counts > 0, np.float32)
    return np.asarray(np.minimum(counts, settings.largest) / settings.largest, np.float32)
