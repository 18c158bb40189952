"""The folder for whoever builds an app: what lies there, and that its code gives the answers of the run."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgekit import experiment as experiments
from edgekit.data import machine_sounds, sources
from edgekit.data.audio import log_mel
from edgekit.data.columns import Raw, encode, learn
from edgekit.data.settings import Audio, Data, Superpixels, audio_of
from edgekit.data.superpixels import as_graphs
from edgekit.data.unlabelled import Inputs, kind_of
from edgekit.errors import RunFolderError
from edgekit.pipeline import handing
from edgekit.pipeline.predicting import predict

APP = handing.files("edgekit.export").joinpath("app")


@pytest.fixture(scope="module")
def handed(trained_run, edgekit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("handed") / "app"
    done = edgekit("export", trained_run, "--app", folder, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


def _module(facts, tmp_path):
    """Import classify.py beside other facts."""
    (tmp_path / "preprocessing.json").write_text(json.dumps(facts))
    (tmp_path / "classify.py").write_text(APP.joinpath("classify.py").read_text())
    spec = importlib.util.spec_from_file_location("classify", tmp_path / "classify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_has_what_an_app_needs_and_no_code_in_its_facts(handed, trained_run):
    names = {path.name for path in handed.iterdir()}
    assert names == {"model.tflite", "labels.txt", "preprocessing.json", "example.json", "README.md", *handing.CODE}
    facts = json.loads((handed / "preprocessing.json").read_text())
    assert (facts["kind"], facts["image"]["height"], facts["input"]["shape"]) == ("image", 8, [1, 8, 8, 1])
    assert (handed / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    assert "accuracy 0." in (handed / "README.md").read_text()
    assert (handed / "model.tflite").read_bytes() == (trained_run / "export/float32.tflite").read_bytes()


def test_python_without_edgekit_answers_as_the_run(handed, trained_run, digits, tmp_path):
    for place in range(5):
        Image.fromarray(np.rint(digits.test.x[place, 0] * 255).astype(np.uint8)).save(tmp_path / f"{place}.png")
    blocked = (
        "import runpy, sys; sys.modules['edgekit'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    files = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    done = subprocess.run(
        [sys.executable, "-c", blocked, str(handed / "classify.py"), *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = predict(trained_run, tmp_path).rows
    told = [line.rpartition(": ")[2].split() for line in done.stdout.strip().splitlines()]
    assert [one[0] for one in told] == [row["class"] for row in rows]
    np.testing.assert_allclose([float(one[1]) for one in told], [row["score"] for row in rows], atol=1e-5)


def test_the_examples_of_the_folder_give_their_scores(handed):
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(str(handed / "model.tflite"))
    model.allocate_tensors()
    held = json.loads((handed / "example.json").read_text())
    for x, expected in zip(held["inputs"], held["scores"], strict=True):
        model.set_tensor(model.get_input_details()[0]["index"], np.array([x], np.float32))
        model.invoke()
        np.testing.assert_allclose(model.get_tensor(model.get_output_details()[0]["index"])[0], expected, atol=1e-4)


def test_its_python_makes_the_features_of_sounds_and_rows_that_edgekit_makes(tmp_path):
    audio = Audio(sample_rate=8000, seconds=0.4, mel_bands=20)
    samples = np.random.default_rng(0).standard_normal(3000).astype(np.float32) * 0.1
    expected = log_mel(samples, audio)
    normalisation = {"mean": 0.0, "std": 1.0, "features": "log-mel", **audio.model_dump(exclude={"pattern"})}
    inputs = Inputs(shape=list(expected.shape), classes=["a"], normalisation=normalisation)
    made = _module(handing.preprocessing(inputs), tmp_path).log_mel(samples)
    np.testing.assert_allclose(made[..., 0], expected[0], atol=1e-6)
    days = np.array([19723.0, 19800.25, np.nan, 20100.5])
    raw = {
        "when": Raw("date", days),
        "heat": Raw("number", np.array([1.5, np.nan, 3.0, 4.0])),
        "mode": Raw("category", np.array([0, 1, -1, 0], np.int32), ("a", "b")),
    }
    columns = [learn(name, one, 10) for name, one in raw.items()]
    facts = {"kind": "table", "columns": [column.model_dump() for column in columns]}
    classify = _module(facts, tmp_path)
    texts = [("2024-01-01", "1.5", "a"), ("2024-03-18T06:00", "", "b"), ("", "3", ""), ("2025-01-12 12:00", "4", "a")]
    rows = [classify.from_row(dict(zip(raw, text, strict=True))) for text in texts]
    np.testing.assert_allclose(np.stack(rows), encode(columns, raw, np.arange(4)), atol=1e-5)


def test_what_cannot_be_handed_over_is_said_in_a_line(trained_run, handed, edgekit, fails, tmp_path):
    for arguments, code, told in (
        ([trained_run, "--app", handed], 2, "is not empty"),
        ([trained_run, "--app", tmp_path / "a", "--preset", "int16"], 2, "has no int16 .tflite, it has float32"),
        (["--app", tmp_path / "a"], 2, "give a run's folder"),
        ([tmp_path, "--app", tmp_path / "a"], 2, "not a run folder"),
    ):
        fails(edgekit("export", *arguments, cwd=tmp_path), code, told)
        assert not (tmp_path / "a").exists()
    assert experiments.load(trained_run / "experiment.toml").name


def test_only_a_file_of_the_run_is_handed_over(trained_run, tmp_path):
    """Whatever path a result.json from elsewhere names."""
    run = shutil.copytree(trained_run, tmp_path / "r")
    (tmp_path / "secret").write_text("private")
    result = json.loads((run / "result.json").read_text())
    result["tflite"]["float32"]["path"] = "../secret"
    (run / "result.json").write_text(json.dumps(result))
    with pytest.raises(RunFolderError, match="export/secret is gone"):
        handing.hand_over(run, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_what_sets_of_sounds_and_graphs_say_is_enough_to_make_their_examples():
    assert audio_of(machine_sounds.read().normalisation, Audio()) == machine_sounds.FEATURES
    digits = sources.read_source(Data())[0]
    few = replace(digits, x=digits.x[:4], labels=digits.labels[:4])
    graphs = as_graphs(few, Superpixels(nodes=6, neighbours=2), "graphs")
    assert kind_of(graphs.x.shape[1:], graphs.normalisation) == "array"  # by their shape they could be pictures
    assert kind_of(graphs.x.shape[1:], {"mean": 0.0, "std": 1.0}) == "image"
