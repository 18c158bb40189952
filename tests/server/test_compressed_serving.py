"""A network that was changed before its first round, on real nodes: one with torch and one with LiteRT alone."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

CHANGES = {
    "rounds": [
        'compression.stages=["quantise"]', "compression.quantise.begin=0", "compression.quantise.times=1",
        'export.presets=["float32", "int8"]',
    ],
    "sparse": [
        'compression.stages=["prune"]', "compression.prune.begin=0", "compression.prune.end=0",
        "compression.prune.steps=1",
    ],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("change", list(CHANGES))
def test_nodes_train_it_as_the_simulation_does(federation, fleet, edgekit, tmp_path, trained_run, change):
    chosen = [*CHANGES[change], f"model.weights={trained_run}", "federation.rounds=2", "data.clients=2"]
    chosen += ["training.batch_size=1000", "serve.deadline_seconds=60"]
    one = federation(*chosen, "serve.nodes=2")
    one.serve("--once", codes=2)
    one.join("torch", "--client", "0", "--trainer", "torch")
    one.join("litert", "--client", "1", "--trainer", "litert")
    one.wait_for_end(300)
    assert [r["replies"] for r in one.rounds()] == [2, 2], one.notices()
    done = edgekit("run", "--out", "run", *fleet.QUICK, *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    served, simulated = (load_file(place / "model.safetensors") for place in (one.run, tmp_path / "run"))
    begun = load_file(trained_run / "model.safetensors")
    # A sum in another order may round to the other side of a step.
    most = 2 / 127 if change == "rounds" else 1e-4
    for name, array in simulated.items():
        assert np.abs(served[name] - array).max() <= most * max(1.0, np.abs(array).max()), name
    assert any(np.abs(served[name] - begun[name]).max() > 1e-3 for name in begun)
    told = json.loads((one.run / "result.json").read_text())
    if change == "rounds":
        assert told["compression"][-1]["files"]["int8"]["within_one_quantum"] >= 0.99
    else:
        assert told["compression"][-1]["nonzero"] < 0.5 * told["parameters"]
    one.stop()
