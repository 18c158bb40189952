"""Each kind of source, good and broken; none of them reads a client's files before that client is asked for."""

import gzip
import re
import struct
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from edgekit.data import Examples, FederatedDataset, load
from edgekit.data.audio import log_mel, mel_filters, read_wav
from edgekit.data.files import array_source
from edgekit.data.settings import Audio, Data, Hub, Images
from edgekit.errors import DataError, ExperimentError

RNG = np.random.default_rng(0)


def test_digits_are_real_and_shared_without_overlap(digits):
    sizes = [len(digits.client(i)) for i in range(digits.clients)]
    assert sum(sizes) + len(digits.test) + len(digits.calibration) == 1797
    assert digits.shape == (1, 8, 8)
    assert digits.histogram(range(digits.clients)).sum() == sum(sizes) == digits.total_examples


def test_the_same_seed_gives_the_same_clients_and_another_gives_others():
    one, same, other = (load(Data(), seed).client(3).x for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert one.shape != other.shape or not np.array_equal(one, other)


def _npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_with_a_test_set_of_its_own(tmp_path):
    x, y = RNG.integers(0, 255, (200, 9, 7), np.uint8), RNG.integers(0, 3, 200)
    source = _npz(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    dataset = load(Data(source=source, clients=5, partition="iid"), 0)
    assert dataset.shape == (1, 9, 7)
    assert np.allclose(dataset.test.x[:, 0], x[:20] / 255)
    assert dataset.normalisation == {"mean": 0.0, "std": 255.0}


@pytest.mark.parametrize(("shape", "expected"), [((6, 4, 3), (3, 6, 4)), ((3, 6, 4), (3, 6, 4)), ((5,), (5,))])
def test_npz_finds_the_channels(tmp_path, shape, expected):
    source = _npz(tmp_path / "a.npz", x=RNG.random((60, *shape)), y=RNG.integers(0, 2, 60))
    assert load(Data(source=source, clients=2), 0).shape == expected


def test_natural_clients_are_the_groups(tmp_path):
    groups = np.array(["ann", "bob", "cy"])[RNG.integers(0, 3, 90)]
    source = _npz(tmp_path / "a.npz", x=RNG.random((90, 4)), y=RNG.integers(0, 2, 90), groups=groups)
    assert load(Data(source=source, partition="natural"), 0).clients == 3


def _idx(path, array, packed):
    kinds = {np.dtype(np.uint8): 8, np.dtype(np.int32): 12}
    head = bytes([0, 0, kinds[array.dtype], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_reads_the_files_of_mnist(tmp_path, packed):
    x, y = RNG.integers(0, 255, (120, 28, 28)).astype(np.uint8), RNG.integers(0, 10, 120).astype(np.uint8)
    end = ".gz" if packed else ""
    for stem, a, b in (("train", x, y), ("t10k", x[:30], y[:30])):
        _idx(tmp_path / f"{stem}-images-idx3-ubyte{end}", a, packed)
        _idx(tmp_path / f"{stem}-labels-idx1-ubyte{end}", b, packed)
    dataset = load(Data(source=f"idx:{tmp_path}", clients=4), 0)
    assert np.allclose(dataset.test.x[:, 0], x[:30] / 255)


def test_images_are_read_only_when_a_client_is_asked_for(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(30):
            pixels = RNG.integers(0, 255, (12, 10), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    settings = Data(source=f"images:{tmp_path}", clients=6, partition="iid", images=Images(height=8, width=6))
    dataset = load(settings, 0)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.client(0).x.shape[1:] == (1, 8, 6)
    # Nobody's pictures were read to make the dataset: clients whose files are gone fail alone.
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"not a picture")
    with pytest.raises(DataError, match="is not a readable picture"):
        dataset.client(1)


def _wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def _tones(folder):
    time = np.arange(4000) / 8000
    for speaker in ("ann", "bob"):
        for label, frequency in (("low", 300.0), ("high", 2500.0)):
            for number in range(12):
                _wav(folder / f"{label}_{speaker}_{number}.wav", 0.3 * np.sin(2 * np.pi * frequency * time))


def test_audio_by_a_pattern_for_label_and_speaker(tmp_path):
    _tones(tmp_path)
    audio = Audio(pattern=r"(?P<label>[a-z]+)_(?P<group>[a-z]+)_\d+\.wav", seconds=0.5)
    dataset = load(Data(source=f"audio:{tmp_path}", partition="natural", audio=audio), 0)
    assert dataset.clients == 2
    assert dataset.classes == ["high", "low"]
    high = dataset.test.x[dataset.test.y == 0].mean((0, 1, 3))
    low = dataset.test.x[dataset.test.y == 1].mean((0, 1, 3))
    assert high.argmax() > low.argmax()


def test_mel_filters_are_those_of_python_speech_features():
    speech = pytest.importorskip("python_speech_features")
    theirs = speech.get_filterbanks(nfilt=26, nfft=512, samplerate=16000)
    assert np.allclose(mel_filters(26, 512, 16000), theirs, atol=1e-6)


def test_silence_is_zero_and_a_full_scale_tone_is_about_one():
    settings = Audio(seconds=0.5)
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000).astype(np.float32)
    assert log_mel(np.zeros(4000, np.float32), settings).max() == 0
    assert 0.9 < log_mel(tone, settings).max() < 1.1


def test_a_folder_saved_by_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {
        "pixels": RNG.random((80, 4, 4)).tolist(),
        "digit": RNG.integers(0, 3, 80).tolist(),
        "writer": [f"w{i % 4}" for i in range(80)],
    }
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    hub = Hub(features="pixels", label="digit", group="writer")
    dataset = load(Data(source=f"hf:{tmp_path / 'set'}", partition="natural", hub=hub), 0)
    assert dataset.clients == 4
    assert dataset.shape == (1, 4, 4)
    with pytest.raises(DataError, match="has no column 'image'; it has pixels, digit, writer"):
        load(Data(source=f"hf:{tmp_path / 'set'}"), 0)


def test_a_function_of_the_users_may_make_a_million_lazy_clients(tmp_path, monkeypatch):
    (tmp_path / "mine_lazy.py").write_text(
        "import numpy as np\n"
        "from edgekit.data import Examples, FederatedDataset\n"
        "asked = []\n"
        "def client(i):\n"
        "    asked.append(i)\n"
        "    r = np.random.default_rng(i)\n"
        "    return Examples(r.random((3, 5), np.float32), r.integers(0, 2, 3))\n"
        "def load():\n"
        "    return FederatedDataset(10**6, client, client(0), client(1), ['a', 'b'], 'mine')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    dataset = load(Data(source="mine_lazy:load"), 0)
    assert dataset.clients == 10**6
    assert len(dataset.client(999_999)) == 3
    assert sys.modules["mine_lazy"].asked == [0, 1, 999_999]


def test_a_clients_bad_data_is_named():
    good = Examples(np.zeros((2, 4), np.float32), np.array([0, 1]))
    bad = {
        0: Examples(np.zeros((2, 5), np.float32), np.array([0, 1])),
        1: Examples(np.zeros((2, 4)), np.array([0, 1])),
        2: Examples(np.zeros((2, 4), np.float32), np.array([0, 7])),
        3: Examples(np.full((2, 4), np.inf, np.float32), np.array([0, 1])),
        4: Examples(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)),
    }
    dataset = FederatedDataset(5, bad.__getitem__, good, good, ["a", "b"], "bad")
    for client, message in enumerate(["shape (5,)", "float64", "label outside 0..1", "not finite", "has no examples"]):
        with pytest.raises(DataError, match=f"client {client} .*{re.escape(message)}"):
            dataset.client(client)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "it needs x and y"),
        ({"x": np.zeros((9, 2)), "y": np.zeros(8, int)}, "one label an example"),
        ({"x": np.zeros((9, 2)), "y": np.zeros(9, int)}, "all examples have one class"),
        ({"x": np.full((9, 2), np.nan), "y": np.arange(9) % 2}, "not finite"),
        ({"x": np.zeros((9, 2)), "y": np.linspace(0, 1, 9)}, "whole numbers"),
        ({"x": np.zeros((9, 2, 2, 2, 2, 2)), "y": np.arange(9) % 2}, "dimensions"),
        ({"x": np.zeros((40, 2)), "y": np.arange(40) % 2}, "too few for 40 clients"),
    ],
)
def test_unfit_arrays_are_one_clear_line(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(Data(source=_npz(tmp_path / "a.npz", **arrays)), 0)


def test_missing_and_corrupt_files_are_one_clear_line(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 5, 28, 28) + b"12")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 1) + b"1")
    cases = {
        f"npz:{tmp_path / 'none.npz'}": "does not exist",
        f"npz:{tmp_path / 'bad.npz'}": "not a readable .npz",
        f"idx:{tmp_path}": "cut short",
        f"idx:{tmp_path / 'nowhere'}": "holds no train-images",
        f"images:{tmp_path}": "one folder a class",
        f"audio:{tmp_path / 'nowhere'}": "is not a folder",
    }
    for source, message in cases.items():
        with pytest.raises(DataError, match=message):
            load(Data(source=source), 0)


