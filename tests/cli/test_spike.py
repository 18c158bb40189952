"""`edgekit spike` as people use it: good, empty and broken inputs; Lava really run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.environments import home
from edgekit.errors import EdgekitError
from edgekit.neuromorphic.lava import LAVA

pytestmark = pytest.mark.xdist_group("lava")
NETS = """
import torch
from torch import nn
class Net(nn.Sequential):
    def __init__(self, hidden=24):
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
class Pooled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10))
"""


@pytest.fixture
def copied(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture(scope="module")
def lava():
    try:
        LAVA.install()
    except EdgekitError as error:
        pytest.skip(f"Lava cannot be had here: {error}")


def _data(path, digits, count=80):
    np.savez(path, x=digits.test.x[:count], y=digits.test.y[:count])


@pytest.fixture(scope="module")
def full_folder(trained_run, tmp_path_factory, digits):
    """A folder with a run, modules, and data and networks of which most are broken."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "nets.py").write_text(NETS)
    (folder / "broken.nir").write_bytes(b"no hdf5 at all")
    _data(folder / "data.npz", digits)
    _data(folder / "few.npz", digits, 5)
    x, y = digits.test.x[:40], digits.test.y[:40]
    np.savez(folder / "odd.npz", x=np.where(x == x.max(), np.nan, x), y=y)
    np.savez(folder / "labels.npz", x=x, y=y - 3)
    np.savez(folder / "many.npz", x=x, y=y + 3)
    shutil.copytree(trained_run, folder / "RUN")
    return folder


