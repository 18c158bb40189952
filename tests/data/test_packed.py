"""Examples of several parts: graphs, padded sequences, tokens, two inputs, superpixels."""

import zipfile

import numpy as np
import pytest
import torch

from edgekit.data.settings import Data, Superpixels
from edgekit.data.sources import load
from edgekit.data.superpixels import graph
from edgekit.errors import DataError
from edgekit.models import build
from edgekit.models.settings import Model

N = 40
Y = np.arange(N) % 2


def _loaded(path, **arrays):
    np.savez(path / "data.npz", y=np.arange(N) % 2, **arrays)
    return load(Data(source=f"npz:{path / 'data.npz'}", clients=2, partition="iid"), 0)


def _graphs():
    rng = np.random.default_rng(0)
    x, joined = rng.random((N, 5, 3), np.float32), np.ones((N, 5, 5), np.float32)
    x[:, 4], joined[:, 4], joined[:, :, 4] = 0, 0, 0
    return x, joined


def test_graphs_are_their_nodes_and_neighbours(tmp_path):
    x, joined = _graphs()
    dataset = _loaded(tmp_path, x=x, adjacency=joined)
    assert dataset.shape == (1, 5, 1 + 3 + 5)
    assert "graphs of 4 to 4 nodes with 3 features" in dataset.description
    one = dataset.test.x[0, 0]
    assert one[:, 0].tolist() == [1, 1, 1, 1, 0]
    assert np.array_equal(one[:, 4:], joined[0])
    model = build(Model(name="graph"), dataset.shape, 2, 0).eval()
    without = torch.from_numpy(np.delete(np.delete(dataset.test.x, 4, 2), 8, 3))
    smaller = build(Model(name="graph"), tuple(without.shape[1:]), 2, 0).eval()
    with torch.no_grad():  # padding changes nothing
        assert torch.allclose(model(torch.from_numpy(dataset.test.x)), smaller(without), atol=1e-5)


def test_sequences_of_unequal_length_are_padded_and_marked(tmp_path):
    length = np.arange(N) % 6 + 1
    dataset = _loaded(tmp_path, x=np.ones((N, 2, 6), np.float32), length=length)
    assert dataset.shape == (1, 3, 6)
    assert "sequences of 1 to 6 frames, the first feature tells padding" in dataset.description
    assert (dataset.test.x[:, 0, 1] == dataset.test.x[:, 0, 0]).all()
    assert set(dataset.test.x[:, 0, 0].sum(1)) <= {1, 2, 3, 4, 5, 6}
    build(Model(name="gru", arguments={"masked": True}), dataset.shape, 2, 0, dataset.calibration.x)


def test_tokens_are_whole_numbers_and_padding_is_0(tmp_path):
    tokens, length = np.full((N, 6), 3), np.full(N, 4)
    dataset = _loaded(tmp_path, x=tokens, length=length)
    assert dataset.shape == (6,)
    assert "tokens up to 3" in dataset.description
    assert dataset.test.x[0].tolist() == [3, 3, 3, 3, 0, 0]
    build(Model(name="mingru", arguments={"vocabulary": 4}), dataset.shape, 2, 0, dataset.calibration.x)


