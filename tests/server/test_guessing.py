"""A run that has learnt nothing says so, once."""

import numpy as np
import torch

from edgekit.data import load
from edgekit.models import build
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.runfolder import RunFolder
from edgekit.server.loop.guessing import Guessing
from edgekit.server.loop.sync import Coordinator

LABELS = np.repeat([0, 1], [60, 40])


def figures(right):
    """Return figures of answers of which so many are right."""
    answers = np.where(np.arange(100) < right, LABELS, 1 - LABELS)
    return PLAIN.figures(np.eye(2)[answers], LABELS, np.zeros(100))


def test_what_guessing_gives_is_told_once_after_a_tenth():
    watch = Guessing(40, "training.learning_rate")
    assert not watch.notice(3, figures(10))
    line = watch.notice(4, figures(61))
    assert "after 4 of 40 rounds accuracy 0.610 is what guessing gives (0.600)" in line
    assert "training.learning_rate" in line
    assert not watch.notice(5, figures(61))


def test_what_learns_or_is_short_is_left_alone():
    assert not Guessing(40, "r").notice(4, figures(70))
    assert not Guessing(10, "r").notice(5, figures(10))


def test_a_run_tells_it(make_experiment, tmp_path):
    said = []
    still = make_experiment("federation.rounds=20", "training.learning_rate=1e-6", "model.name=mlp", "data.clients=3")
    dataset = load(still.data, 0)
    model = build(still.model, dataset.shape, 10, 0)
    torch.nn.init.zeros_(model.layers[-1].weight)
    torch.nn.init.constant_(model.layers[-1].bias[:1], 1.0)  # it says 0, whatever it sees
    Coordinator(still, dataset, model, RunFolder.create(tmp_path / "run"), on_notice=said.append).run()
    assert sum("is what guessing gives" in line for line in said) == 1
