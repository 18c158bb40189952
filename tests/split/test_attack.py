"""Attacks by an honest but curious server: they work where nothing protects, and fail where noise does."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgekit.algorithms.split import attack
from edgekit.algorithms.split.server import in_parts
from edgekit.algorithms.split.settings import Split
from edgekit.clients import LocalSettings, LocalTask
from edgekit.clients.torch_trainer import state
from edgekit.data import Examples
from edgekit.errors import UsageError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.pipeline.attacking import attack_split, table


@pytest.fixture
def model():
    return build(Model(name="mlp"), (1, 8, 8), 10, 0)


def heard_of(model, digits, settings, **split):
    block = digits.client(0)
    block = Examples(np.concatenate([block.x] * 3)[:40], np.concatenate([block.y] * 3)[:40])
    plan, server = in_parts(Split(cut="layers.2", **split), model, digits)
    task = LocalTask(block, np.random.default_rng(0), np.random.default_rng(1))
    return plan, block, attack.overhear(plan, server, state(model), task, settings)


def test_what_is_heard_is_what_the_device_made_of_each_example(model, digits):
    work = LocalSettings(batch_size=16, epochs=2, learning_rate=1e-9)
    plan, block, heard = heard_of(model, digits, work)
    assert sorted(map(bytes, heard.x)) == sorted(map(bytes, block.x))  # one pass over them, each with its own label
    x, y = torch.from_numpy(heard.x), torch.from_numpy(heard.y)
    with torch.no_grad():
        assert np.allclose(heard.activation, plan.device.bottom(x).numpy(), atol=1e-5)
    output = torch.from_numpy(heard.output).requires_grad_()
    F.cross_entropy(plan.device.tail(output), y, reduction="sum").backward()
    assert np.allclose(heard.gradient, output.grad.numpy(), atol=1e-5)


def test_without_a_defence_examples_and_labels_are_learnt(model, digits):
    work = LocalSettings(batch_size=16, learning_rate=0.1)
    plan, _, heard = heard_of(model, digits, work)
    rebuilt = attack.rebuild(plan, state(model), digits.test.x, heard.activation, work, 0)
    assert attack.explained(heard.x, rebuilt) > 0.6
    assert (attack.infer_labels(plan, state(model), heard, 10) == heard.y).mean() > 0.9


def test_noise_against_the_server_hides_both(model, digits):
    work = LocalSettings(work="local-dp", batch_size=16, learning_rate=0.1, noise_multiplier=2.0)
    plan, _, heard = heard_of(model, digits, work)
    rebuilt = attack.rebuild(plan, state(model), digits.test.x, heard.activation, work, 0)
    assert attack.explained(heard.x, rebuilt) < 0.15
    assert (attack.infer_labels(plan, state(model), heard, 10) == heard.y).mean() < 0.4


def test_figures_are_those_of_their_definition():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 1, 4, 4)).astype(np.float32)
    assert attack.explained(x, x) == 1.0
    assert attack.explained(x, np.broadcast_to(x.mean(0), x.shape)) == 0.0
    assert attack.recognised(x, x) == 1.0
    assert attack.recognised(x, np.roll(x, 1, 0)) == 0.0


@pytest.mark.long
def test_the_whole_attack_writes_figures_and_pictures(make_experiment, tmp_path):
    experiment = make_experiment(
        "model.name=mlp", "split.cut=layers.2", "federation.rounds=1", "training.learning_rate=0.1"
    )
    heard = []
    found = attack_split(experiment, tmp_path / "attack", heard.append, heard.append)
    names = [row["defence"] for row in found["defences"]]
    assert names == ["none", "NoPeek, weight 1", "noise, epsilon 100", "noise, epsilon 8"] == heard
    assert json.loads((tmp_path / "attack" / "attack.json").read_text()) == found
    picture = (tmp_path / "attack" / "rebuilt.svg").read_text()
    assert all(name in picture for name in ("original", *names))
    none, *_, noise = found["defences"]
    assert none["rebuilt"] > 0.5 > noise["rebuilt"]
    assert none["labels"] > 0.9 > noise["labels"]
    assert table(found)[1][0] == "none"
    with pytest.raises(UsageError, match="is not empty"):
        attack_split(experiment, tmp_path / "attack", heard.append, heard.append)


def test_labels_at_the_server_are_given(make_experiment, tmp_path):
    experiment = make_experiment("model.name=mlp", "split.cut=auto", "split.labels=server", "federation.rounds=1")
    heard = []
    found = attack_split(experiment, tmp_path / "attack", heard.append, heard.append)
    assert [row["labels"] for row in found["defences"]] == [None, None]
    assert table(found)[1][-1] == "given"
    assert any("no row with noise" in line for line in heard)
    with pytest.raises(UsageError, match="say where the network is cut"):
        attack_split(make_experiment(), tmp_path / "other", heard.append, heard.append)
