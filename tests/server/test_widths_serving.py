"""HeteroFL on real nodes: each trains, and is delivered, the width that its memory bears."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgekit.clients.node.folder import NodeFolder

CHOSEN = [
    "federation.algorithm=heterofl", "federation.arguments.widths=[1.0, 0.5]",
    "federation.arguments.memory_mb=[1024, 0]",
    'federation.arguments.profiles=["raspberry-pi-4", "raspberry-pi-zero-2"]',
    "model.name=mlp", "model.norm=none", "federation.rounds=3", "data.clients=2", "training.batch_size=1000",
    "serve.deadline_seconds=60", 'export.presets=["float32", "int8"]',
]  # fmt: skip


@pytest.mark.long
def test_nodes_of_two_widths_end_where_the_simulation_ends(federation, fleet, edgekit, tmp_path):
    """One tells its memory and has room for the whole; the other, with LiteRT alone, does not tell, and has half."""
    one = federation(*CHOSEN, "serve.nodes=2")
    one.serve(codes=2)
    one.join("torch", "--client", "0", "--trainer", "torch", "--share", "memory")
    one.join("litert", "--client", "1", "--trainer", "litert")
    files = {"torch": "export/int8.tflite", "litert": "export/width-0.5/int8.tflite"}

    def delivered():
        return all((NodeFolder(one.node_folder(name)).models / "current.json").exists() for name in files)

    one.wait(delivered, 300, "both have their model")
    assert [r["replies"] for r in one.rounds()] == [2, 2, 2], one.notices()
    for name, file in files.items():
        models = NodeFolder(one.node_folder(name)).models
        current = json.loads((models / "current.json").read_text())
        assert (models / current["file"]).read_bytes() == (one.run / file).read_bytes(), name
    done = edgekit("run", "--out", "run", *fleet.QUICK, *CHOSEN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    served, simulated = (load_file(place / "model.safetensors") for place in (one.run, tmp_path / "run"))
    assert all(np.allclose(served[name], simulated[name], atol=1e-4) for name in simulated)
    told = json.loads((one.run / "result.json").read_text())["widths"]
    assert told["0.5"]["parameters"] < 0.6 * told["1"]["parameters"]
    states = {node["name"]: node for node in json.loads((one.run / "nodes.json").read_text())}
    assert (states["torch"]["network"], states["litert"]["network"]) == ("", "0.5")
    assert states["litert"]["bytes_up"] < 0.7 * states["torch"]["bytes_up"]
    one.stop()