def test_a_packed_idx_file_cut_short_is_an_error(tmp_path):
    whole = gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 5, 4, 4) + bytes(80))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        load(Data(source=f"idx:{tmp_path}"), 0)


def test_an_unknown_source_lists_what_there_is():
    with pytest.raises(
        ExperimentError,
        match="is unknown; known are digits, moving-digits, gestures, machine-sounds, presence, npz:FILE",
    ):
        load(Data(source="mnist"), 0)
    with pytest.raises(ExperimentError, match="no module named 'nowhere'"):
        load(Data(source="nowhere.at.all:load"), 0)


def test_natural_without_groups_says_how_to_name_them(tmp_path):
    with pytest.raises(DataError, match="names no owner"):
        load(Data(partition="natural"), 0)


@pytest.mark.long
def test_spoken_digits_by_speaker(large_data, tmp_path):
    file = np.load(large_data / "fsdd.npz")
    starts = np.concatenate([[0], np.cumsum(file["length"])])
    chosen = np.flatnonzero((file["index"] < 4) & (file["label"] < 3))
    for i in chosen:
        samples = file["samples"][starts[i] : starts[i + 1]] / 32768
        name = f"{file['label'][i]}_{file['speaker_names'][file['speaker'][i]]}_{file['index'][i]}.wav"
        _wav(tmp_path / name, samples)
    audio = Audio(pattern=r"(?P<label>\d)_(?P<group>[a-z]+)_\d+\.wav")
    dataset = load(Data(source=f"audio:{tmp_path}", partition="natural", audio=audio), 0)
    assert dataset.clients == 6
    assert dataset.shape == (1, 32, 31)


