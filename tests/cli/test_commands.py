"""The command line as people use it: exit codes, one-line errors, help with an example, runs that are stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit import arrays
from edgekit.experiment import Experiment
from edgekit.registry import MODELS

EDGEKIT = [str(Path(sys.executable).parent / "edgekit")]
QUICK = ["data.clients=5", "federation.rounds=2", "export.presets=[]", "spiking.enabled=false", "privacy.unit=none"]
TWELVE = [item.replace("rounds=2", "rounds=12") for item in QUICK]
TWELVE += ["model.name=mlp", "model.arguments={}", "training.epochs=1", "training.batch_size=16"]
COMMANDS = ["run", "resume", "export", "inspect", "new", "models", "doctor"]
SPLIT = ["split plan", "privacy report", "privacy audit", "privacy ledger"]
SPIKE = ["spike run", "spike verify", "spike plot", "spike export", "spike setup-lava"]


@pytest.fixture(scope="module")
def whole(edgekit, tmp_path_factory):
    """What a run of twelve rounds learns that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    done = edgekit("run", *TWELVE, "--out", "whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return arrays.load(folder / "whole/model.safetensors")[0]


def _after_two_rounds(folder):
    """Start the run of twelve rounds in a process of its own; give it back in the midst of them."""
    process = subprocess.Popen(
        [*EDGEKIT, "run", *TWELVE, "--out", folder.name],
        cwd=folder.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs this behind it
    )
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("command", [*COMMANDS, *SPIKE, *SPLIT])
def test_every_command_has_help_with_an_example(command, edgekit, tmp_path):
    done = edgekit(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"edgekit {command}" in done.stdout
    assert "Example" in done.stdout


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'flwr', 'numpy', 'matplotlib', 'pydantic', 'sklearn'): sys.modules[name] = None\n"
        "sys.argv = ['edgekit', '--help']\n"
        "from edgekit.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "run" in done.stdout, done.stderr


def test_a_run_prints_its_progress_and_where_the_report_is(tmp_path):
    done = subprocess.run([*EDGEKIT, "run", *QUICK], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "round 2/2  accuracy 0." in done.stdout
    assert "runs/digits-001/report.html" in done.stdout
    assert (tmp_path / "runs/digits-001/report.html").exists()


def test_json_is_all_that_a_machine_gets(edgekit, tmp_path):
    done = edgekit("run", *QUICK, "--out", "a", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == json.loads((tmp_path / "a/result.json").read_text())


def test_a_new_experiment_runs_as_it_is_and_is_never_overwritten(edgekit, fails, tmp_path):
    assert edgekit("new", "mine.toml", cwd=tmp_path).returncode == 0
    first = (tmp_path / "mine.toml").read_text().splitlines()[0]
    schema = json.loads((tmp_path / first.removeprefix("#:schema ")).read_text())
    assert schema == json.loads(edgekit("new", "--schema", cwd=tmp_path).stdout)
    assert set(schema["properties"]) == set(Experiment.model_fields)
    fails(edgekit("new", "mine.toml", cwd=tmp_path), 2, "exists already")
    done = edgekit("run", "mine.toml", *QUICK, "--out", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_a_new_experiment_for_a_network_fits_it(name, tmp_path):
    from edgekit import experiment as experiments
    from edgekit.cli.new import text_for
    from edgekit.models.kinds import learns_with

    (tmp_path / "mine.toml").write_text(text_for(name))
    made, learns = experiments.load(tmp_path / "mine.toml"), learns_with(MODELS.load(name))
    assert made.name == "digits"
    assert made.model.name == name
    assert made.model.norm == learns["norm"]
    assert made.training.learning_rate == learns["learning_rate"]
    assert made.training.warm_up == learns["warm_up"]
    assert made.privacy.unit == "none"
    assert made.objective.name == ("reconstruction" if name == "autoencoder" else "cross-entropy")


def test_epsilon_is_in_every_progress_line_of_a_private_run(edgekit, tmp_path):
    quick = [item for item in QUICK if not item.startswith("privacy")]
    done = edgekit("run", *quick, "--out", "p", cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if "round " in line and "/2" in line]
    assert lines
    assert all("epsilon" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "training.epoch=1"], 2, "did you mean 'epochs'"),
        (["run", "nowhere.toml"], 2, "does not exist"),
        (["run", "a.toml", "b.toml"], 2, "one experiment file at a time"),
        (["run", "data.source=npz:nowhere.npz"], 1, "does not exist"),
        (
            ["run", "privacy.unit=client", "federation.cohort=3", "privacy.epsilon=1e-9", "privacy.delta=1e-12"],
            1,
            "cannot be reached",
        ),
        (["run", "--out", "/proc/edgekit"], 1, "cannot make the run folder"),
        (["run", "data.clients=5000"], 1, "too few for 5000 clients"),
        (["resume", "nowhere"], 2, "is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_the_right_exit_code(arguments, code, message, edgekit, fails, tmp_path):
    fails(edgekit(*arguments, cwd=tmp_path), code, message)


def test_a_wrong_option_is_wrong_usage(edgekit, tmp_path):
    done = edgekit("run", "--nonsense", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_usable_run_and_resume_ends_with_the_same_bits(whole, edgekit, tmp_path):
    process = _after_two_rounds(tmp_path / "broken")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "go on with: edgekit resume broken" in errors
    assert "Traceback" not in errors
    for name in ("model.safetensors", "report.html", "result.json"):
        assert (tmp_path / "broken" / name).exists()
    assert json.loads((tmp_path / "broken/result.json").read_text())["rounds"] < 12
    _resumes_with_the_same_bits(tmp_path / "broken", whole, edgekit)


@pytest.mark.long
def test_a_killed_run_resumes_with_the_same_bits(whole, edgekit, tmp_path):
    process = _after_two_rounds(tmp_path / "killed")
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed/result.json").exists()
    _resumes_with_the_same_bits(tmp_path / "killed", whole, edgekit)


def _resumes_with_the_same_bits(folder, whole, edgekit):
    done = edgekit("resume", folder.name, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    learnt = arrays.load(folder / "model.safetensors")[0]
    assert learnt.keys() == whole.keys()
    assert all(np.array_equal(whole[name], learnt[name]) for name in whole)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(fails, tmp_path):
    """Files may not grow beyond 60 kB here, as on a disk that has no more: the .nir file is the first that would."""

    def fill_the_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    quick = ["data.clients=5", "federation.rounds=2", "export.presets=[]", "privacy.unit=none"]
    done = subprocess.run(
        [*EDGEKIT, "run", *quick, "--out", "full"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        preexec_fn=fill_the_disk,
    )
    fails(done, 1, "cannot write .*: File too large")
    assert not (tmp_path / "full/spiking/network.nir").exists()
    assert [file for file in (tmp_path / "full").rglob("*") if file.name.startswith(".")] == []


def test_models_and_doctor_speak_to_people_and_machines(edgekit, tmp_path):
    assert [row["name"] for row in json.loads(edgekit("models", "--json", cwd=tmp_path).stdout)] == [
        "mlp",
        "cnn",
        "dscnn",
        "mobilenetv2",
        "mobilenetv3",
        "efficientnet",
        "shufflenet",
        "vit",
        "cnn-vit",
        "mixer",
        "capsule",
        "ode",
        "experts",
        "exits",
        "autoencoder",
        "gated",
        "keyword-dscnn",
        "tcn",
        "s4d",
        "ssd",
        "gru",
        "mingru",
        "fusion",
        "graph",
        "spiking-mlp",
        "spiking-cnn",
    ]
    assert "Sandler" in edgekit("models", cwd=tmp_path).stdout
    found = json.loads(edgekit("doctor", "--json", cwd=tmp_path).stdout)
    assert {extra["name"] for extra in found["extras"]} == {
        "train",
        "tflite",
        "node",
        "phone",
        "serve",
        "spiking",
        "events",
        "hub",
        "graphs",
        "tables",
        "trackers",
        "compress",
        "micro",
        "npu",
        "search",
        "ray",
    }
    assert not any(extra["missing"] for extra in found["extras"] if extra["name"] != "ray")


def test_without_torch_the_error_names_the_extra(fails, tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nsys.argv = ['edgekit', 'run']\nfrom edgekit.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ)
    )
    fails(done, 1, r"pip install 'edgekit\[train\]'")


def test_with_training_alone_a_run_names_what_it_leaves_out(tmp_path):
    """As after pip install 'edgekit[train]': packages of the other extras cannot be imported."""
    lacking = ("litert_torch", "litert_quantizer", "ai_edge_litert", "numba", "nir", "snntorch", "h5py", "pyarrow")
    code = (
        f"import sys\nfor name in {lacking!r}: sys.modules[name] = None\n"
        "from edgekit.cli import main\n"
        "main(['run', 'model.name=mlp', 'federation.rounds=2', 'privacy.unit=none', '--out', 'r'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for extra in ("tflite", "spiking"):
        assert f"pip install 'edgekit[{extra}]'" in done.stdout
    assert set(json.loads((tmp_path / "r/result.json").read_text())["skipped"]) == {"export", "spiking"}
    assert (tmp_path / "r/report.html").is_file()
