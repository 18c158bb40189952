"""Starting weights as people have them: what is taken, what is said, what is refused and why."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.experiment import load as load_experiment
from edgekit.models.weights_file import take
from edgekit.pipeline import job


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.c, self.bn, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, classes)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.c(x))).flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def _held():
    torch.manual_seed(7)
    net = Net()
    net.bn.running_mean += 3
    return net.state_dict()


def _floats(state, kind):
    return {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


FORMS = {
    "a state_dict": lambda s: s,
    "a checkpoint": lambda s: {"model_state_dict": s, "epoch": 3, "loss": 0.1},
    "of Lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
    "under model": lambda s: {"model": s},
    "of DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "of torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "of both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "of old torch": lambda s: {k: v for k, v in s.items() if "tracked" not in k},
    "channels last": lambda s: {**s, "c.weight": s["c.weight"].contiguous(memory_format=torch.channels_last)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_is_taken(tmp_path, form):
    held, path = _held(), tmp_path / "w.pt"
    torch.save(FORMS[form](held), path)
    net = Net()
    assert take(net, path) == []
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in held.items() if "tracked" not in name)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_other_precisions_are_converted_and_said(tmp_path, kind, suffix):
    held, path = _held(), tmp_path / f"w.{suffix}"
    save = torch.save if suffix == "pt" else safetensors.torch.save_file
    save(_floats(held, kind), path)
    net = Net()
    (line,) = take(net, path)
    assert f"converted from {str(kind).removeprefix('torch.')}" in line
    assert torch.allclose(net.c.weight, held["c.weight"], atol=1e-2)
    assert net.c.weight.dtype == torch.float32


def test_tied_weights_as_safetensors_saves_them(tmp_path):
    torch.manual_seed(3)
    net, again, path = Tied(), Tied(), tmp_path / "t.safetensors"
    safetensors.torch.save_model(net, str(path))
    take(again, path)
    assert torch.equal(again.b.weight, net.a.weight)
    assert again.b.weight is again.a.weight
    torch.save(net.state_dict(), tmp_path / "t.pt")
    take(Tied(), tmp_path / "t.pt")
    torch.save({**net.state_dict(), "b.weight": torch.zeros(8, 8)}, tmp_path / "t.pt")
    with pytest.raises(ModelError, match="is shared with 'a.weight', but holds other values|shared with"):
        take(Tied(), tmp_path / "t.pt")


class Pickled:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda: Net(), "whole pickled objects, which are code that would run"),
        (lambda: {"state_dict": _held(), "hook": Pickled()}, "whole pickled objects"),
        (lambda: {"epoch": 3}, "holds no state_dict"),
        (lambda: [1, 2], "holds no state_dict"),
        (lambda: {k: v for k, v in _held().items() if k != "c.bias"}, "it lacks 'c.bias'"),
        (lambda: dict(Net().named_parameters()), "it lacks 'bn.running_mean', 'bn.running_var'"),
        (lambda: {**_held(), "extra": torch.zeros(1)}, "it has 'extra' besides"),
        (lambda: Net(5).state_dict(), r"'head.weight' has shape .5, 144., the network's is .10, 144.*model.new"),
        (lambda: {**_held(), "c.bias": torch.full((4,), torch.nan)}, "not finite"),
        (lambda: {**_held(), "c.bias": torch.full((4,), 1e300, dtype=torch.float64)}, "too large for"),
        (lambda: {**_held(), "c.bias": torch.zeros(4, dtype=torch.complex64)}, "no plain numbers"),
        (lambda: {**_held(), "c.bias": torch.zeros(4, dtype=torch.int64)}, "'c.bias' is torch.int64"),
        (lambda: {**_held(), "c.bias": torch.zeros(4).to_sparse()}, "no plain numbers"),
        (lambda: {**_held(), "c.bias": torch.zeros(4, device="meta")}, "no plain numbers|cannot be read"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_run(tmp_path, content, problem, capsys):
    path, net = tmp_path / "w.pt", Net()
    torch.save(content(), path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ModelError, match=problem):
        take(net, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files_are_one_line(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="give .safetensors, or torch.save of a state_dict") as told:
        take(Net(), path)
    assert "\n" not in str(told.value)


def test_a_torchscript_program_is_called_so(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "s.pt"))
    with pytest.raises(ModelError, match="is a TorchScript program, not weights"):
        take(Net(), tmp_path / "s.pt")


def test_the_classifier_may_be_new(tmp_path):
    torch.save(Net(5).state_dict(), tmp_path / "w.pt")
    net = Net()
    before = net.head.weight.clone()
    (line,) = take(net, tmp_path / "w.pt", ["head"])
    assert "new in the network" in line
    assert torch.equal(net.head.weight, before)
    with pytest.raises(ModelError, match="model.new names 'tail', which is no layer"):
        take(net, tmp_path / "w.pt", ["tail"])


def test_a_run_begins_with_a_file_and_resumes_without_it(tmp_path, monkeypatch, heard):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Body(nn.Sequential):\n"
        "    def __init__(self, classes=10):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))\n"
        "        self[1].requires_grad_(False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import own

    torch.manual_seed(5)
    begun = own.Body(3).state_dict()
    torch.save({"state_dict": _floats(begun, torch.float64)}, tmp_path / "w.pt")
    quick = ["data.clients=3", "federation.rounds=1", "export.presets=[]", "spiking.enabled=false", "training.epochs=1"]
    chosen = ["model.name=own:Body", f"model.weights={tmp_path / 'w.pt'}", 'model.new=["3"]']
    job.run(load_experiment(None, [*quick, *chosen]), tmp_path / "run", heard)
    assert any("converted from float64" in line for line in heard.notices)
    from safetensors.numpy import load_file

    assert np.array_equal(load_file(tmp_path / "run/model.safetensors")["1.weight"], begun["1.weight"].numpy())
    (tmp_path / "w.pt").unlink()
    (tmp_path / "run/result.json").unlink()
    job.resume(tmp_path / "run", heard)
    assert np.array_equal(load_file(tmp_path / "run/model.safetensors")["1.weight"], begun["1.weight"].numpy())
    with pytest.raises(ModelError, match=r"w.pt does not exist"):
        job.run(load_experiment(None, [*quick, *chosen]), tmp_path / "other", heard)
    assert not (tmp_path / "other").exists()
