"""Split learning with real processes: rounds begin with Flower messages, train over the stream, and outlive faults."""

import json
import os
import signal
import time

import numpy as np
import pytest

from edgekit import arrays, wire
from edgekit.clients.node.folder import NodeFolder

SPLIT = (
    "model.name=mlp", "model.arguments={}", "spiking.enabled=false", "export.presets=['int8']", "export.tolerance=0.5",
    "privacy.unit=none", "training.epochs=2", "training.learning_rate=0.1", "federation.average_last=0.0",
    "split.cut=layers.2", "data.clients=4", "data.partition=iid",
)  # fmt: skip


def serve(one, fleet, *more, **options):
    one.serve("--split-port", str(fleet.free_port()), *more, **options)


def test_nodes_with_and_without_torch_train_their_parts_over_tls(federation, fleet):
    one = federation("federation.rounds=3", "serve.nodes=2", "split.codec=int8", "split.window=2", base=SPLIT)
    serve(one, fleet, "--once", codes=2)
    one.join("torch", "--client", "0", "--trainer", "torch")
    one.join("litert", "--client", "1", "--trainer", "litert")
    one.wait_for_end(240)
    one.wait(lambda: one.coordinator.poll() is not None, 100, "the coordinator's end")
    assert one.coordinator.returncode == 0, one.output("coordinator")[-3000:]
    rounds = one.rounds()
    assert [r["replies"] for r in rounds] == [2, 2, 2], one.notices()
    result = json.loads((one.run / "result.json").read_text())
    assert result["trainer"] == "nodes of a real fleet, split learning, cut behind layers.2"
    assert result["accuracy"] > 0.5
    # Both learn the classes, over three rounds, from a part each.
    assert rounds[-1]["loss"] < rounds[0]["loss"]
    nodes = {n["name"]: n for n in json.loads((one.run / "nodes.json").read_text())}
    assert {n: nodes[n]["kind"] for n in nodes} == {"torch": "torch", "litert": "litert"}
    # What a node is sent and sends back are its own parts; the rest of the bytes are the streams'.
    assert sum(n["bytes_up"] for n in nodes.values()) == pytest.approx(sum(r["bytes_up"] for r in rounds), rel=0.2)
    for name in ("torch", "litert"):
        (path, *_) = (one.node_folder(name) / "tasks").glob("*.task")
        facts = arrays.from_bytes(path.read_bytes())[1]
        assert not any(held.startswith("layers.3") for held in facts["parameters"])  # that is the server's
        folder = NodeFolder(one.node_folder(name))
        assert json.loads((folder.models / "current.json").read_text())["version"] == 3
        assert "whoever runs the coordinator sees" in one.output(name)


@pytest.mark.long
@pytest.mark.parametrize("noise", ["client", "server"])
def test_private_rounds_are_charged_where_the_noise_is_added(federation, fleet, noise):
    private = [part for part in SPLIT if not part.startswith(("privacy", "training.epochs", "export.presets"))]
    one = federation(
        "privacy.unit=example", f"privacy.noise={noise}", "privacy.sample_rate=0.5", "training.epochs=1",
        "federation.rounds=2", "serve.nodes=2", "export.presets=[]", base=private,
    )  # fmt: skip
    serve(one, fleet, codes=2)
    one.join("a", "--client", "0", "--trainer", "torch")
    one.join("b", "--client", "1", "--trainer", "litert")
    one.wait_for_end(200)
    assert [r["replies"] for r in one.rounds()] == [2, 2], one.notices()
    assert one.rounds()[-1]["epsilon"] == pytest.approx(8.0, rel=0.05)
    for name in ("a", "b"):
        path = NodeFolder(one.node_folder(name)).ledger
        charges = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        assert [c["steps"] for c in charges] == ([3, 3] if noise == "client" else [])
        said = "against everybody, the coordinator too" if noise == "client" else "and may rebuild examples"
        assert said in one.output(name)


@pytest.mark.long
def test_server_app_and_nodes_may_be_killed_in_the_middle_of_a_stream(federation, fleet):
    one = federation(
        "federation.rounds=4", "serve.nodes=2", "training.epochs=20", "serve.deadline_seconds=20",
        "export.presets=[]", "split.order=sequential", base=SPLIT,
    )  # fmt: skip
    serve(one, fleet, codes=2)
    one.join("a", "--client", "0", "--trainer", "torch")
    one.join("b", "--client", "1", "--trainer", "torch")
    one.wait_for_round(1)
    time.sleep(0.3)
    os.kill(one.server_app(), signal.SIGKILL)
    one.wait_for_round(2)
    one.kill_node("a")
    one.start_node("a")
    one.wait_for_end(240)
    assert [r["round"] for r in one.rounds()] == [1, 2, 3, 4]
    assert one.rounds()[-1]["replies"] == 2
    assert "the server app ended: it is started again" in " ".join(one.notices())


@pytest.mark.long
def test_a_node_that_never_opens_its_stream_or_lies_about_it_is_left_out(federation, fleet, impostor):
    one = federation(
        "federation.rounds=3", "serve.nodes=2", "serve.deadline_seconds=20", "export.presets=[]", base=SPLIT
    )
    serve(one, fleet, codes=2)
    one.join("honest", "--client", "0", "--trainer", "torch")
    evil = impostor(one, 1)
    evil.tells = [{"kind": "phone"}]
    for asked, (message, letter) in enumerate(evil.asked(seconds=150), 1):
        content = letter.content
        if asked == 2:  # the first time as it came, then with arrays that are the server's
            more = {"layers.9.weight": np.zeros(3, np.float32)}
            content = arrays.to_bytes(letter.weights() | more)
        evil.link.push(wire.answer({"num-examples": 5, "train_loss": 0.1}, message, content))
        if asked == 3:
            break
    one.wait_for_round(3)
    notices = " ".join(one.notices())
    assert "evil cannot take part: this run has nothing for nodes of kind 'phone'" in notices
    assert "evil left out: it sent an update before its stream had ended" in notices
    assert [r["replies"] for r in one.rounds()] == [1, 1, 1]
