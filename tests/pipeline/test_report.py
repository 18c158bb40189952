"""What the report tells beside the figures: what answers were based on, earlier runs, and how to use the model."""

import json
import re
import shutil

import numpy as np
import torch

from edgekit.pipeline.comparing import earlier
from edgekit.report import closer
from edgekit.runfolder import RunFolder


def test_contributions_to_a_linear_score_are_its_terms():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    found = closer.contributions(model, x, 2)
    weight = model[1].weight.detach().numpy()[2].reshape(1, 3, 4)
    np.testing.assert_allclose(found, weight * x, rtol=1e-5)
    with torch.no_grad():
        score = float(model(torch.from_numpy(x[None]))[0, 2] - model[1].bias[2])
    assert abs(found.sum() - score) < 1e-5
    assert closer.contributions(torch.nn.Sequential(torch.nn.Flatten(), Steps()), x, 0) is None


class Steps(torch.nn.Module):
    def forward(self, x):
        return (x[:, :3] > 0).float()


def test_the_page_tells_how_to_use_the_run_and_links_its_files(trained_run):
    page = (trained_run / "report.html").read_text()
    assert f"edgekit predict {trained_run} photos/" in page
    links = re.findall(r'<a href="([^"]+)" download>', page)
    assert "export/float32.tflite" in links
    assert all((trained_run / link).is_file() for link in links)
    for part in ("A closer look", "Test loss", "Are its chances true", "always the same class", "multiply-adds"):
        assert part in page, part


def test_earlier_runs_are_told_with_what_differed(trained_run, tmp_path):
    name = RunFolder.open(trained_run).read_result()["name"]
    for place, seed in ((f"{name}-001", 5), (f"{name}-002", 0), (f"{name}-003", 0)):
        shutil.copytree(trained_run, tmp_path / place)
        text = (tmp_path / place / "experiment.toml").read_text()
        (tmp_path / place / "experiment.toml").write_text(re.sub(r"(?m)^seed = \d+", f"seed = {seed}", text))
    result = json.loads((tmp_path / f"{name}-003/result.json").read_text())
    (tmp_path / f"{name}-003/result.json").write_text(json.dumps({**result, "interrupted": True}))
    (one,) = earlier(RunFolder.open(tmp_path / f"{name}-002"))
    assert (one["path"], one["differs"]) == (f"{name}-001", ["seed = 5"])
    assert one["report"] == f"../{name}-001/report.html"
