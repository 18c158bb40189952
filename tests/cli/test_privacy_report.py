"""`edgekit privacy report`: a run's and a node's ledger, whole, cut, damaged, and what is neither."""

import json

import pytest

from edgekit.cli.app import main
from edgekit.clients.node.agreement import Agreement
from edgekit.clients.node.folder import NodeFolder, NodeSettings
from edgekit.experiment import load
from edgekit.pipeline import job
from edgekit.privacy import Charge, Ledger, epsilon

QUICK = ["data.clients=4", "federation.rounds=2", "training.epochs=1", "export.presets=[]", "spiking.enabled=false"]


@pytest.fixture
def run(tmp_path, heard):
    job.run(load(None, [*QUICK, "model.name=mlp", "privacy.unit=example"]), tmp_path / "run", heard)
    return tmp_path / "run"


def _told(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["privacy", "report", *map(str, arguments)])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


def test_a_run_is_told_as_its_result_says(run, capsys):
    code, out, _ = _told(capsys, run, "--json")
    found, result = json.loads(out), json.loads((run / "result.json").read_text())["privacy"]
    assert code == 0
    assert (found["epsilon"], found["rounds"], found["whole"]) == (result["epsilon"], 2, True)
    assert found["charges"][0]["noise_multiplier"] == pytest.approx(result["noise_multiplier"], abs=1e-4)
    _, out, _ = _told(capsys, run)
    assert "in 2 rounds, counted by pld" in out
    assert "follows line by line" in out
    assert "Mironov 2012" in out


def test_a_ledger_that_was_cut_or_changed_shows(run, capsys):
    lines = (run / "privacy.jsonl").read_text().splitlines(keepends=True)
    (run / "privacy.jsonl").write_text(lines[0])
    assert "DOES NOT REACH THE CHECKPOINT" in _told(capsys, run)[1]
    (run / "privacy.jsonl").write_text(lines[1])
    code, _, err = _told(capsys, run)
    assert code == 1
    assert "does not follow from those before it" in err
    assert "Traceback" not in err


def test_a_node_tells_what_was_spent_of_its_data(tmp_path, capsys):
    folder = NodeFolder(tmp_path)
    folder.keep_node_settings(NodeSettings(url="https://h:1", name="pi", client=0))
    folder.agreement.write_text(Agreement(protects=True, epsilon=4.0, delta=1e-5, unit="example").model_dump_json())
    Ledger(folder.ledger).charge(Charge(1, "example", "client", 2.0, 0.5, 4, None, "a"))
    _, out, _ = _told(capsys, tmp_path, "--json")
    found = json.loads(out)
    assert (found["node"], found["of"]) == ("pi", 4.0)
    assert found["epsilon"] == pytest.approx(epsilon([(2.0, 0.5, 4)], 1e-5, "pld-numpy"), abs=1e-3)


def test_what_is_neither_is_refused(tmp_path, capsys):
    code, _, err = _told(capsys, tmp_path)
    assert code == 2
    assert "is neither a run folder nor a node's" in err


def test_a_run_without_privacy_says_so(tmp_path, heard, capsys):
    job.run(load(None, [*QUICK, "model.name=mlp", "federation.rounds=1"]), tmp_path / "open", heard)
    assert "protects nothing: privacy.unit is none" in _told(capsys, tmp_path / "open")[1]
