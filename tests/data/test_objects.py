"""Data that a program has in memory: what edgekit.run and data.source = "module:name" take."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
import sklearn.datasets
import sklearn.preprocessing
import torch
from torch.utils.data import TensorDataset

from edgekit.data import load
from edgekit.data.objects import loaded
from edgekit.data.settings import Data
from edgekit.errors import DataError

X = np.random.default_rng(0).random((40, 6), np.float32)
Y = np.arange(40) % 4


class Pictures(torch.utils.data.Dataset):
    classes = ("cat", "dog")

    def __len__(self):
        return 40

    def __getitem__(self, place):
        return torch.full((3, 5, 5), place / 40), place % 2


class Ragged(Pictures):
    def __getitem__(self, place):
        return torch.zeros(3, 5, 5 + place), place % 2


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (X.tolist(), Y.tolist()),
        {"x": X, "y": Y},
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    ],
    ids=["arrays", "tensors", "lists", "mapping", "torch"],
)
def test_the_same_examples_however_they_are_given(given):
    source, test = loaded(given, "it", Data())
    assert test is None
    np.testing.assert_array_equal(source.x, X)
    np.testing.assert_array_equal(source.labels, Y)
    assert source.classes == ["0", "1", "2", "3"]


def test_names_of_classes_and_owners_are_kept():
    source, _ = loaded(Pictures(), "it", Data())
    assert (source.classes, source.x.shape) == (["cat", "dog"], (40, 3, 5, 5))
    source, _ = loaded((X, Y, Y // 2), "it", Data())
    assert sorted(set(source.groups)) == ["0", "1"]
    iris, every = sklearn.datasets.load_iris(), np.arange(150)
    found = loaded(iris, "it", Data())[0].fitted(every)
    assert found.classes == list(iris.target_names)
    scaled = sklearn.preprocessing.StandardScaler().fit_transform(iris.data)
    np.testing.assert_allclose(found.load(every), scaled, atol=1e-5)
    frame, _ = loaded(sklearn.datasets.load_iris(as_frame=True), "it", Data())
    assert (len(frame.raw), frame.label) == (4, "target")
    hub = datasets.Dataset.from_dict({"image": np.zeros((10, 8, 8), np.uint8).tolist(), "label": [0, 1] * 5})
    assert loaded(hub, "it", Data())[0].x.shape == (10, 1, 8, 8)


def test_a_module_of_ones_own_names_a_class_an_instance_or_a_table(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(
        "import numpy as np, pandas\n"
        "class Items:\n"
        "    def __len__(self): return 60\n"
        "    def __getitem__(self, place): return np.full(4, place / 60, np.float32), place % 3\n"
        "items = Items()\n"
        "frame = pandas.DataFrame({'a': np.arange(60.0), 'label': np.arange(60) % 3})\n"
        "def made(): return frame\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, shape in (("Items", (4,)), ("items", (4,)), ("frame", (1,)), ("made", (1,))):
        assert load(Data(source=f"own_data:{name}", clients=3), 0).shape == shape
    with pytest.raises(DataError, match="own_data:number is int: give"):
        load(Data(source="own_data:number"), 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "it is int: give"),
        ((X, Y[:5]), "one label an example"),
        (Ragged(), "several shapes"),
        ({"a": X}, "holds a; it needs x and y"),
        (["a", "b"], "is list"),
        (pa.table({"a": [1.0], "b": [[1, 2]]}), "holds list"),
    ],
)
def test_what_is_no_data_is_refused_in_a_line(given, told):
    with pytest.raises(DataError, match=told) as refused:
        loaded(given, "it", Data())
    assert "\n" not in str(refused.value)
