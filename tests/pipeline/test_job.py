"""The main job end to end, small: every stage, its files, and what is kept when something fails."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from edgekit import arrays
from edgekit import experiment as experiments
from edgekit.cli.new import TEMPLATE
from edgekit.errors import ConversionError, EdgekitError, ExportError, UsageError
from edgekit.export.metadata import read_metadata
from edgekit.neuromorphic.loihi import load as load_loihi
from edgekit.pipeline import job

QUICK = [
    "data.clients=4", "data.test_fraction=0.1", "federation.rounds=2", "privacy.sample_rate=0.5",
    "export.tolerance=0.3",
]  # fmt: skip
OF_TEMPLATE = [*QUICK, "model.arguments.channels=[8, 16]"]
MODEL = "edgekit_test_nets:Net"
BODY = """
import torch
from torch import nn
class Odd(nn.Module):
    def forward(self, x):
        return {forward}
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), Odd(), nn.Flatten(), nn.Linear({features}, 10))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, new_listener):
    """One whole quick run, and what its listener heard."""
    out, heard = tmp_path_factory.mktemp("run") / "digits", new_listener()
    result = job.run(experiments.load(TEMPLATE, OF_TEMPLATE), out, heard)
    return out, result, heard


def test_the_run_folder_holds_what_the_contract_says(finished):
    out, result, _ = finished
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert files == {
        "experiment.toml",
        "metrics.jsonl",
        "privacy.jsonl",
        "model.safetensors",
        "checkpoint/round-000001.safetensors",
        "checkpoint/round-000002.safetensors",
        "checkpoint/trainer.txt",
        "export/float32.tflite",
        "export/int8.tflite",
        "spiking/loihi.npz",
        "spiking/network.nir",
        "report.html",
        "result.json",
    }
    assert json.loads((out / "result.json").read_text()) == result
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_result_has_the_contracts_keys(finished):
    _, result, _ = finished
    assert {"accuracy", "rounds", "parameters", "privacy", "tflite", "spiking", "seconds"} <= set(result)
    assert {"unit", "noise", "epsilon", "delta", "accountant"} <= set(result["privacy"])
    for facts in result["tflite"].values():
        assert {
            "path",
            "bytes",
            "accuracy",
            "max_abs_error",
            "max_relative_error",
            "runtimes",
            "latency_us",
            "operators",
        } == set(facts)
    wanted = {
        "steps",
        "accuracy_float",
        "accuracy_loihi",
        "spikes_per_inference",
        "synops",
        "macs",
        "energy_joules_estimate",
        "cores",
    }
    assert wanted <= set(result["spiking"])
    assert 7.8 < result["privacy"]["epsilon"] <= 8.0


def test_the_files_are_what_they_say(finished):
    out, result, _ = finished
    weights, description = arrays.load(out / "model.safetensors")
    assert sum(array.size for array in weights.values()) == result["parameters"]
    assert description["model"]["name"] == "dscnn"
    metadata = read_metadata((out / "export/int8.tflite").read_bytes())
    assert "differential privacy for one example" in metadata["privacy"]
    assert load_loihi(out / "spiking/loihi.npz").steps == 8
    assert experiments.load(out / "experiment.toml") == experiments.load(TEMPLATE, OF_TEMPLATE)


def test_the_listener_hears_every_stage_and_round(finished):
    _, _, heard = finished
    assert heard.stages == ["data", "training", "export", "spiking", "report"]
    assert [metrics.round for metrics in heard.rounds] == [1, 2]
    assert all(metrics.epsilon for metrics in heard.rounds)


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.pictures, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found[key] for key in ("src", "href") if key in found]
        if tag == "svg":
            self.pictures.append(found.get("aria-label"))
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "br", "path", "use", "rect"):
            assert self.open.pop() == tag


def test_the_report_is_one_whole_file_without_links_outside(finished):
    out, result, _ = finished
    text = (out / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside
    assert all((out / link).is_file() for link in outside)  # the model's forms, beside it
    assert len(page.pictures) == 17
    assert all(page.pictures)
    assert f"{100 * result['accuracy']:.1f} %" in text
    for colour in ("#010101", "#020202", "#030303"):
        assert colour not in text
    assert "What it does not cover" in text
    ids = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(ids) == 17


def test_the_pictures_of_one_page_do_not_share_ids(finished):
    """Inline SVGs live in one document: an id used twice would let one picture borrow another's shapes."""
    text = (finished[0] / "report.html").read_text()
    owners = {}
    for number, picture in enumerate(re.findall(r"<svg.*?</svg>", text, re.DOTALL)):
        for name in re.findall(r'\bid="([^"]+)"', picture):
            owners.setdefault(name, set()).add(number)
    assert [name for name, pictures in owners.items() if len(pictures) > 1] == []


def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_no_bit(finished, heard, tmp_path):
    whole, result, _ = finished
    out = shutil.copytree(whole, tmp_path / "digits")
    before, _ = arrays.load(out / "model.safetensors")
    with pytest.raises(UsageError, match="edgekit resume"):
        job.run(experiments.load(TEMPLATE, OF_TEMPLATE), out, heard)
    again = job.resume(out, heard)
    after, _ = arrays.load(out / "model.safetensors")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert again["accuracy"] == result["accuracy"]
    assert heard.rounds == []


def _use(tmp_path, monkeypatch, **body):
    (tmp_path / "edgekit_test_nets.py").write_text(BODY.format(**body))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "edgekit_test_nets", raising=False)


