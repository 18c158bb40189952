"""Networks of sequences a frame at a time: torch's step and the file's give what the whole sequence gives."""

import numpy as np
import pytest
import torch

from edgekit.data import Examples
from edgekit.errors import DataError, ExportError
from edgekit.export import streaming
from edgekit.export.metadata import read_metadata
from edgekit.export.runtimes import NAMES
from edgekit.export.streaming import as_frames, write_stream
from edgekit.export.tflite import Subject, export
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.pipeline.inspecting import check as inspect_check

NETWORKS = {
    "tcn": {"channels": [8, 8]},
    "s4d": {"dim": 6, "state": 3, "depth": 2},
    "ssd": {"dim": 8, "state": 3, "depth": 2, "heads": 2},
    "gru": {"hidden": 6},
    "mingru": {"dim": 6, "depth": 2},
}
SHAPES = {"plain": (2, 3, 9), "masked": (6, 9), "tokens": (9,)}
MORE = {"plain": {}, "masked": {"masked": True}, "tokens": {"vocabulary": 7}}


def _built(name, kind, norm="group"):
    return build(
        Model(name=name, norm=norm, arguments={**NETWORKS[name], **MORE[kind]}), SHAPES[kind], 4, seed=1
    ).eval()


def _examples(kind, many=5):
    rng = np.random.default_rng(0)
    if kind == "tokens":
        x = rng.integers(1, 7, (many, *SHAPES[kind])).astype(np.float32)
    else:
        x = rng.standard_normal((many, *SHAPES[kind]), np.float32)
    if kind == "masked":
        x[:, 0] = 1
    if kind != "plain":
        x[1, ..., 5:] = 0  # padding
        x[2, ..., 1:] = 0
    return x


@torch.no_grad()
def _stepped(model, x):
    frames = torch.from_numpy(as_frames(x, model.frames.given))
    states = tuple(torch.zeros(len(x), *shape) for shape in model.states())
    seen = []
    for time in range(frames.shape[1]):
        scores, states = model.step(frames[:, time], states)
        seen.append(scores.numpy())
    return seen


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_give_what_the_whole_gives(name, kind, norm):
    model, x = _built(name, kind, norm), _examples(kind)
    seen = _stepped(model, x)
    with torch.no_grad():
        assert np.allclose(seen[-1], model(torch.from_numpy(x)).numpy(), atol=2e-6)
    if kind != "plain":  # what is behind the last real frame changes nothing
        assert np.allclose(seen[4][1], seen[-1][1], atol=2e-6)
        assert np.allclose(seen[0][2], seen[-1][2], atol=2e-6)
        assert not np.allclose(seen[4][0], seen[-1][0], atol=1e-4)


FILES = [("gru", "tokens"), ("tcn", "plain")]
"""In each run of the suite; the others in the long one."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if (name, kind) in FILES else [pytest.mark.long])
        for name in NETWORKS
        for kind in SHAPES
    ],
)
def test_the_file_gives_what_the_whole_gives(name, kind, tmp_path, old_runtime):
    model, x = _built(name, kind), _examples(kind)
    facts = write_stream(
        model, Examples(x, np.zeros(len(x), np.int64)), tmp_path, {"name": "mine"}, [NAMES[0], old_runtime]
    )
    assert facts["max_error"] < 1e-5
    assert facts["frames"] == 9
    assert facts["frame"] == {"plain": 6, "masked": 6, "tokens": 1}[kind]
    assert min(facts["latency_us"].values()) > 0
    told = read_metadata((tmp_path / "stream.tflite").read_bytes())
    assert (told["kind"], told["state"], told["name"]) == ("stream", facts["state"], "mine")


def test_a_file_that_gives_something_else_is_not_delivered(tmp_path, monkeypatch):
    model, x = _built("gru", "plain"), _examples("plain")
    other = streaming.to_stream(_built("gru", "plain", "none").double().float())
    with torch.no_grad():
        model.readout.bias += 1
    monkeypatch.setattr(streaming, "to_stream", lambda model: other)
    with pytest.raises(ExportError, match=r"stream.tflite differs from torch by .* after the last frame"):
        write_stream(model, Examples(x, np.zeros(len(x), np.int64)), tmp_path, {}, [NAMES[0]])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("tokens", 7, "whole numbers from 0 to 6; there is 7: give a vocabulary of 8"),
        ("tokens", 0.5, "whole numbers from 0 to 6; bytes are read as images"),
        ("tokens", -1, "whole numbers from 0 to 6"),
        ("masked", 0, "an example is padding alone"),
        ("masked", 0.5, "the first feature of a frame must be 1, or 0 for padding"),
    ],
)
def test_examples_that_the_network_cannot_read_are_told_before_training(kind, change, message):
    x = _examples(kind)
    x[0, 0] = change
    settings = Model(name="gru", arguments={**NETWORKS["gru"], **MORE[kind]})
    with pytest.raises(DataError, match=message):
        build(settings, SHAPES[kind], 4, seed=1, calibration=x)


def test_padding_that_is_not_left_out_is_told():
    told, x = [], _examples("masked")
    build(Model(name="gru", arguments=NETWORKS["gru"]), SHAPES["masked"], 4, 1, x, told.append)
    assert told == ["the first feature tells padding: model.arguments = {masked = true} leaves padding out of the mean"]
    build(Model(name="gru", arguments=NETWORKS["gru"]), SHAPES["masked"], 4, 1, _examples("plain")[:, 0], told.append)
    assert len(told) == 1


def test_a_network_of_tokens_is_delivered_and_checked_again(tmp_path):
    model, x = _built("gru", "tokens"), _examples("tokens", 40)
    with torch.no_grad():
        labels = model(torch.from_numpy(x)).argmax(1).numpy()
    subject = Subject(model, SHAPES["tokens"], x, labels, x, list("abcd"), None)
    path = export(subject, ["float32"], tmp_path, {}, 0.01)["float32"].path
    told = read_metadata(path.read_bytes())
    assert told["self_test"]["inputs"] == "numpy.random.RandomState(0).randint(0, 7, (4, 9))"
    (checked,) = inspect_check(path, [NAMES[0]], None).values()
    assert (checked["against"], checked["max_abs_error"] < 1e-4) == ("its self-test", True)