@pytest.fixture
def unchanging(full_folder):
    """That folder; nothing in it may have changed afterwards, and nothing may have come."""

    def content():
        files = (file for file in full_folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
        return {file: file.read_bytes() for file in files}

    before = content()
    yield full_folder
    assert content() == before


def test_the_spiking_form_is_made_again_and_the_run_brought_up_to_date(edgekit, copied):
    before = json.loads((copied / "result.json").read_text())
    done = edgekit("spike", "run", copied, "--steps", 5, "reset=hard", "--json", cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["steps"] == 5
    assert set(facts["by_steps"]) == {"1", "2", "4", "5", "8", "16", "32"}
    assert set(facts["resources"]) == {"loihi-1", "loihi-2"}
    after = json.loads((copied / "result.json").read_text())
    assert after["spiking"] == facts
    assert {k: v for k, v in after.items() if k != "spiking"} == {k: v for k, v in before.items() if k != "spiking"}
    report = (copied / "report.html").read_text()
    assert "Loihi integers, 5 steps" in report
    assert report.count("<h2>Spiking</h2>") == 1
    shown = edgekit("inspect", copied / "spiking/network.nir", cwd=copied.parent)
    assert "reset: hard" in shown.stdout
    shown = edgekit("inspect", copied / "spiking/loihi.npz", cwd=copied.parent)
    assert "steps: 5" in shown.stdout


def test_people_get_a_table(edgekit, copied):
    done = edgekit("spike", "run", copied, cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    assert re.search(r"steps +float +loihi +energy uJ", done.stdout)
    assert "Loihi 1: " in done.stdout
    assert "estimate without static power" in done.stdout


def test_lava_and_snntorch_run_the_same_network(edgekit, copied, lava):
    done = edgekit("spike", "run", copied, "--backend", "lava", "--examples", 3, "--json", cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["equal_to_emulator"] is True
    assert facts["examples"] == 3
    assert facts["ms_per_example"] > 0
    done = edgekit("spike", "run", copied, "--backend", "snntorch", "--examples", 30, "--json", cwd=copied.parent)
    facts = json.loads(done.stdout)
    assert facts["largest_difference"] < 1e-3
    assert facts["accuracy"] > 0.3


def test_verify_says_how_much_was_equal(edgekit, copied, lava):
    done = edgekit("spike", "verify", copied, "--examples", 2, "--random", 3, "--seed", 50, cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    assert re.search(r"2 samples: ([\d,]+) of \1 values equal", done.stdout)
    assert "3 of 3 random networks" in done.stdout
    facts = json.loads(edgekit("spike", "verify", "--random", 1, "--json", cwd=copied.parent).stdout)
    assert facts["random"]["networks"] == 1
    assert facts["random"]["values"] > 0


def test_setup_lava_says_that_it_works(edgekit, copied, lava):
    done = edgekit("spike", "setup-lava", cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    assert "Lava works" in done.stdout


def test_plots_are_files_that_a_browser_shows(edgekit, fails, copied):
    done = edgekit("spike", "plot", copied, "--example", 7, "--out", "plots", "--json", cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    names = {Path(file).stem for file in files}
    assert names == {"sample", "raster", "membranes", "voltages", "rates", "steps", "early"}
    for file in files:
        text = (copied.parent / file).read_text()
        assert text.startswith("<svg xmlns=")
        assert "prefers-color-scheme: dark" in text
        assert "--ink:" in text
    fails(
        edgekit("spike", "plot", copied, "--example", 99999, cwd=copied.parent), 2, "test set has 359, numbered from 0"
    )


def test_other_tools_forms_are_written(edgekit, fails, copied):
    fails(edgekit("spike", "export", copied, cwd=copied.parent), 1, "netx has no soft reset.*reset=hard")
    assert not (copied / "spiking/netx.net").exists()
    assert edgekit("spike", "run", copied, "reset=hard", cwd=copied.parent).returncode == 0
    done = edgekit("spike", "export", copied, "--json", cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] > 0.3
    done = edgekit("spike", "export", copied, "--to", "lava", "--json", cwd=copied.parent)
    assert json.loads(done.stdout)["run_on_a_chip"] is False
    assert {file.name for file in (copied / "spiking/lava").iterdir()} == {
        "network.npz",
        "codes.npy",
        "labels.npy",
        "run_in_lava.py",
        "lava_models.py",
        "lava_network.py",
    }
    assert "NOT RUN ON A\nCHIP" in (copied / "spiking/lava/run_in_lava.py").read_text()


def test_a_module_and_a_nir_file_need_only_examples(edgekit, tmp_path, digits):
    (tmp_path / "nets.py").write_text(NETS)
    _data(tmp_path / "data.npz", digits)
    arguments = ["--model", "nets:Net", "--arguments", '{"hidden": 12}', "--data", "data.npz", "--out", "made"]
    done = edgekit("spike", "run", "--steps", 4, *arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["neurons"] == 22
    assert facts["macs"] == 64 * 12 + 12 * 10
    assert {file.name for file in (tmp_path / "made").iterdir()} == {"loihi.npz", "network.nir"}
    again = edgekit("spike", "run", "made/network.nir", "--steps", 4, "--data", "data.npz", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["accuracy_float"] == facts["accuracy_float"]
    assert (tmp_path / "spiking/loihi.npz").exists()


def test_a_nir_file_of_others_with_frames_of_spikes(edgekit, tmp_path):
    import nir

    rng = np.random.default_rng(0)
    nodes = {
        "input": nir.Input({"input": np.array([6])}),
        "fc": nir.Affine(rng.normal(size=(5, 6)).astype(np.float32), np.zeros(5, np.float32)),
        "lif": nir.LIF(*(np.full(5, v, np.float32) for v in (1e-3, 10.0, 0.0, 1.0, 0.0))),
        "output": nir.Output({"output": np.array([5])}),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, [(names[i], names[i + 1]) for i in range(3)], type_check=False)
    nir.write(tmp_path / "theirs.nir", graph)
    x = (rng.random((40, 10, 6)) < 0.3).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=rng.integers(0, 5, 40))
    done = edgekit("spike", "run", "theirs.nir", "--data", "data.npz", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["coding"], facts["steps"]) == ("frames", 10)
    assert facts["neurons"] == 10  # five of theirs, and five that count their spikes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run"], 2, "give a run's folder or a .nir file"),
        (["run", "nothing"], 2, "nothing is not a run folder"),
        (["run", "RUN", "--backend", "loihi"], 2, "--backend loihi: there are emulator, lava and snntorch"),
        (["run", "RUN", "stepz=3"], 2, "unknown key 'spiking.stepz'; did you mean 'steps'"),
        (["run", "RUN", "reset"], 2, "'reset' is not of the form key=value"),
        (["run", "RUN", "--data", "x.npz"], 2, "--data belongs to --model"),
        (["run", "broken.nir"], 2, "give examples by --data"),
        (["run", "broken.nir", "--data", "data.npz"], 1, "not a readable .nir file"),
        (["run", "broken.nir", "--data", "data.npz", "--backend", "lava"], 2, "is for runs"),
        (["run", "--model", "nets:Net"], 2, "give examples by --data"),
        (["run", "--model", "nets:Net", "--data", "missing.npz"], 2, "--data missing.npz does not exist"),
        (["run", "--model", "nets:Net", "--data", "nets.py"], 2, "nets.py: give .npz"),
        (["run", "--model", "nets:Net", "--data", "few.npz"], 2, "has 5 examples; give at least 8"),
        (["run", "--model", "nets:Pooled", "--data", "data.npz"], 1, r"'2' \(MaxPool2d\).*use average pooling"),
        (["run", "--model", "nets:Nothing", "--data", "data.npz"], 2, "has no 'Nothing'"),
        (["run", "--model", "nets:Net", "--data", "odd.npz"], 2, "x must be finite numbers"),
        (["run", "--model", "nets:Net", "--data", "labels.npz"], 2, "class numbers from 0, the smallest is -3"),
        (["run", "--model", "nets:Net", "--data", "many.npz"], 2, "has the class 12; nets:Net gives 10 scores"),
        (["verify", "--random", "0"], 2, "nothing to compare"),
        (["plot", "nothing"], 2, "nothing is not a run folder"),
        (["export", "RUN", "--to", "nengo"], 2, "--to nengo: there are netx and lava"),
        (["run", "RUN", "voltage_decay=1.5"], 2, "spiking.voltage_decay"),
    ],
)
def test_bad_input_gets_one_line(arguments, code, message, edgekit, fails, unchanging):
    fails(edgekit("spike", *arguments, cwd=unchanging), code, message)


def test_a_broken_or_missing_network_is_refused_with_the_remedy(edgekit, fails, copied):
    stored = copied / "spiking/loihi.npz"
    stored.write_bytes(stored.read_bytes()[:100])
    for command in (["plot"], ["export"], ["run", "--backend", "snntorch"]):
        fails(edgekit("spike", *command, copied, cwd=copied.parent), 1, "not a Loihi network.*edgekit spike run")
    stored.unlink()
    fails(edgekit("spike", "export", copied, cwd=copied.parent), 1, "holds no spiking network yet.*edgekit spike run")


def test_neurons_that_nir_cannot_carry_cost_the_run_nothing_else(edgekit, fails, copied):
    done = edgekit("spike", "run", copied, "current_decay=0.5", "--json", cwd=copied.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nir"] is False
    assert not (copied / "spiking/network.nir").exists()
    fails(
        edgekit("spike", "run", copied, "--backend", "snntorch", cwd=copied.parent), 1, "NIR cannot carry its neurons"
    )


def test_without_lava_the_remedy_is_named(edgekit, fails, copied, tmp_path):
    environment = {"EDGEKIT_HOME": str(tmp_path / "empty"), "PATH": "/usr/bin:/bin", "HOME": str(home())}
    fails(
        edgekit("spike", "verify", "--random", "1", cwd=copied.parent, env=environment),
        1,
        "Lava is not installed.*edgekit spike setup-lava",
    )