def test_two_inputs_lie_in_one_row(tmp_path):
    rng = np.random.default_rng(0)
    images, rows = rng.integers(0, 256, (N, 4, 5), np.uint8), rng.random((N, 3), np.float32)
    dataset = _loaded(tmp_path, x=images, x2=rows)
    assert dataset.shape == (23,)
    assert "model.arguments = {first = [1, 4, 5], second = [3]}" in dataset.description
    found = [np.abs(images.reshape(N, -1) / 255 - row[:20]).max(1).argmin() for row in dataset.test.x]
    assert np.allclose(rows[found], dataset.test.x[:, 20:])
    build(Model(name="fusion", arguments={"first": [1, 4, 5]}), dataset.shape, 2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, a: {"x": x, "adjacency": a[:, :4]}, r"graphs are \(n, nodes, features\) and \(n, nodes, nodes\)"),
        (lambda x, a: {"x": x, "adjacency": -a}, "negative numbers"),
        (lambda x, a: {"x": 0 * x, "adjacency": 0 * a}, "graph 0 has no nodes; leave it out"),
        (lambda x, a: {"x": x, "adjacency": a[:9]}, "one of each an example is needed"),
        (lambda x, a: {"x": x, "adjacency": a, "x2": x}, "one of adjacency, length, x2 at most"),
        (lambda x, a: {"x": x, "adjacency": a.astype(str)}, "must be numbers"),
        (
            lambda x, a: {"x_train": x, "y_train": Y, "x_test": x, "y_test": Y, "adjacency_train": a},
            "no adjacency_test",
        ),
        (lambda x, a: {"x_train": x, "y_train": Y, "adjacency": a}, "adjacency must lie beside each x"),
        (lambda x, a: {"x": x, "adjacency": np.where(a > 0, np.nan, a)}, "not finite"),
        (lambda x, a: {"x": x, "length": np.full(N, 4)}, "whole numbers from 1 to 3"),
        (lambda x, a: {"x": x, "length": np.zeros(N)}, "whole numbers from 1 to 3"),
        (lambda x, a: {"x": x[:, :, 0], "length": np.ones(N)}, "holds tokens, whole numbers"),
        (lambda x, a: {"x": x, "x2": np.full((N, 2), np.inf)}, "not finite"),
    ],
)
def test_parts_that_do_not_fit_are_told(change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        _loaded(tmp_path, **change(*_graphs()))


def test_superpixels_of_an_image_by_hand():
    image = np.zeros((1, 8, 8), np.float32)
    image[:, :, 4:] = 1.0
    nodes, joined = graph(image, Superpixels(nodes=4, neighbours=2))
    real = nodes.any(1)
    assert real.sum() >= 2
    assert set(np.round(nodes[real, 0], 6)) == {0.0, 1.0}  # regions do not cross the edge
    for colour, place in ((0.0, 1.5 / 8), (1.0, 5.5 / 8)):
        assert nodes[real & (nodes[:, 0] == colour)][:, 2].mean() == pytest.approx(place, abs=1e-6)
    assert np.array_equal(joined, joined.T)
    assert joined.diagonal().max() == 0
    assert ((joined > 0).sum(1)[real] >= 1).all()
    assert 0 < joined.max() <= 1


def test_images_of_a_source_become_graphs():
    dataset = load(Data(source="superpixels:digits", clients=3, superpixels=Superpixels(nodes=12, neighbours=4)), 0)
    assert dataset.shape == (1, 12, 1 + 3 + 12)
    assert "as graphs of" in dataset.description


@pytest.mark.parametrize(
    ("source", "error"),
    [("superpixels:gestures", None), ("superpixels:superpixels:digits", "superpixels are of images")],
)
def test_superpixels_are_of_images(source, error):
    settings = Data(source=source, clients=3, superpixels=Superpixels(nodes=3, neighbours=1))
    if error is None:
        assert load(settings, 0).shape == (1, 3, 1 + 5 + 3)
        return
    with pytest.raises(DataError, match=error):
        load(settings, 0)


def test_edges_count_whatever_their_weight():
    x, joined = _graphs()
    x = np.concatenate([np.ones((N, 5, 1), np.float32), x], 2)
    for kind in ("gat", "gcn"):
        model = build(Model(name="graph", arguments={"kind": kind}), (5, 9), 2, 0).eval()
        scores = []
        for weight in (0.0, 1e-3, 0.5, 1.0):
            with torch.no_grad():
                scores.append(model(torch.from_numpy(np.concatenate([x, weight * joined], 2))))
        assert (scores[0] - scores[1]).abs().max() > 1e-6
        assert (scores[0] - scores[2]).abs().max() > 1e-3
        assert torch.equal(scores[1], scores[3]) == (kind == "gat")


def test_bytes_are_brought_to_one_and_truths_are_edges(tmp_path):
    x, joined = _graphs()
    dataset = _loaded(tmp_path, x=(255 * x).astype(np.uint8), adjacency=joined > 0)
    assert 0.9 < dataset.test.x[..., 1:4].max() <= 1
    assert set(np.unique(dataset.test.x[..., 4:])) == {0.0, 1.0}
    sequences = _loaded(tmp_path, x=np.full((N, 2, 6), 255, np.uint8), length=np.full(N, 6))
    assert sequences.test.x.max() == 1


def test_what_a_file_holds_beside_is_not_read_and_what_it_cannot_hold_is_told(tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((N, 3)) * np.arange(N)[:, None], y=Y, junk=np.array([None]))
    assert load(Data(source=f"npz:{path}", clients=2, partition="iid"), 0).shape == (3,)  # junk is an object
    path.write_text("no zip at all")
    with pytest.raises(DataError, match="it holds Python objects, or is none$"):
        load(Data(source=f"npz:{path}"), 0)
    header = np.lib.format.magic(1, 0)
    told = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 100), }"
    told += b" " * (63 - (len(header) + 2 + len(told)) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", header + len(told).to_bytes(2, "little") + told + b"x" * 100)
        file.writestr("y.npy", b"")
    with pytest.raises(DataError, match="promises arrays that do not fit into memory|is not a readable .npz file"):
        load(Data(source=f"npz:{path}"), 0)
