"""STDP by its equation, for pairs of spikes; and the example, which must learn."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.neuromorphic.stdp import Stdp, rounded, weight_changes

EXAMPLE = Path(__file__).parents[2] / "examples/stdp.py"


@pytest.mark.parametrize("apart", [-6, -1, 1, 3, 9])
def test_a_pair_of_spikes_changes_the_weight_by_the_exponential_of_their_distance(apart):
    """Song, Miller & Abbott 2000, equation 1."""
    rule = Stdp(rate=0.5, plus=1.0, minus=-0.7, tau_plus=5.0, tau_minus=8.0, impulse=16.0)
    before, after = np.zeros((30, 1), bool), np.zeros((30, 1), bool)
    before[12], after[12 + apart] = True, True
    wanted = 16 * 0.5 * (np.exp(-apart / 5) if apart > 0 else -0.7 * np.exp(apart / 8))
    assert weight_changes(rule, before, after)[0, 0] == pytest.approx(wanted)


def test_pairs_add_up_and_neurons_are_apart():
    rng = np.random.default_rng(0)
    before, after = rng.random((40, 6)) < 0.2, rng.random((40, 3)) < 0.2
    whole = weight_changes(Stdp(), before, after)
    for target in range(3):
        for source in range(6):
            alone = weight_changes(Stdp(), before[:, [source]], after[:, [target]])
            assert whole[target, source] == pytest.approx(alone[0, 0])


def test_rounding_keeps_small_changes_on_average():
    rng = np.random.default_rng(0)
    values = rounded(np.full(100_000, 100.3), rng)
    assert set(np.unique(values)) == {100.0, 102.0}
    assert values.mean() == pytest.approx(100.3, abs=0.02)
    assert rounded(np.array([-5.0, 400.0]), rng).tolist() == [0.0, 254.0]


def test_the_example_learns_without_labels(monkeypatch, capsys):
    """With fewer neurons, and once through the digits."""
    main = runpy.run_path(str(EXAMPLE))["main"]
    monkeypatch.setitem(main.__globals__, "NEURONS", 30)
    monkeypatch.setitem(main.__globals__, "EPOCHS", 1)
    main()
    (accuracy,) = re.findall(r"test accuracy (0\.\d+)", capsys.readouterr().out)
    assert float(accuracy) > 0.5


@pytest.mark.long
def test_the_whole_example_learns_without_labels(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, cwd=tmp_path, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "approximate" in done.stdout
    (accuracy,) = re.findall(r"test accuracy (0\.\d+)", done.stdout)
    assert float(accuracy) > 0.6
