"""Trackers: what each keeps is read back with its own reader; one that fails costs a line, not the run."""

import csv
import json

import pytest

from edgekit import experiment as experiments
from edgekit.pipeline import job
from edgekit.report.trackers import Trackers
from edgekit.report.trackers.base import Tracker
from edgekit.runfolder import RunFolder, read_lines

QUICK = ["model.name=mlp", "data.clients=4", "federation.rounds=3", "export.presets=[]", "spiking.enabled=false"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, new_listener):
    """A run that all trackers were told of, one of them broken and one unknown to this machine."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        heard = new_listener()
        names = '["csv", "tensorboard", "mlflow", "wandb"]'
        job.run(experiments.load(None, [*QUICK, f"tracking={names}", "name=tried"]), place / "r", heard)
    assert not [line for line in heard.notices if "not tracked" in line]
    return RunFolder.open(place / "r")


def test_the_table_of_rounds_is_the_metrics(tracked):
    lines = list(read_lines(tracked.metrics))
    with open(tracked.path / "tracking/rounds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["round"]) for row in rows] == [1, 2, 3]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([line["accuracy"] for line in lines])
    assert [float(row["bytes_up"]) for row in rows] == [line["bytes_up"] for line in lines]


def test_tensorboards_own_reader_finds_the_rounds(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tracked.path / "tracking/tensorboard"))
    read.Reload()
    expected = [line["accuracy"] for line in read_lines(tracked.metrics)]
    assert [(one.step, one.value) for one in read.Scalars("accuracy")] == [
        (place, pytest.approx(value)) for place, value in enumerate(expected, 1)
    ]
    assert read.Scalars("run/accuracy")[0].value == pytest.approx(tracked.read_result()["accuracy"])


def test_mlflows_own_client_finds_rounds_settings_and_files(tracked, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient((tracked.path.parent / "mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("tried").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["model.name"] == "mlp"
    history = client.get_metric_history(found.info.run_id, "accuracy")
    expected = [line["accuracy"] for line in read_lines(tracked.metrics)]
    assert [one.value for one in sorted(history, key=lambda one: one.step)] == pytest.approx(expected)
    assert {one.path for one in client.list_artifacts(found.info.run_id)} >= {"report.html", "model.safetensors"}


def _leveldb_records(content):
    """Yield the records of a file in LevelDB's log format, which W&B writes behind seven bytes of its own."""
    block, place, parts = 32768, 7, []
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts.append(content[place + 7 : place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_the_offline_file_of_wandb_holds_the_rounds(tracked):
    from wandb.proto import wandb_internal_pb2

    (path,) = tracked.path.glob("tracking/wandb/offline-run-*/run-*.wandb")
    found = []
    for data in _leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            found.append(row["accuracy"])
    assert found == pytest.approx([line["accuracy"] for line in read_lines(tracked.metrics)])


class Broken(Tracker):
    def round(self, number, figures):
        raise ConnectionError("nobody\nis there")


def test_a_tracker_that_fails_or_is_missing_costs_a_line(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    told = []
    folder = RunFolder.create(tmp_path / "r")
    trackers = Trackers(["mlflow", "csv", f"{__name__}:Broken"], folder, experiments.load(None, QUICK), told.append)
    assert "pip install 'edgekit[trackers]'" in told[0]
    metrics = next(
        iter([job.RoundMetrics(1, 0.5, 0.9, 4, 4, 0, 10, 10, 0.1, None, {"odd": float("nan"), "text": "x"})])
    )
    trackers.round(metrics)
    trackers.round(metrics)
    assert len(told) == 2
    assert told[1].endswith("Broken from here on: nobody is there")
    assert (tmp_path / "r/tracking/rounds.csv").read_text().splitlines()[0].startswith("round,accuracy,loss")
