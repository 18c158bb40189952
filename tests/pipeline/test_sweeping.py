"""Sweeps and comparisons: grids, processes, what fails beside what does not, and going on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit import experiment as experiments
from edgekit.errors import EdgekitError, UsageError
from edgekit.pipeline.comparing import Summary, compare, find, summary
from edgekit.pipeline.sweeping import Cell, begin, by_setting, grid_of, open_sweep

QUICK = ["model.name=mlp", "federation.rounds=2", "export.presets=[]", "spiking.enabled=false", "privacy.unit=none"]


@pytest.mark.parametrize(
    ("overrides", "grid", "single"),
    [
        (["seed=0..2", "a.b=0.1,0.2", "c=1"], {"seed": ("0", "1", "2"), "a.b": ("0.1", "0.2")}, ["c=1"]),
        (["x=[1,2],[3]", "y={a = 1, b = 2}"], {"x": ("[1,2]", "[3]")}, ["y={a = 1, b = 2}"]),
        (["seed=3..3"], {"seed": ("3",)}, []),
        (["name=a, b"], {"name": ("a", "b")}, []),
    ],
)
def test_several_values_make_a_grid(overrides, grid, single):
    assert grid_of(overrides) == (grid, single)


@pytest.mark.parametrize("override", ["seed=4..1", "a=1,,2", "a=1,1", "seed=0..99999"])
def test_a_grid_that_is_none_is_refused(override):
    with pytest.raises(UsageError):
        grid_of([override])


def test_a_sweep_is_checked_before_its_folder_is_made(tmp_path):
    experiment = experiments.load(None, QUICK)
    with pytest.raises(EdgekitError, match="learning_rate"):
        begin(experiment, {"training.learning_rate": ("0.1", "-1")}, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    begin(experiment, {"seed": ("0", "1")}, tmp_path / "s")
    assert open_sweep(tmp_path / "s").cells[1].overrides == ["seed=1"]
    with pytest.raises(UsageError, match="another sweep"):
        begin(experiment, {"seed": ("0", "2")}, tmp_path / "s")
    (tmp_path / "s/sweep.json").write_text("{")
    with pytest.raises(EdgekitError, match="damaged"):
        open_sweep(tmp_path / "s")


@pytest.mark.long
def test_a_sweep_keeps_failures_apart_and_goes_on(edgekit, fails, tmp_path):
    done = edgekit("sweep", *QUICK, "data.clients=5,2000", "--workers", "2", "--out", "s", cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 2 runs failed, first data.clients=2000: " in done.stderr
    assert "too few for 2000 clients" in done.stderr
    first = tmp_path / "s/0001/result.json"
    before = first.stat().st_mtime_ns
    told = json.loads(edgekit("sweep", "s", "--json", cwd=tmp_path).stdout)
    assert first.stat().st_mtime_ns == before  # what is finished is not done again
    assert [row["settings"]["data.clients"] for row in told["settings"]] == ["5", "2000"]
    assert [row["failed"] for row in told["settings"]] == [0, 1]
    text = (tmp_path / "s/0001/experiment.toml").read_text()
    shutil.copytree(tmp_path / "s/0001", tmp_path / "s/0003")
    (tmp_path / "s/0003/experiment.toml").write_text(text.replace("clients = 5", "clients = 6"))
    assert len(find(tmp_path)) == 2
    listed = edgekit("runs", ".", cwd=tmp_path)
    assert "s/0003" in listed.stdout
    compared = edgekit("compare", "s", "--html", "c.html", cwd=tmp_path)
    assert "data.clients" in compared.stdout
    assert (tmp_path / "c.html").is_file()
    fails(edgekit("compare", "s/0001", cwd=tmp_path), 2, "two runs or more")
    fails(edgekit("runs", "gone", cwd=tmp_path), 2, "does not exist")


def test_mean_and_deviation_are_over_seeds_alone():
    scores = {("0.1", "0"): 0.8, ("0.1", "1"): 0.9, ("0.2", "0"): 0.7, ("0.2", "1"): None}
    done = [
        (Cell(Path(rate), {"rate": rate, "seed": seed}), Summary(rate, rate, "finished", score=score))
        for (rate, seed), score in scores.items()
    ]
    best, other = by_setting(done)
    assert (best.settings, best.failed) == ({"rate": "0.1"}, 0)
    assert (best.mean, best.deviation) == pytest.approx((0.85, np.std([0.8, 0.9], ddof=1)))
    assert (other.mean, other.deviation, other.failed) == (0.7, 0.0, 1)


def test_runs_that_failed_are_damaged_or_have_nothing_in_common_are_told_apart(trained_run, tmp_path):
    for name in ("a", "b", "c"):
        shutil.copytree(trained_run, tmp_path / name)
    result = json.loads((tmp_path / "b/result.json").read_text())
    result |= {"objective": {"name": "regression", "measure": "r2"}, "r2": 0.5, "failed": {"export": "no"}}
    (tmp_path / "b/result.json").write_text(json.dumps(result))
    (tmp_path / "c/result.json").write_text("{")
    found = compare([tmp_path])
    assert [run.state for run in found.runs] == ["finished", "failed", "broken"]
    assert any("accuracy and r2" in note for note in found.notes)
    assert any("/c is broken" in note for note in found.notes)
    (tmp_path / "c/result.json").unlink()
    assert summary(tmp_path / "c").state == "unfinished"
    (tmp_path / "c/metrics.jsonl").write_text('{"round": "x"}\n')
    assert summary(tmp_path / "c").state == "broken"
