"""The adapter's contract with the Flower that the suite does not run with, in an environment of its own."""

import json
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import edgekit
from edgekit.registry import STRATEGIES

OTHERS = ("1.41.0", "1.42.0")
ARGUMENTS = {
    "Bulyan": {"num_malicious_nodes": 0},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "QFedAvg": {"client_learning_rate": 0.1},
}
ROUNDS = """
import json, sys
import flwr
import numpy as np
from edgekit.algorithms import make
from edgekit.algorithms.flower import state_of
from edgekit.asks import Aggregate, Scored, Update
from edgekit.algorithms.settings import Federation

found = {"version": flwr.__version__}
for name, arguments in json.loads(sys.argv[1]).items():
    algorithm = make(Federation(strategy=name, arguments=arguments), measures=True)
    rng = np.random.default_rng(0)
    state = algorithm.begin({"w": rng.random((3, 2), np.float32), "b": np.zeros(2, np.float32)}, frozenset("wb"))
    for number in (1, 2, 3):
        asks = algorithm.ask(state, range(6), number)
        updates = {}
        for client, ask in asks.items():
            sent = ask.bundles["weights"]
            arrays = {k: v + 0.1 * rng.standard_normal(v.shape).astype(v.dtype) for k, v in sent.items()}
            updates[client] = Update({"weights": arrays}, 10 + client, {"train_loss": float(rng.random())})
        state = algorithm.merge(state, Aggregate({}, {}, 6, 6, updates), number)
    asked = algorithm.ask_scores(state, range(6), 3)
    told = algorithm.tell_scores({client: Scored(1.0, client / 10, 5) for client in asked}, 3)
    weights = {k: v.astype(float).round(6).tolist() for k, v in algorithm.model(state).items()}
    found[name] = [weights, state.facts["metrics"], told, sorted(algorithm.unkept)]
print(json.dumps(found))
"""


def _rounds(python, place):
    arguments = {name: ARGUMENTS.get(name, {}) for name in STRATEGIES}
    environment = {"PYTHONPATH": str(place), "PATH": "/usr/bin:/bin", "HOME": str(place)}
    done = subprocess.run(
        [str(python), "-c", ROUNDS, json.dumps(arguments)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_every_strategy_gives_the_same_with_the_other_flower(tmp_path):
    (other,) = (one for one in OTHERS if one != version("flwr"))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    needed = [f"{name}=={version(name)}" for name in ("numpy", "pydantic", "safetensors", "tomli-w")]
    install = [str(python), "-m", "pip", "install", "--quiet", f"flwr=={other}", *needed]
    subprocess.run(install, check=True, timeout=280)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/edgekit").symlink_to(Path(edgekit.__file__).parent)
    here, there = (_rounds(each, tmp_path / "packages") for each in (sys.executable, python))
    assert (here.pop("version"), there.pop("version")) == (version("flwr"), other)
    assert here == there
