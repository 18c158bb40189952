"""Early exits: the file's stages are torch's, and who leaves early is counted."""

import numpy as np
import pytest
import torch

from edgekit.data import Examples
from edgekit.export.exits import answers, candidates, stopped, write_exits
from edgekit.export.metadata import read_metadata
from edgekit.export.runtimes import NAMES
from edgekit.export.verify import call
from edgekit.models.cost import macs
from edgekit.models.exits import Exits


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Exits((1, 8, 8), 4, channels=(8, 8), blocks=1).eval()


def test_stopping_by_hand():
    scores = np.zeros((3, 2, 2), np.float32)
    scores[0, 0] = [9, 0]  # sure at once
    scores[1, :, 1] = 1, 9  # sure at the last
    scores[2, 0] = [0, 9]  # sure at once, and wrong
    found = stopped(scores, np.array([0, 1, 0]), 0.95, np.array([10, 30]))
    assert found.shares == (0.666667, 0.333333)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.macs == pytest.approx((10 + 30 + 10) / 3)
    last = stopped(scores, np.array([0, 1, 0]), candidates(scores)[-1], np.array([10, 30]))
    assert last.macs == 30


def test_training_gives_all_answers_and_use_the_last(network):
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        every, last = network.train()(x), network.eval()(x)
    assert every.shape == (5, 2, 4)
    assert torch.allclose(every[:, -1], last)
    assert np.allclose(answers(network, x.numpy()), every.numpy(), atol=1e-6)


def test_the_files_stages_are_torchs(network, tmp_path):
    rng = np.random.default_rng(0)
    own, test = (Examples(rng.random((40, 1, 8, 8), np.float32), rng.integers(0, 4, 40)) for _ in range(2))
    facts = write_exits(network, (1, 8, 8), test, own, tmp_path, {}, [NAMES[0]], integers=True)
    assert facts["macs"][-1] == macs(network, (1, 8, 8)) + 8 * 4  # the first answer, which the whole leaves out
    assert sum(facts["shares"]) == pytest.approx(1, abs=1e-5)
    assert facts["mean_macs"] <= facts["macs"][-1]
    content = (tmp_path / "exits.tflite").read_bytes()
    (first,) = call(content, [("stage0", {"image": test.x[:1].transpose(0, 2, 3, 1)})])
    (second,) = call(content, [("stage1", {"map": first["map"]})])
    with torch.no_grad():
        right = network.train()(torch.from_numpy(test.x[:1])).numpy()[0]
    network.eval()
    assert np.allclose(first["scores"][0], right[0], atol=1e-5)
    assert np.allclose(second["scores"][0], right[1], atol=1e-5)
    assert set(second) == {"scores"}
    small = (tmp_path / "exits-int8.tflite").read_bytes()
    (first,) = call(small, [("stage0", {"image": test.x[:1].transpose(0, 2, 3, 1)})])
    assert 0 < np.abs(first["scores"][0] - right[0]).max() < 0.1 * np.abs(right).max()
    assert facts["int8"]["threshold"] == read_metadata(small)["threshold"]
    assert facts["int8"]["macs"] == facts["macs"]
    assert sum(facts["int8"]["shares"]) == pytest.approx(1, abs=1e-5)