def _blobs(size=60):
    y = RNG.integers(0, 3, size)
    return (RNG.standard_normal((size, 6)) + 3 * np.eye(6)[y]).astype(np.float32), y


@pytest.mark.parametrize(
    ("made", "classes", "said"),
    [
        (lambda y: np.array(["low", "mid", "high"], object)[y], ["high", "low", "mid"], ""),
        (lambda y: y.astype(np.float64), ["0", "1", "2"], ""),
        (lambda y: np.array([5, 15, 25])[y], ["5", "15", "25"], "labels 5, 15, 25 are its 3 classes"),
        (lambda y: y + 1, ["1", "2", "3"], "labels 1, 2, 3 are its 3 classes"),
        (lambda y: y > 0, ["0", "1"], ""),
        (lambda y: y.astype(object), ["0", "1", "2"], ""),
    ],
)
def test_labels_as_tables_have_them(made, classes, said):
    x, y = _blobs()
    source = array_source(x, made(y), "here")
    assert source.classes == classes
    assert said in source.description
    right = np.array([str(one) for one in made(y).astype(int)]) if classes[0] != "high" else made(y)
    assert [source.classes[label] for label in source.labels] == [str(one) for one in right]


def test_other_labels_are_refused():
    with pytest.raises(DataError, match="labels must be whole numbers from 0, or names"):
        array_source(_blobs()[0], np.array([None] * 60, object), "here")


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 60), np.array([-1] * 60)])
def test_numbers_that_are_no_classes_need_an_objective(tmp_path, labels):
    np.savez(tmp_path / "d.npz", x=_blobs()[0], y=labels)
    with pytest.raises(DataError, match="labels must be whole numbers from 0, or names.*regression"):
        load(Data(source=f"npz:{tmp_path / 'd.npz'}", clients=3), 0)


def test_a_pandas_categorical_is_names():
    pandas = pytest.importorskip("pandas")
    x, y = _blobs()
    names = pandas.Categorical(np.array(["a", "b", "c"])[y])
    assert array_source(x, np.asarray(names), "here").classes == ["a", "b", "c"]


