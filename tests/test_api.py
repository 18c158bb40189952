"""`import edgekit`: runs with objects where files take names, opened again, used, compared; lazily imported."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch

import edgekit
from edgekit import errors

QUICK = {"export": {"presets": []}, "spiking": {"enabled": False}, "federation": {"rounds": 3}, "progress": False}


class Net(torch.nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = torch.nn.Linear(shape[0], classes)

    def forward(self, x):
        return self.layer(x)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    return (np.eye(3)[y] * 2 + rng.standard_normal((200, 3)) * 0.3).astype(np.float32), y


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of a module and arrays that have no names."""
    rounds = []
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    before = [one.clone() for one in network.parameters()]
    place = tmp_path_factory.mktemp("api")
    made = edgekit.run(
        {"data": {"clients": 4}},
        model=network,
        data=data,
        out=place / "r",
        on_round=rounds.append,
        training={"learning_rate": 0.2},
        **QUICK,
    )
    assert [one.round for one in rounds] == [1, 2, 3]
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))
    return made, network


def test_a_run_with_objects_is_used_and_opened_again(run, data):
    made, network = run
    x, y = data
    assert made.accuracy > 0.9
    assert made.score == made.accuracy == made.metrics[-1]["accuracy"]
    answers = [int(row["class"]) for row in made.predict(x).rows]
    with torch.no_grad():
        np.testing.assert_array_equal(answers, made.model()(torch.from_numpy(x)).argmax(1))
    assert made.evaluate(data)["accuracy"] == pytest.approx(np.mean(answers == y))
    again = edgekit.open(made.path, model=network, data=data)
    assert again.evaluate()["accuracy"] == pytest.approx(made.accuracy, abs=1e-6)
    assert "float16" in again.export("float16")["tflite"]
    assert again.report().is_file()
    assert again.resume(progress=False) is again
    for shown in (repr(again), again._repr_html_()):
        assert "accuracy" in shown
    assert "<script" not in again._repr_html_()


def test_another_run_begins_with_what_a_run_learnt(run, data, tmp_path):
    made, network = run
    settings = {"data": {"clients": 4}, "model": {"weights": str(made.path)}}
    quick = {**QUICK, "federation": {"rounds": 1}, "training": {"learning_rate": 1e-6}}
    again = edgekit.run(settings, model=network, data=data, out=tmp_path / "r", **quick)
    assert again.accuracy == pytest.approx(made.accuracy, abs=1e-6)
    settings["model"]["weights"] = str(tmp_path)
    with pytest.raises(errors.ModelError, match="is a folder, but no run"):
        edgekit.run(settings, model=network, data=data, out=tmp_path / "s", **quick)
    assert not (tmp_path / "s").exists()


def test_without_its_objects_a_run_says_what_it_was(run, edgekit_command, fails):
    made, _ = run
    fails(edgekit_command("evaluate", made.path, cwd=made.path.parent), 2, "'Sequential' was an object of the program")
    with pytest.raises(errors.UsageError, match="'tuple' was an object"):
        edgekit.open(made.path, model=run[1]).evaluate()


@pytest.fixture(scope="session")
def edgekit_command(request):
    return request.getfixturevalue("edgekit")


def test_a_class_and_a_table_by_their_names(tmp_path, data, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or inspect.getmodule(Net))
    frame = pandas.DataFrame(data[0], columns=list("abc")).assign(label=np.array(["x", "y", "z"])[data[1]])
    made = edgekit.run({"data": {"clients": 4}}, model=Net, data=frame, out=tmp_path / "r", **QUICK)
    assert made.experiment.model.name == f"{Net.__module__}:Net"
    assert made.predict(frame.drop(columns="label")).rows[0].keys() == {"name", "class", "score"}
    assert made.evaluate(frame)["accuracy"] == pytest.approx(
        np.mean([row["class"] == one for row, one in zip(made.predict(frame).rows, frame["label"], strict=True)])
    )


def test_what_cannot_be_is_said_in_a_line(run, data, tmp_path, trained_run):
    for asked, told in (
        (lambda: edgekit.run(training={"learning_rat": 1}, out=tmp_path / "n"), "did you mean 'learning_rate'"),
        (lambda: edgekit.open(tmp_path), "not a run folder"),
        (lambda: edgekit.open(trained_run, model=Net), "takes no model as an object"),
        (lambda: run[0].predict(np.zeros((2, 4), np.float32)), r"examples of \(4,\); the network takes \(3,\)"),
        (lambda: run[0].predict(object()), "give an array"),
        (lambda: run[0].evaluate((data[0], data[1] + 1)), "has the class '3'"),
        (lambda: edgekit.run(data=3, model="mlp", out=tmp_path / "n", progress=False), "it is int|is int: give"),
        (lambda: edgekit.sweep({}, {}), "nothing varies"),
        (lambda: edgekit.privacy.plan(rounds=1, clients=3, cohort=4), "within them"),
    ):
        with pytest.raises(errors.EdgekitError, match=told) as refused:
            asked()
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "n").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgekit.nothing


def test_runs_are_listed_and_compared(run, trained_run, tmp_path):
    made, _ = run
    assert [one.path for one in edgekit.runs(made.path.parent)] == [str(made.path)]
    found = edgekit.compare(made, trained_run, html=tmp_path / "c.html")
    assert found.measure == "accuracy"
    assert found.differences["model.name"] == ("object:Sequential", "mlp")
    assert "on other data" in found.notes[0]
    assert "model.name" in (tmp_path / "c.html").read_text()


def test_planning_agrees_with_the_accountant():
    made = edgekit.privacy.plan(rounds=50, clients=1000, cohort=100, epsilon=4)
    spent = edgekit.privacy.epsilon([(made.noise_multiplier, 0.1, 50)], 1e-5)
    assert made.epsilon == pytest.approx(spent)
    assert made.epsilon <= 4


def test_importing_is_lazy_and_all_names_are_there():
    code = "import sys, edgekit; print(sorted({'torch', 'numpy', 'pydantic', 'flwr'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None


def test_documented_things_say_what_they_are(trained_run):
    for name in set(edgekit.__all__) - {"__version__", "privacy"}:
        assert inspect.getdoc(getattr(edgekit, name)), name
    for name, member in inspect.getmembers(edgekit.Run):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
    assert json.loads((trained_run / "result.json").read_text())["input"]["shape"] == [1, 8, 8]
