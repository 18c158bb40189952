"""Parties as real processes: a clinic and a laboratory, aligned by id, train together over TLS."""

import json
import os
import signal

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from edgekit import arrays, wire
from edgekit.arrays import to_bytes
from edgekit.clients.node.folder import NodeFolder
from edgekit.privacy.intersection import Side

QUICK = (
    "model.name=mlp", "model.arguments={}", "spiking.enabled=false", "export.presets=[]", "privacy.unit=none",
    "training.epochs=2", "training.learning_rate=0.05", "federation.average_last=0.0", "split.labels=server",
    "split.parties=2", "serve.deadline_seconds=20",
)  # fmt: skip


@pytest.fixture
def hospital(tmp_path):
    """Tables: the parties' own, and a folder of the coordinator's with labels and those whom the parties show it."""
    data = load_breast_cancer()
    rng = np.random.default_rng(0)
    shown = rng.permutation(len(data.target))[:120]
    (tmp_path / "coordinator").mkdir()
    columns = {"clinic": range(10), "laboratory": range(10, 30)}
    for name, chosen in columns.items():
        others = np.setdiff1d(np.arange(len(data.target)), shown)
        for path, rows in (
            (tmp_path / f"{name}.csv", rng.permutation(others)[:420]),
            (tmp_path / "coordinator" / f"{name}.csv", shown),
        ):
            lines = [",".join(["patient", *(f"c{column}" for column in chosen)])]
            lines += [",".join([f"p{row}", *(repr(float(data.data[row, c])) for c in chosen)]) for row in rows]
            path.write_text("\n".join(lines) + "\n")
    labels = [f"p{row},{data.target_names[y]}" for row, y in enumerate(data.target)]
    (tmp_path / "coordinator" / "labels.csv").write_text("\n".join(["patient,finding", *labels]) + "\n")
    return tmp_path


@pytest.mark.long
def test_a_clinic_and_a_laboratory_train_together_and_one_may_die(federation, fleet, hospital):
    one = federation("federation.rounds=8", f"data.source=labels:{hospital / 'coordinator'}", base=QUICK)
    one.serve("--split-port", str(fleet.free_port()), codes=4)
    one.join("a", "--data", f"csv:{hospital / 'clinic.csv'}", "--party", "clinic")
    one.wait(lambda: "round 1 waits for laboratory" in one.notices(), 60, "the first party")
    one.join("twice", "--data", f"csv:{hospital / 'clinic.csv'}", "--party", "clinic")
    one.wait(lambda: "twice cannot take part" in " ".join(one.notices()), 60, "the second clinic to be refused")
    one.kill_node("twice")
    one.join("wrong", "--data", f"csv:{hospital / 'clinic.csv'}", "--party", "laboratory")
    one.wait(lambda: "wrong cannot be aligned" in " ".join(one.notices()), 60, "the wrong table to be refused")
    one.kill_node("wrong")
    one.join("b", "--data", f"csv:{hospital / 'laboratory.csv'}", "--party", "laboratory")
    one.wait_for_round(2)
    one.kill_node("b")
    one.start_node("b")
    one.wait_for_round(4)
    os.kill(one.server_app(), signal.SIGKILL)
    one.wait_for_end(200)
    rounds = one.rounds()
    assert [r["round"] for r in rounds] == list(range(1, 9))
    assert all(r["replies"] == 2 for r in rounds)
    assert rounds[-1]["accuracy"] > 0.9
    notices = " ".join(one.notices())
    assert "a is the party clinic already" in notices
    assert "wrong cannot be aligned: this party's table lacks the columns c10, c11, c12, c13, c14" in notices
    assert "ids are known to all parties: these are trained on" in notices
    assert "no model is delivered: it needs the features of all parties" in notices
    # A party has its own network, and nobody else's; what it says to its owner is what is true.
    for name, place in (("a", 0), ("b", 1)):
        (path, *_) = (one.node_folder(name) / "tasks").glob("*.task")
        facts = arrays.from_bytes(path.read_bytes())[1]
        assert all(held.startswith(f"parties.{place}.") for held in facts["vertical"]["parties"][place]["parameters"])
        assert "Learning with other parties is not private" in one.output(name)
        assert "ids, hidden; this party has 420" in one.output(name)
        assert "c10" not in path.read_bytes().decode("latin-1")  # no party is told of another's columns
        assert not (NodeFolder(one.node_folder(name)).models / "current.json").exists()
    nodes = {n["name"]: n for n in json.loads((one.run / "nodes.json").read_text())}
    assert nodes["a"]["rounds"] == nodes["b"]["rounds"] == 8


