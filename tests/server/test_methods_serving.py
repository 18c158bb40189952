"""Federated methods on real nodes: one with torch and one with LiteRT alone, over TLS."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

MOMENTUM = '''
"""Somebody's own method, in a file of its own: the server's step goes on, and clients tell how far they went."""

import numpy as np

from edgekit.algorithms.base import Algorithm, State
from edgekit.asks import Aggregate, Train, Update
from edgekit.server.loop.selection import Sampling
from edgekit.transforms.base import Transform


class Rolling(Algorithm):
    bundles = ("delta", "distance")
    keeps = True

    def begin(self, weights, learnt):
        return State({"weights": weights, "velocity": {name: np.zeros_like(w) for name, w in weights.items()}})

    def local(self, ask, client):
        before = ask.bundles["weights"]
        trained = yield Train(before, ask.settings)
        delta = {name: trained.arrays[name] - before[name] for name in before}
        rounds = client.state.get("rounds", {"count": np.zeros(1, np.float32)})["count"] + 1
        client.state["rounds"] = {"count": rounds}
        far = np.array([sum(float((d**2).sum()) for d in delta.values()) ** 0.5], np.float32)
        return Update({"delta": delta, "distance": {"far": far}}, facts={"rounds": float(rounds[0])})

    def expects(self, ask):
        return {"delta": ask.bundles["weights"], "distance": {"far": np.zeros(1, np.float32)}}

    def merge(self, state, got, number):
        velocity = {k: 0.5 * v + got.bundles["delta"][k] for k, v in state.bundles["velocity"].items()}
        weights = {k: w + velocity[k] for k, w in state.bundles["weights"].items()}
        facts = {"metrics": {"far": float(got.bundles["distance"]["far"][0]), **got.facts}}
        return State({"weights": weights, "velocity": velocity}, facts)


class Fading(Transform):
    """A transform with state on both sides: clients send ever less, the server counts the rounds."""

    keeps = True

    def on_update(self, update, ask, client, rng):
        factor = client.state.get("factor", {"own": np.ones(1, np.float32)})["own"] * np.float32(0.5)
        client.state["factor"] = {"own": factor}
        delta = {name: array * factor for name, array in update.bundles["delta"].items()}
        return Update({**update.bundles, "delta": delta}, update.weight, update.facts)

    def begin(self, like):
        return State({"count": {"rounds": np.zeros(1, np.float32)}})

    def on_aggregate(self, got, state, round_, rng):
        count = state.bundles["count"]["rounds"] + 1
        facts = {**got.facts, "through": float(count[0])}
        return Aggregate(got.bundles, facts, got.count, got.clients), State({"count": {"rounds": count}})


class Everybody:
    """A selector."""

    def sampling(self, cohort, clients):
        return Sampling("fixed", 1.0)

    def choose(self, cohort, clients, number, rng):
        return list(range(clients))
'''


@pytest.mark.long
@pytest.mark.parametrize(
    "method",
    [
        "scaffold",
        "rolling:Rolling",
        "feddyn",
        "ditto",
        "fedbn",
        "ifca",
        "qfedavg",
        "fltrust",
        "feddf",
        "fedmd",
        "gossip",
        "perfedavg",
    ],
)
def test_two_nodes_end_where_the_simulation_of_two_clients_ends(
    federation, fleet, edgekit, tmp_path, method, monkeypatch
):
    """Whole batches, so that nodes' own random numbers change nothing but the order of sums."""
    (tmp_path / "rolling.py").write_text(MOMENTUM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the coordinator's processes, and the nodes'
    chosen = [f"federation.algorithm={method}", "federation.rounds=3", "data.clients=2"]
    chosen += ["training.batch_size=1000", "serve.deadline_seconds=60"]
    chosen += ["model.norm=group"] if method == "fedbn" else []
    chosen += ['federation.arguments={networks=["mlp"], batch_size=1000}'] if method == "fedmd" else []
    own = method.startswith("rolling")
    if own:
        chosen += ['federation.transforms=["rolling:Fading"]', "federation.selector=rolling:Everybody"]
    one = federation(*chosen, "serve.nodes=2")
    one.serve("--once", codes=2)
    one.join("torch", "--client", "0", "--trainer", "torch", "--module", "rolling")
    second = "torch" if method == "fedmd" else "litert"
    one.join("litert", "--client", "1", "--trainer", second, "--module", "rolling")
    one.wait_for_end(300)
    assert [r["replies"] for r in one.rounds()] == [2, 2, 2], one.notices()
    done = edgekit("run", "--out", "run", *fleet.QUICK, *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    served, simulated = (load_file(place / "model.safetensors") for place in (one.run, tmp_path / "run"))
    assert all(np.allclose(served[name], simulated[name], atol=1e-4) for name in simulated)
    if own:
        lines = [json.loads(line)["metrics"] for line in (one.run / "metrics.jsonl").read_text().splitlines()]
        assert [line["rounds"] for line in lines] == [line["through"] for line in lines] == [1, 2, 3]
        assert lines[0]["far"] > 0
    one.stop()


@pytest.mark.long
def test_a_ring_of_three_nodes_ends_where_its_simulation_ends(federation, fleet, edgekit, tmp_path, monkeypatch):
    """Two rounds of four steps; the coordinator passes segments on."""
    monkeypatch.chdir(tmp_path)
    chosen = ["federation.algorithm=ring", "federation.rounds=8", "data.clients=3", "training.batch_size=1000"]
    one = federation(*chosen, "serve.nodes=3", "serve.deadline_seconds=60")
    one.serve("--once", codes=3)
    for client, trainer in enumerate(("torch", "litert", "litert")):
        one.join(f"node-{client}", "--client", str(client), "--trainer", trainer)
    one.wait_for_end(300)
    assert [r["replies"] for r in one.rounds()] == [3] * 8, one.notices()
    done = edgekit("run", "--out", "run", *fleet.QUICK, *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    served, simulated = (load_file(place / "model.safetensors") for place in (one.run, tmp_path / "run"))
    assert all(np.allclose(served[name], simulated[name], atol=1e-4) for name in simulated)
    one.stop()


@pytest.mark.long
def test_few_numbers_travel_from_real_nodes(federation, fleet, edgekit, tmp_path, monkeypatch):
    """Top-k with error feedback, which nodes keep on themselves."""
    monkeypatch.chdir(tmp_path)
    chosen = ["federation.rounds=3", "data.clients=2", "training.batch_size=1000", "serve.deadline_seconds=60"]
    chosen += ['federation.transforms=[{name="top-k", arguments={share=0.02}}]']
    one = federation(*chosen, "serve.nodes=2")
    one.serve("--once", codes=2)
    one.join("torch", "--client", "0", "--trainer", "torch")
    one.join("litert", "--client", "1", "--trainer", "litert")
    one.wait_for_end(300)
    assert [r["replies"] for r in one.rounds()] == [2, 2, 2], one.notices()
    done = edgekit("run", "--out", "run", *fleet.QUICK, *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    served, simulated = (load_file(place / "model.safetensors") for place in (one.run, tmp_path / "run"))
    assert all(np.allclose(served[name], simulated[name], atol=1e-3) for name in simulated)
    lines = [json.loads(line) for line in (one.run / "metrics.jsonl").read_text().splitlines()]
    assert all(line["bytes_up"] < line["bytes_down"] / 4 for line in lines)
    one.stop()