def test_a_test_set_goes_by_the_training_sets_classes_and_scale(tmp_path):
    x = RNG.integers(0, 256, (60, 4, 4))
    x[0, 0, 0] = 255
    dark = x // 20
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.array([2, 4, 9] * 20), x_test=dark, y_test=np.array([9, 4] * 30))
    dataset = load(Data(source=f"npz:{tmp_path / 'd.npz'}", clients=3), 0)
    assert dataset.classes == ["2", "4", "9"]
    assert dataset.test.y[:2].tolist() == [2, 1]
    assert np.allclose(dataset.test.x[:, 0], dark / 255)
    np.savez(tmp_path / "e.npz", x_train=x, y_train=np.array([2, 4] * 30), x_test=dark, y_test=np.array([9, 4] * 30))
    with pytest.raises(DataError, match="the test set has classes that training lacks"):
        load(Data(source=f"npz:{tmp_path / 'e.npz'}", clients=3), 0)


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        (np.zeros((5, 0, 4)), np.arange(5) % 2, "hold no values"),
        (np.zeros((5, 3)), np.array([10**400] * 5, object), "labels must be whole numbers"),
        (np.zeros((5, 3)), np.array([2**70] * 5, object), "labels must be whole numbers"),
        (np.zeros((5, 3)), np.array([b"\xff"] * 5), "text in UTF-8"),
        (np.zeros((5, 3)), np.array([np.nan] * 5), "some labels are not finite numbers of 32 bits: of 5 examples"),
        (np.zeros((5, 3)), np.array([1e200] * 5), "some labels are not finite numbers of 32 bits"),
        (np.zeros((5, 3)), np.array([["a"]] * 5), "one label an example"),
    ],
)
def test_odd_arrays_are_one_line(x, y, problem):
    with pytest.raises(DataError, match=problem):
        array_source(x, y, "here")


def test_bytes_are_text_and_large_numbers_stay_apart():
    assert array_source(np.zeros((4, 3)), np.array([b"cat", b"dog"] * 2), "here").classes == ["cat", "dog"]
    near = array_source(np.zeros((4, 3)), np.array([2**60, 2**60 + 1] * 2, object), "here")
    assert len(near.classes) == 2


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_images_of_any_whole_numbers_are_scaled_as_bytes_are(dtype):
    pixels = RNG.integers(0, 256, (60, 8, 8))
    pixels[0, 0, 0] = 255
    source = array_source(pixels.astype(dtype), RNG.integers(0, 3, 60), "here")
    same = array_source(pixels.astype(np.uint8), RNG.integers(0, 3, 60), "here")
    assert np.array_equal(source.x, same.x)
    assert source.normalisation["std"] == 255
    assert "scaled to 0..1" in source.description
    floats = array_source(pixels.astype(np.float32), RNG.integers(0, 3, 60), "here")
    assert "networks learn better from 0 to 1" in floats.description
    tokens = array_source(RNG.integers(0, 200, (60, 12)), RNG.integers(0, 3, 60), "here")
    assert tokens.x.max() > 1


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((9, 12, 10, 2), (2, 12, 10)),
        ((9, 8, 16, 16), (8, 16, 16)),
        ((9, 28, 28, 3), (3, 28, 28)),
        ((9, 3, 5, 2), (3, 5, 2)),
    ],
)
def test_channels_first_or_last(shape, read):
    assert array_source(RNG.random(shape, np.float32), np.arange(9) % 2, "here").x.shape[1:] == read


def test_channels_that_may_be_first_or_last_are_asked_about():
    with pytest.raises(DataError, match="2 channels first, or 2 last: give"):
        array_source(RNG.random((9, 2, 10, 2), np.float32), np.arange(9) % 2, "here")


def test_where_a_value_is_not_finite_is_said():
    x, y = _blobs()
    x[7, 2], x[9, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"in 2 examples, first in example 7 at .2,."):
        array_source(x, y, "here")


def test_recordings_of_other_rates_are_resampled(tmp_path):
    time = np.arange(8000) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    found = read_wav(tmp_path / "a.wav", 8000)
    wanted = 0.3 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)
    assert len(found) == 4000
    assert np.abs(found - wanted)[100:-100].max() < 0.01


def test_pictures_of_mixed_sizes_and_several_columns_through_hf(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(RNG.integers(0, 256, (8 + i % 3, 9, 3), np.uint8)) for i in range(60)]
    made = {"image": pictures, "label": [i % 2 for i in range(60)], "a": RNG.random(60), "b": list(range(60))}
    features = datasets.Features(
        image=datasets.Image(), label=datasets.Value("int64"), a=datasets.Value("float64"), b=datasets.Value("int64")
    )
    datasets.Dataset.from_dict(made, features=features).save_to_disk(str(tmp_path / "set"))
    source = f"hf:{tmp_path / 'set'}"
    mixed = load(Data(source=source, clients=3, images=Images(height=6, width=7)), 0)
    assert mixed.shape == (1, 6, 7)
    columns = load(Data(source=source, clients=3, hub=Hub(features=["a", "b"])), 0)
    assert columns.shape == (2,)
    with pytest.raises(DataError, match="column 'image' holds no single numbers"):
        load(Data(source=source, clients=3, hub=Hub(features=["a", "image"])), 0)