def test_a_network_of_the_users_goes_all_the_way(tmp_path, monkeypatch, heard):
    _use(tmp_path, monkeypatch, forward="nn.functional.avg_pool2d(x, 2)", features=36)
    result = job.run(experiments.load(None, [*QUICK, f"model.name={MODEL}"]), tmp_path / "run", heard)
    assert set(result["tflite"]) == {"float32", "int8"}
    assert result["spiking"]["steps"] == 8
    assert result["privacy"] is None
    assert "No differential privacy" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("forward", "features", "error", "message"),
    [
        (
            "nn.functional.max_pool2d(x, 2)",
            36,
            ConversionError,
            "max_pool2d.* has no spiking form; or set spiking.enabled",
        ),
        ("torch.linalg.svd(x).S", 24, EdgekitError, "has no spiking form"),
    ],
)
def test_what_cannot_be_delivered_is_said_before_training(
    forward, features, error, message, tmp_path, monkeypatch, heard
):
    _use(tmp_path, monkeypatch, forward=forward, features=features)
    wanted = experiments.load(None, [*QUICK, f"model.name={MODEL}", "spiking.enabled=true"])
    with pytest.raises(error, match=message):
        job.run(wanted, tmp_path / "run", heard)
    assert heard.rounds == []


def test_a_network_without_a_spiking_form_is_trained_all_the_same(tmp_path, monkeypatch, heard):
    _use(tmp_path, monkeypatch, forward="nn.functional.max_pool2d(x, 2)", features=36)
    chosen = [*QUICK, f"model.name={MODEL}", "federation.rounds=1", "export.presets=[]"]
    result = job.run(experiments.load(None, chosen), tmp_path / "run", heard)
    (line,) = [line for line in heard.notices if "no spiking form is made" in line]
    assert "max_pool2d" in line
    assert result["spiking"] is None
    assert "failed" not in result


def test_an_operator_without_tflite_form_is_said_before_training(tmp_path, monkeypatch, heard):
    _use(tmp_path, monkeypatch, forward="torch.linalg.svd(x).S", features=24)
    settings = experiments.load(None, [*QUICK, f"model.name={MODEL}", "spiking.enabled=false"])
    with pytest.raises(ExportError, match="layer '2' uses aten._linalg_svd.*or set export.presets"):
        job.run(settings, tmp_path / "run", heard)
    assert heard.rounds == []


def test_a_stage_that_fails_leaves_the_others_and_the_report(tmp_path, heard):
    """Untrained group norm: int8 ranges are fine, but the spiking form is refused after training."""
    settings = experiments.load(
        None,
        [
            *QUICK,
            "model.norm=group",
            "model.arguments={channels=[8, 8]}",
            "export.presets=['float32']",
            "federation.rounds=1",
            "training.learning_rate=0.3",
        ],
    )
    monkey = pytest.MonkeyPatch()
    monkey.setattr("edgekit.neuromorphic.conversion.LARGEST_FREEZING_LOSS", -2.0)
    try:
        with pytest.raises(ConversionError, match="freezing the norms"):
            job.run(settings, tmp_path / "run", heard)
    finally:
        monkey.undo()
    kept = json.loads((tmp_path / "run/result.json").read_text())
    assert "freezing the norms" in kept["failed"]["spiking"]
    assert (tmp_path / "run/export/float32.tflite").exists()
    assert "The stage “spiking” failed" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["model.activation=qcfs", "privacy.unit=example"], marks=pytest.mark.long),
        ["model.name=spiking-cnn", "model.arguments={channels=[4, 6]}", "privacy.unit=example", "privacy.noise=client"],
        pytest.param(
            [
                "model.name=spiking-cnn",
                "model.arguments={channels=[4, 6]}",
                "model.norm=none",
                "privacy.unit=none",
                "data.source=moving-digits",
                "data.events={frames=4, height=8, width=8}",
            ],
            marks=pytest.mark.long,
        ),
        pytest.param(
            ["privacy.unit=none", "spiking.coding=latency", "spiking.reset=hard", "spiking.chip=loihi-1"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_networks_trained_for_spikes_go_through_the_whole_job(overrides, tmp_path, heard):
    settings = [*OF_TEMPLATE, "export.presets=[]", "privacy.epsilon=8", *overrides]
    result = job.run(experiments.load(TEMPLATE, settings), tmp_path / "run", heard)
    assert result["trainer"].startswith("whole cohort") or "vector" in result["trainer"]
    spiking = result["spiking"]
    assert spiking["cores"] >= 1
    assert 0 <= spiking["accuracy_loihi"] <= 1
    assert abs(spiking["accuracy_loihi"] - spiking["accuracy_float"]) < 0.15
    report = (tmp_path / "run/report.html").read_text()
    assert "Accuracy when stopping early" in report
    assert len(load_loihi(tmp_path / "run/spiking/loihi.npz").layers) >= 3
