"""Files for devices: equal to torch in LiteRT, readable by others, refused when they fail their check."""

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.errors import ExportError, RunFolderError
from edgekit.experiment import Model
from edgekit.export import export, read_metadata, tflite
from edgekit.export.convert import to_float32
from edgekit.export.verify import run_in_litert
from edgekit.models import build

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
    scores = run_in_litert(to_float32(model, digits.shape), tflite.as_device(digits.test.x[:20]))
    assert np.allclose(scores, model(torch.from_numpy(digits.test.x[:20])).detach().numpy(), atol=2e-6)


def test_both_presets_pass_their_check_and_int8_is_within_half_a_point(trained, digits, tmp_path):
    done = export(trained, digits, ["float32", "int8"], tmp_path, {"name": "test"}, 0.01)
    assert done["float32"].accuracy > 0.9
    assert done["int8"].accuracy >= done["float32"].accuracy - 0.005
    assert done["float32"].max_abs_error < 1e-4
    assert done["int8"].bytes < done["float32"].bytes
    for preset, file in done.items():
        assert file.path == tmp_path / f"{preset}.tflite"
        assert file.bytes == file.path.stat().st_size
        interpreter = Interpreter(model_path=str(file.path))
        assert interpreter.get_signature_list() == {"classify": {"inputs": ["image"], "outputs": ["scores"]}}
        assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 8, 8, 1]


def test_the_metadata_is_there_for_any_reader_of_flatbuffers(trained, digits, tmp_path):
    path = export(trained, digits, ["float32"], tmp_path, {"name": "test"}, 0.01)["float32"].path
    ours = read_metadata(path.read_bytes())
    assert ours["output"]["labels"] == [str(digit) for digit in range(10)]
    assert ours["input"]["normalisation"] == {"mean": 0.0, "std": 16.0}
    assert (ours["input"]["layout"], ours["signature"], ours["name"]) == ("NHWC", "classify", "test")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (entry,) = [entry for entry in model.metadata if entry.name == b"edgekit.json"]
    assert b'"preset": "float32"' in bytes(model.buffers[entry.buffer].data)


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(ExportError, match="not a .tflite file"):
        read_metadata(b"PK\x03\x04 something else")


def test_an_operator_that_cannot_be_converted_is_named_with_its_layer():
    with pytest.raises(ExportError, match="layer 'odd' uses aten._linalg_svd.default"):
        to_float32(Unconvertible(), (1, 8, 8))


def test_a_float32_file_that_differs_from_torch_is_an_error_and_is_not_written(trained, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "run_in_litert", lambda content, x: run_in_litert(content, x) * 1.1)
    with pytest.raises(ExportError, match="differs from torch by"):
        export(trained, digits, ["float32"], tmp_path, {}, 0.01)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_file_that_lost_its_accuracy_is_an_error_and_is_not_written(trained, digits, tmp_path, monkeypatch):
    # Ranges calibrated on blank images are far too narrow for real ones.
    monkeypatch.setattr(tflite, "as_device", lambda x: np.moveaxis(x, 1, -1) * (len(x) == len(digits.test)))
    with pytest.raises(ExportError, match=r"int8.tflite has accuracy 0\.\d+ in LiteRT, the network"):
        export(trained, digits, ["int8"], tmp_path, {}, 0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_runtime_refuses_is_an_error():
    with pytest.raises(ExportError, match="LiteRT"):
        run_in_litert(b"\0\0\0\0TFL3 and then nothing", np.zeros((1, 4), np.float32))


def test_a_folder_that_cannot_be_written_is_an_error(trained, digits, tmp_path):
    (tmp_path / "export").write_text("a file in the way")
    with pytest.raises(RunFolderError, match="cannot write"):
        export(trained, digits, ["float32"], tmp_path / "export", {}, 0.01)
