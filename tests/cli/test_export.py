"""`edgekit export` and `edgekit inspect` as people use them: on a run, and on a module of their own."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36 * width, 10)
        )
    def forward(self, x):
        return self.layers(x)
class Sorts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.odd = torch.nn.Linear(64, 10)
        self.sorter = Sorter()
    def forward(self, x):
        return self.sorter(self.odd(x.flatten(1)))
class Sorter(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x[:, None]).Vh[:, 0] * x
"""


@pytest.fixture(scope="module")
def place(trained_run, tmp_path_factory) -> Path:
    """A folder with a finished run `r` and a module `nets`."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(trained_run, folder / "r")
    (folder / "nets.py").write_text(NET)
    np.savez(folder / "one.npz", x=np.zeros((5, 1, 8, 8), np.float32), y=np.full(5, 4))
    return folder


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    return shutil.copytree(trained_run, tmp_path / "r")


def test_another_preset_and_the_training_graph_of_a_run(edgekit, run):
    done = edgekit("export", "r", "--preset", "int8", "--training", "--batch", "4", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert re.search(r"int8\.tflite +[\d,]+ +ai-edge-litert \S+ +0\.\d{4}", done.stdout), done.stdout
    assert "training.tflite: " in done.stdout
    result = json.loads((run / "result.json").read_text())
    assert set(result["tflite"]) == {"float32", "int8"}
    assert result["tflite"]["int8"]["bytes"] == (run / "export/int8.tflite").stat().st_size
    assert result["training_graph"]["batch"] == 8  # the experiment's batches must fit
    report = (run / "report.html").read_text()
    assert "<td>TFLite int8</td>" in report
    assert "export/training.tflite" in report
    assert report.count("</html>") == 1
    assert "Spiking" in report
    found = json.loads(edgekit("inspect", run / "export/training.tflite", "--check", "--json", cwd=run).stdout)
    assert found["metadata"]["kind"] == "training"
    assert found["check"]["ai-edge-litert"]["latency_us"]["runs"] > 0


def test_a_run_that_was_stopped_early_is_exported_with_a_licence(edgekit, run):
    from edgekit.export.metadata import read_metadata

    result = json.loads((run / "result.json").read_text())
    del result["tflite"]  # as a run has that was stopped early
    (run / "result.json").write_text(json.dumps(result))
    done = edgekit(
        "export", "r", "--preset", "float16", "--runtime", "ai-edge-litert", "--licence", "MIT", cwd=run.parent
    )
    assert done.returncode == 0, done.stderr
    assert read_metadata((run / "export/float16.tflite").read_bytes())["licence"] == "MIT"
    assert set(json.loads((run / "result.json").read_text())["tflite"]) == {"float16"}


def test_inspect_tells_what_files_hold_and_checks_them_against_their_run(edgekit, run):
    found = json.loads(edgekit("inspect", run / "export/float32.tflite", "--check", "--json", cwd=run).stdout)
    assert found["metadata"]["output"]["labels"] == [str(digit) for digit in range(10)]
    assert found["signatures"]["classify"]["inputs"] == {"image": {"shape": [1, 8, 8, 1], "dtype": "float32"}}
    accuracy = json.loads((run / "result.json").read_text())["accuracy"]
    assert found["check"]["ai-edge-litert"]["accuracy"] == accuracy
    assert found["check"]["ai-edge-litert"]["against"] == "the run's network, on its test set"
    whole = json.loads(edgekit("inspect", run, "--json", cwd=run).stdout)
    assert whole["accuracy"] == accuracy
    assert whole["files"]["export/float32.tflite"] == (run / "export/float32.tflite").stat().st_size
    for other, words in (
        ("model.safetensors", "layers.1.weight"),
        ("spiking/network.nir", "nodes"),
        ("spiking/loihi.npz", "threshold"),
    ):
        done = edgekit("inspect", run / other, cwd=run)
        assert words in done.stdout, done.stderr


def test_a_file_away_from_its_run_is_held_against_its_self_test(edgekit, fails, run, tmp_path):
    alone = shutil.copy(run / "export/float32.tflite", tmp_path / "alone.tflite")
    found = json.loads(edgekit("inspect", alone, "--check", "--json", cwd=tmp_path).stdout)
    assert found["check"]["ai-edge-litert"]["max_abs_error"] < 1e-4
    from edgekit.export.metadata import add_metadata, read_metadata

    content = Path(alone).read_bytes()
    facts = read_metadata(content)
    facts["self_test"]["scores"][0][0] += 100
    Path(alone).write_bytes(add_metadata(content, facts))
    fails(edgekit("inspect", alone, "--check", cwd=tmp_path), 1, "gives scores that differ by")


def test_a_file_that_takes_any_size_is_given_one(edgekit, tmp_path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from torch import nn

    from edgekit.export.convert import to_float32

    made = schema.ModelT.InitFromObj(schema.Model.GetRootAs(to_float32(nn.ReLU(), (12,)), 0))
    for tensor in made.subgraphs[0].tensors:
        tensor.shapeSignature = [1, -1]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    (tmp_path / "free.tflite").write_bytes(bytes(builder.Output()))
    found = json.loads(edgekit("inspect", "free.tflite", "--check", "--json", cwd=tmp_path).stdout)
    assert found["signatures"]["classify"]["inputs"]["features"]["shape"] == [1, -1]
    checked = found["check"]["ai-edge-litert"]
    assert checked["size_of_what_may_vary"] == 16
    assert "itself alone" in checked["against"] or "random numbers" in checked["against"]


def test_a_file_of_another_runs_network_fails_its_check(edgekit, fails, run, tmp_path):
    from edgekit.export.convert import to_float32
    from edgekit.models import build
    from edgekit.models.settings import Model

    (tmp_path / "other.tflite").write_bytes(to_float32(build(Model(name="mlp"), (1, 8, 8), 10, 5), (1, 8, 8)))
    done = edgekit("inspect", "other.tflite", "--check", "--run", "r", cwd=tmp_path)
    fails(done, 1, r"other.tflite has accuracy 0\.\d+ in ai-edge-litert, the network 0\.\d+")


def test_a_module_of_the_users_is_exported_without_a_run(edgekit, place):
    import torch

    torch.manual_seed(3)
    torch.save(runpy.run_path(place / "nets.py")["Net"](3).state_dict(), place / "net.pt")
    x = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)
    np.savez(place / "some.npz", x=x, y=np.arange(40) % 10)
    done = edgekit(
        *("export", "--model", "nets:Net", "--arguments", '{"width": 3}', "--weights", "net.pt", "--sample", "1,1,8,8"),
        *("--calibration", "some.npz", "--preset", "float32", "--preset", "int8", "--tolerance", "0.1"),
        *("--training", "--out", "mine", "--json"),
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["tflite"]["float32"]["max_abs_error"] < 1e-5
    assert facts["training_graph"]["max_error"] < 1e-5
    assert sorted(path.name for path in (place / "mine").iterdir()) == [
        "float32.tflite", "int8.tflite", "training.tflite"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a run's folder, or a module by --model"),
        (["r", "--weights", "net.pt"], 2, "--weights belongs to --model"),
        (["nowhere"], 2, "nowhere is not a run folder"),
        (["r", "--preset", "int5"], 2, "--preset int5: there are float32, float16"),
        (["r", "--runtime", "onnx"], 2, "--runtime onnx: there are ai-edge-litert, tflite-runtime"),
        (["--model", "nets:Nothing", "--sample", "1,1,8,8"], 2, "module 'nets' has no 'Nothing'"),
        (["--model", "nets:Net", "--sample", "8,8"], 2, "give one input's shape with a batch of 1"),
        (["--model", "nets:Net", "--sample", "1,3,8,8"], 1, r"nets:Net cannot take inputs of \(3, 8, 8\)"),
        (["--model", "nets:Net", "--sample", "1,1,8,8", "--arguments", "{"], 2, "give a JSON object"),
        (["--model", "nets:Net", "--sample", "1,1,8,8", "--arguments", '{"depth": 2}'], 1, "unexpected keyword"),
        (["--model", "nets:Net", "--sample", "1,1,8,8", "--weights", "no.pt"], 2, "no.pt does not exist"),
        (
            ["--model", "nets:Net", "--sample", "1,1,8,8", "--weights", "nets.py"],
            1,
            "nets.py cannot be read",
        ),
        (
            ["--model", "nets:Net", "--sample", "1,1,8,8", "--weights", "r/model.safetensors"],
            1,
            "it lacks .layers.0.weight",
        ),
        (["--model", "nets:Net", "--sample", "1,1,8,8", "--preset", "int8"], 1, "int8 needs examples to calibrate on"),
        (["--model", "nets:Net", "--sample", "1,1,8,8", "--calibration", "r/model.safetensors"], 2, "give .npz with x"),
        (["--model", "nets:Net", "--sample", "1,1,8,8", "--calibration", "one.npz"], 1, "are of one class, number 4"),
        (["--model", "nets:Sorts", "--sample", "1,1,8,8"], 1, "layer 'sorter' uses aten._linalg_svd"),
    ],
)
def test_bad_input_is_one_line_that_says_what_would_be_right(arguments, code, message, edgekit, fails, place):
    done = edgekit("export", *arguments, *(["--out", "bad"] if "--model" in arguments else []), cwd=place)
    fails(done, code, message)
    assert not (place / "bad").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("x.tflite", b"hello, I am not one", 1, "lacks the mark TFL3"),
        ("x.tflite", b"\x1c\0\0\0TFL3" + b"\xff" * 60, 1, "truncated or corrupt"),
        ("x.tflite", b"", 1, "not a .tflite file"),
        ("x.safetensors", b"{}", 1, "x.safetensors"),
        ("x.nir", b"nothing", 1, "not a readable .nir file"),
        ("x.npz", b"nothing", 1, "x.npz"),
        ("x.onnx", b"", 2, "edgekit knows .tflite"),
    ],
)
def test_inspect_refuses_what_it_cannot_read(name, content, code, message, edgekit, fails, tmp_path):
    (tmp_path / name).write_bytes(content)
    fails(edgekit("inspect", name, cwd=tmp_path), code, message)
    fails(edgekit("inspect", "none.tflite", cwd=tmp_path), 2, "does not exist")