@pytest.mark.long
def test_a_party_that_lies_costs_itself_and_ends_nothing(federation, fleet, hospital, impostor):
    one = federation("federation.rounds=2", f"data.source=labels:{hospital / 'coordinator'}", base=QUICK)
    one.serve("--split-port", str(fleet.free_port()), codes=3)
    evil = impostor(one, 1)
    odd = {"run": {"bytes": "eA=="}, "version": [b"x"]}
    evil.tells = [{"party": "bank", "model": odd}, *20 * [{"party": "laboratory", "model": odd}]]
    one.join("a", "--data", f"csv:{hospital / 'clinic.csv'}", "--party", "clinic")
    ids = Side([f"p{row}" for row in range(569)])

    def aligned(letter, own):
        return {"alignment": "x"}, to_bytes({"again": ids.hidden_again(letter.weights()["points"]), "own": own})

    lies = [
        lambda letter: ({"alignment": "x"}, to_bytes({"again": np.zeros((2, 32), np.uint8)})),
        lambda letter: ({}, b"no arrays"),
        lambda letter: aligned(letter, np.zeros((), np.uint8)),
        lambda letter: aligned(letter, Side(["nobody"]).hidden()),
        lambda letter: aligned(letter, ids.hidden()),  # true, after which it trains as it should not
    ]
    for message, letter in evil.asked(seconds=150):
        if message.metadata.message_type == "query":
            facts, content = lies.pop(0)(letter)
            evil.link.push(wire.answer(facts, message, content))
            continue
        assert not lies
        evil.link.push(wire.answer({"num-examples": 5}, message, letter.content))  # without its stream
        break
    one.join("b", "--data", f"csv:{hospital / 'laboratory.csv'}", "--party", "laboratory")
    evil.leave()
    one.wait_for_end(200)
    notices = " ".join(one.notices())
    for complaint in (
        "evil cannot take part: it is none of the parties clinic, laboratory",
        "evil cannot be aligned: hidden ids were expected",
        "evil cannot be aligned: these bytes are not arrays",
        "evil cannot be aligned: it knows nobody of whom there is a label",
        "round 1 is run again: it needs all parties; evil: it sent an update before its stream had ended",
    ):
        assert complaint in notices, notices
    nodes = {n["name"]: n for n in json.loads((one.run / "nodes.json").read_text())}
    assert nodes["evil"]["failures"] == 1
    assert nodes["a"]["failures"] == 0
    assert nodes["a"]["rounds"] == nodes["b"]["rounds"] == 2


@pytest.mark.long
def test_parties_of_the_built_in_digits_to_try_it_out(federation, fleet):
    one = federation("federation.rounds=3", "split.coverage=0.8", "split.codec=int8", "split.window=2", base=QUICK)
    one.serve("--split-port", str(fleet.free_port()), "--once", codes=2)
    one.join("left", "--client", "0")
    one.join("right", "--client", "1")
    one.wait_for_end(200)
    one.wait(lambda: one.coordinator.poll() is not None, 60, "the coordinator's end")
    assert one.coordinator.returncode == 0
    result = json.loads((one.run / "result.json").read_text())
    assert result["trainer"] == "a real fleet of 2 parties that hold different features"
    assert result["accuracy"] > 0.7
