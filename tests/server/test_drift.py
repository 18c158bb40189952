"""Drift watch: what is more than noise is told, and nothing else."""

import numpy as np
import pytest

from edgekit.clients.node import statistics
from edgekit.data import Examples
from edgekit.server.engines.fleet.drift import DriftWatch

NOISE = 2.0


def report(rng, shift=0.0, certainty=8.0, nodes=10, examples=60):
    sums = []
    for _ in range(nodes):
        x = np.clip(rng.random((examples, 1, 8, 8)) * 0.6 + shift, 0, 3).astype(np.float32)
        scores = np.zeros((examples, 10), np.float32)
        scores[:, 0] = certainty
        each = statistics.contributions(Examples(x, np.zeros(examples, np.int64)), scores)
        assert each.min() >= 0
        assert np.linalg.norm(each, axis=1).max() <= statistics.SENSITIVITY
        sums.append(statistics.noised_sum(each, NOISE, rng).tolist())
    return sums


def test_inputs_that_move_are_told_and_steady_ones_are_not(tmp_path):
    told = []
    watch = DriftWatch(tmp_path / "drift.jsonl", told.append)
    rng = np.random.default_rng(0)
    for number in range(1, 30):
        assert watch.add(number, report(rng), NOISE) == []
    assert told == []
    assert "mean" in watch.add(30, report(rng, shift=1.5), NOISE)
    assert "the nodes' mean moved from 0.5" in told[0]
    again = DriftWatch(tmp_path / "drift.jsonl", told.append)  # a restart remembers the first report
    assert "mean" in again.add(31, report(rng, shift=1.5), NOISE)


def test_confidence_that_falls_is_drift_and_confidence_that_grows_is_training(tmp_path):
    rng = np.random.default_rng(1)
    watch = DriftWatch(tmp_path / "drift.jsonl", lambda line: None)
    assert watch.add(1, report(rng, certainty=3.0), NOISE) == []
    assert watch.add(2, report(rng, certainty=9.0), NOISE) == []
    assert watch.add(3, report(rng, certainty=0.0), NOISE) == ["confidence"]


@pytest.mark.parametrize("bad", [[], [None], ["x"], [[1, 2]], [[float("nan")] * 4], [[1, 2, 3, "4"]], [{}]])
def test_reports_that_do_not_fit_are_left_out(bad, tmp_path):
    assert DriftWatch(tmp_path / "drift.jsonl", lambda line: None).add(1, bad, NOISE) == []
    assert not (tmp_path / "drift.jsonl").exists()


def test_few_examples_under_much_noise_say_nothing(tmp_path):
    rng = np.random.default_rng(2)
    watch = DriftWatch(tmp_path / "drift.jsonl", lambda line: None)
    assert watch.add(1, report(rng, nodes=1, examples=5), NOISE) == []
    assert not (tmp_path / "drift.jsonl").exists()
