"""Event-camera recordings: AEDAT 3.1, AEDAT 4 written by its maker's own library, .npy; binning; digits that move."""

import struct

import dv_processing
import numpy as np
import pytest

from edgekit.data import load
from edgekit.data.events import EVENT, read, read_aedat3, to_frames
from edgekit.data.moving_digits import SENSOR, record
from edgekit.data.settings import Data, Events
from edgekit.errors import DataError

RNG = np.random.default_rng(0)
HEAD = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def _random(count, sensor=(128, 128), start=1000):
    events = np.zeros(count, EVENT)
    events["t"] = start + np.sort(RNG.integers(0, 80_000, count))
    events["x"], events["y"] = RNG.integers(0, sensor[1], count), RNG.integers(0, sensor[0], count)
    events["p"] = RNG.random(count) < 0.5
    return events


def _packet(kind, body, count, size=8, overflow=0, valid=None):
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, count, count, count if valid is None else valid) + body


def _polarity(events, valid=None, overflow=0):
    data = np.zeros(len(events), [("a", "<u4"), ("t", "<u4")])
    flags = np.ones(len(events), np.uint32) if valid is None else valid.astype(np.uint32)
    data["a"] = flags | (events["p"].astype(np.uint32) << 1)
    data["a"] |= (events["y"].astype(np.uint32) << 2) | (events["x"].astype(np.uint32) << 17)
    data["t"] = events["t"] & 0x7FFFFFFF
    return _packet(1, data.tobytes(), len(events), overflow=overflow)


def test_aedat3_polarity_events_are_read_others_and_invalid_ones_passed_over():
    one, two = _random(50), _random(30, start=90_000)
    valid = RNG.random(30) < 0.7
    special = _packet(0, bytes(24), 3)
    content = HEAD + _polarity(one) + special + _polarity(two, valid)
    found = read_aedat3(content, "x")
    assert found.sensor == (128, 128)
    assert np.array_equal(found.events, np.concatenate([one, two[valid]]))


def test_aedat3_timestamps_go_on_after_they_overflow():
    events = _random(9)
    found = read_aedat3(HEAD + _polarity(events, overflow=2), "x").events
    assert np.array_equal(found["t"], events["t"] + (2 << 31))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD.replace(b"#!END-HEADER\r\n", b""), "its header has no end"),
        (HEAD + _polarity(_random(20))[:-3], "cut short or corrupt"),
        (HEAD + _polarity(_random(20))[:10], "cut short in a packet's header"),
        (HEAD + _packet(-32767, bytes(8), 1), "compressed"),
        (HEAD + _packet(1, bytes(8), 1, size=0), "corrupt"),
        (HEAD + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, -5, -5, 0), "corrupt"),
    ],
)
def test_broken_aedat3_files_are_refused(content, message):
    with pytest.raises(DataError, match=message):
        read_aedat3(content, "x.aedat")


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD_HIGH"])
def test_aedat4_as_dv_processing_writes_it(compression, tmp_path):
    path, events = tmp_path / "a.aedat4", _random(25_000, (96, 128))
    config = dv_processing.io.MonoCameraWriter.EventOnlyConfig(
        "CAMERA", (128, 96), getattr(dv_processing.CompressionType, compression)
    )
    writer = dv_processing.io.MonoCameraWriter(dv_processing.Path(str(path)), config)
    store = dv_processing.EventStore()
    for event in events:
        store.push_back(int(event["t"]), int(event["x"]), int(event["y"]), bool(event["p"]))
    writer.writeEvents(store)
    del writer
    found = read(path)
    assert found.sensor == (96, 128)
    assert np.array_equal(found.events, events)
    path.write_bytes(path.read_bytes()[:9000])
    read.cache_clear()
    with pytest.raises(DataError, match="not a readable AEDAT 4"):
        read(path)


def test_npy_events_come_as_columns_or_as_fields(tmp_path):
    events = _random(40)
    columns = np.stack([events[name].astype(np.int64) for name in ("t", "x", "y", "p")], 1)
    np.save(tmp_path / "columns.npy", columns[::-1])
    np.save(tmp_path / "fields.npy", events)
    one, other = (read(tmp_path / f"{name}.npy").events for name in ("columns", "fields"))
    assert np.array_equal(np.sort(one, order=("t", "x", "y")), np.sort(events, order=("t", "x", "y")))
    assert np.array_equal(other, events)
    np.save(tmp_path / "odd.npy", columns[:, :3])
    with pytest.raises(DataError, match="rows of t, x, y, p"):
        read(tmp_path / "odd.npy")
    (tmp_path / "text.aedat").write_bytes(b"hello, this is no recording")
    with pytest.raises(DataError, match=r"neither AEDAT 3.1 nor AEDAT 4.0"):
        read(tmp_path / "text.aedat")


