"""The code of docs/federation.md, run as it stands there."""

import re
from pathlib import Path

import numpy as np
from torch import nn

from edgekit.clients.torch_trainer import state
from edgekit.data import load
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

PAGE = (Path(__file__).parents[2] / "docs" / "federation.md").read_text()


def test_a_method_and_a_transform_of_ones_own(tmp_path, make_experiment, monkeypatch):
    blocks = re.findall(r"```python\n# (\w+\.py); ([^\n]*)\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _, _ in blocks] == ["topk.py", "rolling.py"]
    for name, _, text in blocks:
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen = [told.replace(" = ", "=", 1) for _, told, _ in blocks]
    chosen[1] = chosen[1].replace('"', "")
    quick = ["federation.rounds=3", "data.clients=5", "training.epochs=1", "training.learning_rate=0.2"]
    plain = chosen[1]
    # That method sends differences, in a bundle of its own; the transform is for methods that send weights.
    for name, overrides in (("rolling", [plain]), ("topk", [chosen[0]])):
        experiment = make_experiment(*quick, *overrides)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        made = Coordinator(experiment, load(experiment.data, 0), model, RunFolder.create(tmp_path / name))
        before = {k: v.copy() for k, v in state(model).items()}
        after = made.run().weights
        assert all(np.isfinite(after[k]).all() and (after[k] != before[k]).any() for k in before)
        assert list(read_lines(tmp_path / name / "metrics.jsonl"))[-1]["accuracy"] > 0.5
