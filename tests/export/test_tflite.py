"""Files for devices: equal to torch in LiteRT, readable by others, refused when they fail their check."""

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.errors import ExportError, RunFolderError
from edgekit.export import quantise, tflite, verify
from edgekit.export.convert import as_inputs, to_float32
from edgekit.export.metadata import add_metadata, describe, read_metadata
from edgekit.export.runtimes import FOUR_BITS
from edgekit.export.tflite import Subject, export
from edgekit.export.verify import Ran, call, run_examples
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.registry import PRESETS

NETS = [("mlp", "group"), ("dscnn", "weight-standardised"), ("dscnn", "group"), ("mobilenetv2", "none")]
SMALL = {"mobilenetv2": {"stages": [[1, 16, 1, 1], [4, 24, 2, 2], [4, 24, 1, 1]], "head": 32}}


class Decomposition(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x).S


class Unconvertible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 10)
        self.odd = Decomposition()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.odd(self.body(x[:, 0]) @ torch.ones(10, 10))
        return scores


@pytest.fixture(scope="module")
def trained(digits):
    """A dscnn that has learnt something: quantisation is only worth checking on one that has."""
    model = build(Model(norm="weight-standardised"), digits.shape, 10, 0, digits.calibration.x)
    x = np.concatenate([digits.client(i).x for i in range(digits.clients)])
    y = np.concatenate([digits.client(i).y for i in range(digits.clients)])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(torch.from_numpy(x)[batch]), torch.from_numpy(y)[batch]).backward()
            optimiser.step()
    return model


@pytest.mark.parametrize(("name", "norm"), NETS)
def test_the_float32_file_gives_torchs_scores(name, norm, digits):
    model = build(Model(name=name, norm=norm, arguments=SMALL.get(name, {})), digits.shape, 10, 0)
    scores = run_examples(to_float32(model, digits.shape), tflite.as_device(digits.test.x[:20])).scores
    assert np.allclose(scores, model(torch.from_numpy(digits.test.x[:20])).detach().numpy(), atol=2e-6)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in FOUR_BITS])
def test_every_preset_keeps_the_accuracy_in_both_runtimes(preset, trained, digits, tmp_path, old_runtime):
    claimed = ["ai-edge-litert", old_runtime]
    done = export(Subject.of(trained, digits), [preset], tmp_path, {"name": "test"}, 0.01, claimed)[preset]
    network = float((trained(torch.from_numpy(digits.test.x)).argmax(1).numpy() == digits.test.y).mean())
    assert network > 0.9
    assert list(done.runtimes) == ["ai-edge-litert 2.3.0", "tflite-runtime 2.14.0"]
    assert min(done.runtimes.values()) >= network - 0.005
    assert done.path == tmp_path / f"{preset}.tflite"
    assert done.bytes == done.path.stat().st_size
    assert all(0 < taken.min <= taken.median <= taken.max for taken in done.latency_us.values())
    assert done.max_relative_error < (1e-5 if preset == "float32" else 0.1)  # scores do not saturate
    interpreter = Interpreter(model_path=str(done.path))
    assert interpreter.get_signature_list() == {"classify": {"inputs": ["image"], "outputs": ["scores"]}}
    (source,) = interpreter.get_input_details()
    assert source["shape"].tolist() == [1, 8, 8, 1]
    assert source["dtype"] == (np.int8 if preset == "int8-full" else np.float32)


def test_quantised_weights_are_stored_in_their_format(trained, digits, tmp_path):
    done = export(Subject.of(trained, digits), ["float16", "int8-dynamic", "int8-full"], tmp_path, {}, 0.01)
    constants = {preset: describe(file.path.read_bytes())["constant_bytes"] for preset, file in done.items()}
    weights = sum(p.numel() for name, p in trained.named_parameters() if name.endswith("weight"))
    assert constants["float16"]["FLOAT16"] >= 2 * weights
    assert constants["int8-dynamic"]["INT8"] >= weights
    assert "FLOAT32" not in constants["int8-full"]


def test_dynamic_quantisation_with_a_scale_a_channel_is_garbage_in_the_old_runtime(
    trained, digits, old_runtime, monkeypatch, tmp_path
):
    """Why fully connected layers have one scale in int8-dynamic; and the check finds it although nothing crashes."""
    by_channel = quantise.NumberFormat(lambda made: made.add_dynamic_config(".*", "*", 8))
    monkeypatch.setattr(quantise, "INT8_DYNAMIC", by_channel)
    with pytest.raises(ExportError, match=r"accuracy 0\.\d+ in tflite-runtime, the network 0\.9"):
        export(Subject.of(trained, digits), ["int8-dynamic"], tmp_path, {}, 0.01, ["ai-edge-litert", old_runtime])
    assert list(tmp_path.iterdir()) == []


def test_group_norms_faster_form_is_torchs_also_on_constant_maps(digits):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    with torch.no_grad():
        model[0].bias.add_(100.0)
    constant = np.stack([np.full((1, 8, 8), value, np.float32) for value in np.linspace(0, 50, 40)])
    content = to_float32(model, (1, 8, 8))
    for x in (constant, digits.test.x[:20]):
        scores = run_examples(content, tflite.as_device(x)).scores
        assert np.isfinite(scores).all()
    model[0].bias.data.zero_()
    scores = run_examples(to_float32(model, (1, 8, 8)), tflite.as_device(digits.test.x[:20])).scores
    assert np.allclose(scores, model(torch.from_numpy(digits.test.x[:20])).detach().numpy(), atol=2e-6)


