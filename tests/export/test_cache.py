"""Conversions kept by content: taken again when all is the same, made anew when anything differs, never in the way."""

import json
import os

import numpy as np
import pytest
import torch

from edgekit.export import cache, convert
from edgekit.export.quantise import quantise


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def network(seed=0, wider=0, activation=torch.nn.ReLU):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4 + wider), activation(), torch.nn.Linear(4 + wider, 2))


def test_the_same_network_is_converted_once_and_it_is_said(folder, monkeypatch):
    told = []
    first = convert.to_float32(network(), (3,))
    assert cache.size()[0] == 1
    monkeypatch.setattr(convert, "converter", lambda: None)  # nothing can be converted from here on
    with cache.telling(told.append):
        assert convert.to_float32(network(), (3,)) == first
        assert convert.to_float32(network(), (3,)) == first
    assert told == [f"float32.tflite: taken from {folder}, where an equal network was converted before"]


def test_another_weight_layer_or_shape_is_another_file(folder):
    for made, shape in (
        (network(), (3,)), (network(1), (3,)), (network(0, 1), (3,)), (network(0, 0, torch.nn.Tanh), (3,)),
        (network(), (5, 3)),
    ):  # fmt: skip
        before = cache.size()[0]
        convert.to_float32(made, shape)
        assert cache.size()[0] == before + 1


def test_constants_that_are_no_weights_count_too(folder):
    class Scaled(torch.nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by, self.table = by, torch.full((3,), float(by))

        def forward(self, x):
            return x * self.table + self.by

    files = {convert.to_float32(Scaled(by), (3,)) for by in (2, 3)}
    assert len(files) == cache.size()[0] == 2


def test_other_calibration_examples_or_presets_are_another_file(folder):
    float32 = convert.to_float32(network(), (3,))
    x = np.random.default_rng(0).random((8, 3), np.float32)
    made = [quantise(float32, "int8", convert.as_inputs((3,), part)) for part in (x, 2 * x, x)]
    made.append(quantise(float32, "int8-weights", {}))
    assert made[0] == made[2]
    assert len(set(made)) == 3
    assert cache.size()[0] == 4


def test_other_libraries_make_other_files(folder, monkeypatch):
    convert.to_float32(network(), (3,))
    monkeypatch.setattr(cache, "_makers", lambda: b"another version")
    convert.to_float32(network(), (3,))
    assert cache.size()[0] == 2


def test_a_damaged_file_is_made_anew(folder):
    first = convert.to_float32(network(), (3,))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-9], b"", whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
        file.write_bytes(damaged)
        assert convert.to_float32(network(), (3,)) == first
        assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_or_read_costs_time_alone(folder):
    folder.write_text("a file where the folder should be")
    assert convert.to_float32(network(), (3,))
    assert cache.size() == (0, 0)


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    sizes = [cache.kept(f"file {number}", [], lambda: bytes(100)) and cache.size()[1] for number in range(3)]
    monkeypatch.setattr(cache, "LARGEST_BYTES", sizes[2])
    for age, number in enumerate((1, 0, 2)):
        os.utime(folder / (cache._key(f"file {number}", []) + cache.ENDING), (1000 - age, 1000 - age))
    cache.kept("file 3", [], lambda: bytes(100))
    left = {file.name for file in folder.iterdir()}
    assert len(left) == 3
    assert cache._key("file 2", []) + cache.ENDING not in left


def test_doctor_tells_the_size_and_clears(folder, edgekit, tmp_path):
    cache.kept("a file", [], lambda: bytes(2_000_000))
    assert "1 conversions to .tflite kept in" in edgekit("doctor", cwd=tmp_path).stdout
    told = json.loads(edgekit("doctor", "--json", cwd=tmp_path).stdout)["conversions"]
    assert told == {"folder": str(folder), "files": 1, "bytes": 2_000_032}
    assert edgekit("doctor", "--clear-cache", cwd=tmp_path).returncode == 0
    assert list(folder.iterdir()) == []