def test_frames_count_every_event_once():
    events, settings = _random(3000), Events(frames=5, height=16, width=8, largest=1000)
    frames = to_frames(events, (128, 128), settings, "x") * 1000
    assert frames.shape == (5, 2, 16, 8)
    assert round(float(frames.sum())) == 3000
    span = events["t"][-1] - events["t"][0] + 1
    chosen = events[7]
    frame = int((chosen["t"] - events["t"][0]) * 5 // span)
    same = events[
        ((events["t"] - events["t"][0]) * 5 // span == frame)
        & (events["y"] // 8 == chosen["y"] // 8)
        & (events["x"] // 16 == chosen["x"] // 16)
        & (events["p"] == chosen["p"])
    ]
    assert round(float(frames[frame, int(chosen["p"]), chosen["y"] // 8, chosen["x"] // 16])) == len(same)
    capped = to_frames(events, (128, 128), Events(frames=5, height=2, width=2, largest=3), "x")
    assert capped.max() == 1.0
    spikes = to_frames(events, (128, 128), Events(frames=5, binary=True), "x")
    assert set(np.unique(spikes)) == {0.0, 1.0}
    windows = to_frames(events, (128, 128), Events(frames=2, window_ms=10.0, largest=1000), "x") * 1000
    assert round(float(windows.sum())) == (events["t"] - events["t"][0] < 20_000).sum()
    assert not to_frames(events[:0], (128, 128), settings, "x").any()
    with pytest.raises(DataError, match="outside its sensor of 64 x 64"):
        to_frames(events, (64, 64), settings, "x")


def _class_folder(tmp_path):
    for name in ("wave", "clap"):
        (tmp_path / name).mkdir()
        for number in range(12):
            np.save(tmp_path / name / f"{number}.npy", _random(200, (32, 32)))
    return tmp_path


def test_a_folder_a_class(tmp_path):
    sensor = Events(sensor_height=32, sensor_width=32)
    settings = Data(source=f"events:{_class_folder(tmp_path)}", clients=3, partition="iid", events=sensor)
    dataset = load(settings, 0)
    assert dataset.classes == ["clap", "wave"]
    assert dataset.shape == (8, 2, 16, 16)
    with pytest.raises(DataError, match="how large its sensor is: set data.events.sensor_height"):
        load(settings.model_copy(update={"events": Events()}), 0)


def test_recordings_with_labels_belong_to_who_made_them(tmp_path):
    for user in range(6):
        events = _random(4000)
        (tmp_path / f"user{user}_led.aedat").write_bytes(HEAD + _polarity(events))
        rows = [f"{1 + number % 10},{1000 + 8000 * number},{9000 + 8000 * number}" for number in range(10)]
        (tmp_path / f"user{user}_led_labels.csv").write_text("\n".join(["class,startTime_usec,endTime_usec", *rows]))
    dataset = load(Data(source=f"events:{tmp_path}", partition="natural", calibration_examples=6), 0)
    assert dataset.classes == [str(number) for number in range(1, 11)]
    assert dataset.clients == 6
    assert "60 gestures of 6 people" in dataset.description
    whole = to_frames(read(tmp_path / "user0_led.aedat").events, (128, 128), Events(), "x")
    assert not np.array_equal(dataset.client(0).x[0], whole)
    (tmp_path / "user9_led_labels.csv").write_text("class,startTime_usec,endTime_usec\n1,2,3\n")
    with pytest.raises(DataError, match=r"no recording user9_led.aedat"):
        load(Data(source=f"events:{tmp_path}"), 0)
    (tmp_path / "user9_led_labels.csv").write_text("class,start\n1,x,3\n")
    (tmp_path / "user9_led.npy").write_bytes(b"")
    with pytest.raises(DataError, match="no table of class"):
        load(Data(source=f"events:{tmp_path}"), 0)


def test_a_moving_bar_makes_events_where_its_edges_are():
    bar = np.zeros((8, 8), np.float32)
    bar[:, 3:5] = 1.0
    events = record(bar, 0.0, np.random.default_rng(0))  # to the right
    assert (np.diff(events["t"]) >= 0).all()
    assert 0 <= events["x"].min() <= events["x"].max() < SENSOR
    brighter, darker = events[events["p"]], events[~events["p"]]
    assert brighter["x"].mean() > darker["x"].mean() + 1  # its front is brighter, its back darker
    early, late = (part["x"].mean() for part in np.array_split(brighter, 2))
    assert late > early
    left = record(bar, np.pi, np.random.default_rng(0))
    assert left[left["p"]]["x"].mean() < left[~left["p"]]["x"].mean() - 1


def test_moving_digits_are_the_same_each_time():
    settings = Data(source="moving-digits", clients=5, events=Events(frames=4, height=8, width=8))
    one, other = (load(settings, 0) for _ in range(2))
    assert np.array_equal(one.client(2).x[:3], other.client(2).x[:3])
    assert one.shape == (4, 2, 8, 8)
    assert 0 < one.test.x.mean() < 0.5
    assert one.test.x.max() == 1.0
