"""Using a trained network: pictures, recordings, tables and arrays, in every form it was delivered in."""

import csv
import json
import os
import wave

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import edgekit
from edgekit import experiment as experiments
from edgekit.data.audio import log_mel, read_wav
from edgekit.data.settings import Audio, Data
from edgekit.data.unlabelled import Inputs, read
from edgekit.errors import DataError, EdgekitError
from edgekit.objectives.figures import calibration
from edgekit.pipeline import job
from edgekit.pipeline.predicting import evaluate, predict
from edgekit.pipeline.subjects import load_run
from edgekit.pipeline.trained import open_trained
from edgekit.runfolder import RunFolder


@pytest.fixture(scope="module")
def pictures(digits, tmp_path_factory):
    """A folder with test digits as PNGs, a subfolder a class."""
    folder = tmp_path_factory.mktemp("pictures")
    for place in range(40):
        kind = folder / str(digits.test.y[place])
        kind.mkdir(exist_ok=True)
        Image.fromarray(np.rint(digits.test.x[place, 0] * 255).astype(np.uint8)).save(kind / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def machines(tmp_path_factory, new_listener):
    """A run on a table, without any forms."""
    folder = tmp_path_factory.mktemp("machines")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 200)
    frame = pandas.DataFrame(
        {"heat": 10 * kind + rng.standard_normal(200), "mode": rng.choice(["a", "b"], 200), "site": np.arange(200) % 5}
    )
    frame["fault"] = np.array(["ok", "worn"])[kind]
    frame.to_csv(folder / "t.csv", index=False)
    settings = [f"data.source={folder / 't.csv'}", "data.clients=4", 'data.table={label="fault", group="site"}']
    more = ["model.name=mlp", "federation.rounds=2", "export.presets=[]", "spiking.enabled=false"]
    job.run(experiments.load(None, [*settings, *more]), folder / "run", new_listener())
    return folder


@pytest.mark.parametrize("form", [".", "export/float32.tflite", "spiking/loihi.npz"])
def test_pictures_and_arrays_are_answered_alike_in_every_form(trained_run, pictures, digits, tmp_path, form):
    found = predict(trained_run / form, pictures)
    assert len(found.rows) == 40
    by_file = {row["name"]: row["class"] for row in found.rows}
    np.savez(tmp_path / "x.npz", x=digits.test.x[:40])
    raw = predict(trained_run / form, tmp_path / "x.npz").rows
    files = {f"{digits.test.y[place]}/{place}.png": raw[place]["class"] for place in range(40)}
    assert sum(by_file[name] != answer for name, answer in files.items()) <= 1  # pictures are rounded to bytes
    measured = evaluate(trained_run / form, str(pictures))
    right = np.mean([row["class"] == row["name"].partition("/")[0] for row in found.rows])
    assert measured["accuracy"] == pytest.approx(right)


def test_scores_are_the_networks_own_chances(trained_run, digits, tmp_path):
    model, dataset = load_run(folder := RunFolder.open(trained_run), experiments.load(folder.experiment))
    with torch.no_grad():
        chances = torch.softmax(model(torch.from_numpy(dataset.test.x[:20])), 1).sort(1, descending=True)
    np.save(tmp_path / "x.npy", dataset.test.x[:20])
    rows = predict(trained_run, tmp_path / "x.npy", top=3).rows
    for row, value, place in zip(rows, chances.values, chances.indices, strict=True):
        assert [row["class"], row["class_2"], row["class_3"]] == [str(int(one)) for one in place[:3]]
        np.testing.assert_allclose([row["score"], row["score_2"], row["score_3"]], value[:3], atol=1e-6)


def test_a_runs_own_test_set_gives_the_runs_own_figures(trained_run):
    result = json.loads((trained_run / "result.json").read_text())
    found = evaluate(trained_run, "")
    assert found["accuracy"] == pytest.approx(result["accuracy"], abs=1e-6)
    assert np.trace(found["confusion"]) == round(found["accuracy"] * found["examples"])
    assert sum(one["examples"] for one in found["by_class"].values()) == found["examples"]