def test_the_metadata_is_there_for_any_reader_of_flatbuffers(trained, digits, tmp_path):
    path = export(Subject.of(trained, digits), ["float32"], tmp_path, {"name": "test"}, 0.01)["float32"].path
    ours = read_metadata(path.read_bytes())
    assert ours["output"]["labels"] == [str(digit) for digit in range(10)]
    assert ours["input"]["normalisation"] == {"mean": 0.0, "std": 16.0}
    assert (ours["input"]["layout"], ours["signature"], ours["name"]) == ("NHWC", "classify", "test")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (entry,) = [entry for entry in model.metadata if entry.name == b"edgekit.json"]
    assert b'"preset": "float32"' in bytes(model.buffers[entry.buffer].data)
    again = add_metadata(path.read_bytes(), {"other": 1})
    assert read_metadata(again) == {"other": 1}
    assert len([e for e in schema.ModelT.InitFromPackedBuf(again, 0).metadata if e.name == b"edgekit.json"]) == 1


def test_packing_a_file_tightly_changes_no_score(trained, digits):
    """Also where the quantiser puts weights behind the flatbuffer, which it does from some size on."""
    x = tflite.as_device(digits.test.x[:20])
    wide = build(Model(norm="weight-standardised", width=8.0), digits.shape, 10, 0, digits.calibration.x)
    for model in (trained, wide):
        plain = quantise.quantise(to_float32(model, digits.shape), "int8", as_inputs(digits.shape, x))
        packed = add_metadata(plain, {"name": "test"})
        assert len(packed) < 0.95 * len(plain)
        assert np.array_equal(run_examples(packed, x).scores, run_examples(plain, x).scores)
    assert any(buffer.offset > 1 for buffer in schema.ModelT.InitFromPackedBuf(plain, 0).buffers)


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(ExportError, match="not a .tflite file"):
        read_metadata(b"PK\x03\x04 something else")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(trained, digits, kept):
    content = to_float32(trained, digits.shape)
    content = content[: int(kept * len(content))]
    with pytest.raises(ExportError, match="truncated or corrupt"):
        describe(content)
    with pytest.raises(ExportError, match="cannot run the file|was killed by signal"):
        verify.probe(content, "ai-edge-litert")


def test_an_operator_that_cannot_be_converted_is_named_with_its_layer():
    with pytest.raises(ExportError, match="layer 'odd' uses aten._linalg_svd.default"):
        to_float32(Unconvertible(), (1, 8, 8))


def test_a_network_above_the_formats_size_is_refused_before_any_work(monkeypatch):
    big = nn.Linear(1, 1)
    big.weight = nn.Parameter(torch.empty(1).expand(2**29))
    with pytest.raises(ExportError, match=r"2.0 GiB of weights, a .tflite holds less than 2 GiB"):
        to_float32(big, (1,))


def test_calibration_examples_of_one_class_are_refused(trained, digits):
    with pytest.raises(ExportError, match="all 3 calibration examples are of one class, number 7"):
        tflite.check_calibration(np.array([7, 7, 7]))
    with pytest.raises(ExportError, match="int8 needs examples to calibrate on"):
        quantise.quantise(b"", "int8", {})


def test_a_float32_file_that_differs_from_torch_is_an_error_and_is_not_written(trained, digits, tmp_path, monkeypatch):
    def wrong(content, x, name="ai-edge-litert"):
        ran = run_examples(content, x, name)
        return Ran(ran.scores * 1.1, ran.latency)

    monkeypatch.setattr(tflite, "run_examples", wrong)
    with pytest.raises(ExportError, match="differs from torch by"):
        export(Subject.of(trained, digits), ["float32"], tmp_path, {}, 0.01)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_file_that_lost_its_accuracy_is_an_error_and_is_not_written(trained, digits, tmp_path):
    # Ranges calibrated on blank images are far too narrow for real ones.
    subject = Subject.of(trained, digits)
    blank = Subject(**{**subject.__dict__, "calibration": np.zeros_like(subject.calibration)})
    with pytest.raises(ExportError, match=r"int8.tflite has accuracy 0\.\d+ in ai-edge-litert, the network"):
        export(blank, ["int8"], tmp_path, {}, 0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_runtime_refuses_is_an_error():
    with pytest.raises(ExportError, match="ai-edge-litert"):
        run_examples(b"\0\0\0\0TFL3 and then nothing", np.zeros((1, 4), np.float32))


def test_a_runtime_that_hangs_is_stopped(trained, digits, monkeypatch):
    monkeypatch.setattr(verify, "TIME_LIMIT_SECONDS", 0.05)
    with pytest.raises(ExportError, match="ai-edge-litert did not finish within"):
        run_examples(to_float32(trained, digits.shape), tflite.as_device(digits.test.x))


def test_a_runtime_that_aborts_does_not_take_us_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "WORKER", tmp_path / "worker.py")
    (tmp_path / "worker.py").write_text("import os; os.abort()")
    with pytest.raises(ExportError, match="was killed by signal 6"):
        call(b"", [])


def test_a_missing_runtime_is_an_error_with_the_command_that_installs_it(tmp_path, monkeypatch, trained, digits):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "nothing here"))
    with pytest.raises(ExportError, match="edgekit doctor --install tflite-runtime"):
        export(Subject.of(trained, digits), ["float32"], tmp_path, {}, 0.01, ["tflite-runtime"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(trained, digits, tmp_path):
    (tmp_path / "export").write_text("a file in the way")
    with pytest.raises(RunFolderError, match="cannot write"):
        export(Subject.of(trained, digits), ["float32"], tmp_path / "export", {}, 0.01)