def test_the_calibration_error_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(3), 500)
    labels = rng.integers(0, 3, 500)
    sure, right = chances.max(1), chances.argmax(1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:  # Guo et al. 2017, equation 3
        inside = (sure >= low) & (sure < low + 1 / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(right[inside].mean() - sure[inside].mean())
    assert calibration(chances, labels)["ece"] == pytest.approx(expected)


def test_a_table_is_read_as_it_was_learnt(machines, tmp_path):
    frame = pandas.read_csv(machines / "t.csv")
    frame.drop(columns="fault").assign(mode=["new", *frame["mode"][1:]]).to_csv(tmp_path / "new.csv", index=False)
    found = predict(machines / "run", tmp_path / "new.csv")
    assert [row["class"] for row in found.rows] == list(frame["fault"])
    assert found.notes == ("1 rows have a value of 'mode' that was not learnt ('new'): it counts as none",)
    measured = evaluate(machines / "run", str(machines / "t.csv"))
    assert measured["accuracy"] == 1.0
    assert {name: one["examples"] for name, one in measured["by_group"].items()} == {str(n): 40 for n in range(5)}


def test_recordings_become_the_features_that_were_learnt(tmp_path):
    audio = Audio(sample_rate=8000, seconds=0.2, mel_bands=16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.random.default_rng(0).standard_normal(1600) * 3000).astype("<i2").tobytes())
    facts = {"mean": 0.0, "std": 1.0, "features": "log-mel", **audio.model_dump(exclude={"pattern"})}
    expected = log_mel(read_wav(tmp_path / "a.wav", 8000), audio)
    inputs = Inputs(shape=list(expected.shape), classes=["a", "b"], normalisation=facts)
    np.testing.assert_array_equal(read(tmp_path, inputs, Data()).load(np.arange(1))[0], expected)


def test_the_command_writes_files_and_refuses_in_a_line(edgekit, fails, trained_run, machines, pictures, tmp_path):
    out = tmp_path / "answers.csv"
    done = edgekit("predict", machines / "run", machines / "t.csv", "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(out, newline="") as file:
        assert next(csv.DictReader(file)).keys() == {"name", "class", "score"}
    told = json.loads(edgekit("predict", trained_run, pictures, "--json", cwd=tmp_path).stdout)
    assert len(told["rows"]) == 40
    shown = edgekit("evaluate", machines / "run", machines / "t.csv", cwd=tmp_path).stdout
    assert "accuracy             1.0000" in shown
    np.savez(tmp_path / "odd.npz", x=np.zeros((3, 1, 9, 9), np.float32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("heat,mode\nwarm,a\n")
    for data, message, *code in (
        (tmp_path / "odd.npz", r"holds examples of \(1, 9, 9\); the network takes \(1, 8, 8\)"),
        (tmp_path / "empty", "holds nothing to use"),
        (tmp_path / "gone.png", "does not exist", 2),
        (machines / "t.csv", "takes arrays|did not learn from a table"),
        (out.with_suffix(".txt"), "does not exist", 2),
    ):
        fails(edgekit("predict", trained_run, data, cwd=tmp_path), *(code or [1]), message)
    fails(edgekit("predict", machines / "run", tmp_path / "bad.csv", cwd=tmp_path), 1, "no column 'site'|'warm' where")
    fails(edgekit("predict", trained_run, pictures, "--out", "a.xyz", cwd=tmp_path), 2, "ends in .csv, .json, .jsonl")
    fails(edgekit("predict", tmp_path / "empty", pictures, cwd=tmp_path), 2, "is not a run folder")
    fails(edgekit("evaluate", trained_run / "export/float32.tflite", cwd=tmp_path), 2, "say what to evaluate")
    fails(edgekit("evaluate", machines / "run", pictures, cwd=tmp_path), 1, "the network knows ok, worn|takes")


@pytest.mark.parametrize(
    "change",
    [
        {"input": 3},
        {"input": {"shape": [1, -8, 8], "classes": [], "normalisation": {}}},
        {"input": {"shape": [1, 8, 8], "classes": [str(n) for n in range(10)], "normalisation": {"std": 0}}},
        {"input": {"shape": [4], "classes": ["a"], "normalisation": {"columns": [{"name": "a", "kind": "odd"}]}}},
        {"decision": [1]},
        None,
        [],
        "[" * 100_000,
    ],
)
def test_a_damaged_result_is_refused_in_a_line(trained_run, tmp_path, change):
    for name in ("experiment.toml", "model.safetensors"):
        (tmp_path / name).write_bytes((trained_run / name).read_bytes())
    text = change if isinstance(change, str) else json.dumps(change)
    if isinstance(change, dict):
        text = json.dumps({**json.loads((trained_run / "result.json").read_text()), **change})
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(EdgekitError, match="does not say|decision|cannot read") as refused:
        open_trained(tmp_path)
    assert "\n" not in str(refused.value)
    assert edgekit.runs(tmp_path)[0].state in ("finished", "broken")  # a list of runs is not stopped by one


def test_a_pipe_in_a_run_folder_makes_nobody_wait(trained_run, tmp_path):
    for name in ("experiment.toml", "result.json"):
        (tmp_path / name).write_bytes((trained_run / name).read_bytes())
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(EdgekitError, match="is no file of a run"):
        open_trained(tmp_path)


def test_values_far_beyond_what_was_learnt_are_named(machines, tmp_path):
    frame = pandas.read_csv(machines / "t.csv").drop(columns="fault")
    frame.assign(heat=[1e300, *frame["heat"][1:]]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=r"'heat' holds 1e\+300, far beyond"):
        predict(machines / "run", tmp_path / "new.csv")
    x = np.zeros((4, 3), np.float32)
    assert edgekit.open(machines / "run").evaluate((np.tile(x, 1)[:, :3], [0, 1, 0, 1]))["examples"] == 4


def test_labels_that_a_network_does_not_know_are_named(machines, tmp_path):
    frame = pandas.read_csv(machines / "t.csv").assign(fault="lost")
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="has the class 'lost'; the network knows ok, worn"):
        evaluate(machines / "run", str(tmp_path / "t.csv"))
