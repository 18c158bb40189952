"""Intel's Lava, really run: random networks and our own; and what happens when it hangs, dies or is not there."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit import environments
from edgekit.environments import Environment
from edgekit.errors import EdgekitError, LavaError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.neuromorphic import convert, quantise
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.lava import LAVA, Lava
from edgekit.neuromorphic.lava.session import SCRIPTS
from edgekit.neuromorphic.lava.verify import Case, compare, draw
from edgekit.neuromorphic.settings import Spiking

pytestmark = pytest.mark.xdist_group("lava")  # one at a time: they look at what others leave in /dev/shm

FIRST_SEED, SOME, ALL = 5000, 5012, 5040


@pytest.fixture(scope="session")
def installed():
    try:
        LAVA.install()
    except EdgekitError as error:
        pytest.skip(f"Lava cannot be had here: {error}")


@pytest.fixture(scope="module")
def lava(installed):
    with Lava(timeout=120) as session:
        yield session


def _there():
    """Shared memory, and processes of Lava's, as they are now."""
    found = subprocess.run(["pgrep", "-f", "edgekit-lava-"], capture_output=True, text=True, check=False)
    return {*os.listdir("/dev/shm"), *found.stdout.split()}


def _left_behind(before):
    """What is there now and was not before."""
    deadline = time.monotonic() + 10
    while (left := _there() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.parametrize(
    "seeds", [range(FIRST_SEED, SOME), pytest.param(range(SOME, ALL), marks=pytest.mark.long)], ids=["some", "others"]
)
def test_random_networks_are_equal_in_every_spike_current_and_voltage(seeds, lava):
    values = spikes = 0
    for seed in seeds:
        found = compare(lava, draw(seed))
        assert found.different == (), f"random network {seed}"
        values, spikes = values + found.values, spikes + found.spikes
    assert values > 10_000
    assert spikes > 500


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Model(arguments={"channels": [8, 12, 16]}), Spiking(steps=4)),
        (Model(name="mlp", activation="qcfs"), Spiking(steps=6, reset="hard", coding="rate")),
        pytest.param(
            Model(
                name="mobilenetv2",
                norm="weight-standardised",
                arguments={"stages": [[1, 16, 1, 1], [4, 24, 2, 2], [4, 24, 1, 1]], "head": 32},
            ),
            Spiking(steps=3),
            marks=pytest.mark.long,
        ),
        (Model(name="mlp"), Spiking(steps=8, coding="latency")),
        (Model(name="mlp"), Spiking(steps=8, current_decay=0.5, voltage_decay=0.1)),
    ],
)
def test_converted_networks_are_equal_too(model, settings, lava, digits):
    network = build(model, digits.shape, 10, 0, digits.calibration.x)
    converted = convert(network, digits.calibration, digits.classes, settings).network
    integers = quantise(converted, settings.steps, digits.calibration.x[:32])
    codes = integers.encode(digits.test.x[:2])
    constant = codes.ndim == 1 + len(integers.input_shape)
    frames = np.repeat(codes[:, None], integers.steps, 1) if constant else codes
    found = compare(lava, Case(integers, frames))
    assert found.different == ()
    assert found.spikes > 50
    assert np.array_equal(lava.run(integers, codes).scores, Emulator(integers).run(codes).scores)


def test_lavas_own_refractory_neurons_agree_where_they_are_exact(lava):
    compared = 0
    for seed in range(6000, 6400):
        case = draw(seed)
        if case.float_refractory and any(layer.neurons.refractory for layer in case.network.layers):
            assert compare(lava, case).different == ()
            compared += 1
        if compared == 4:
            break
    assert compared == 4


def test_delays_and_resets_do_not_mix(lava):
    case = next(
        case
        for case in map(draw, range(7000, 7100))
        if any(np.any(np.asarray(s.delay) > 0) for layer in case.network.layers for s in layer.synapses)
    )
    with pytest.raises(LavaError, match="still on their way"):
        lava.run(case.network, case.codes)


def _hanging(tmp_path, monkeypatch, body):
    """A Lava whose job does something else: the worker, with its `work` replaced."""
    worker = Path(__file__).parents[2] / "neuromorphic/lava/worker.py"
    text = worker.read_text().replace(
        'if __name__ == "__main__":',
        "def work(job):\n" + textwrap.indent(textwrap.dedent(body), "    ") + '\n\nif __name__ == "__main__":',
    )
    package = tmp_path / "package"
    package.mkdir()
    for script in SCRIPTS[1:]:
        shutil.copy(worker.with_name(script), package)
    (package / "worker.py").write_text(text)
    monkeypatch.setattr("edgekit.neuromorphic.lava.session.files", lambda _: package)


REAL_RUN_WITH = """
    import threading
    description, arrays = load(job["network"])
    codes = np.load(job["codes"]).repeat(200, 0)
    threading.Thread(target=meddle, daemon=True).start()
    run(description, arrays, codes, os.path.dirname(job["out"]), True, False)
"""
KILL_ACTOR = """
    def meddle():
        time.sleep(1.5)
        children = [pid for pid, _, tracker in session_processes(os.getpid()) if pid != os.getpid() and not tracker]
        os.kill(children[-1], signal.SIGKILL)
"""


def test_a_lava_that_hangs_is_ended_and_leaves_nothing(installed, tmp_path, monkeypatch):
    before = _there()
    _hanging(
        tmp_path,
        monkeypatch,
        """
        from multiprocessing.shared_memory import SharedMemory
        held = SharedMemory(create=True, size=4096)
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        time.sleep(600)
        """,
    )
    case = draw(0)
    with Lava(timeout=2) as lava:
        started = time.monotonic()
        with pytest.raises(LavaError, match="no answer within 2 s"):
            lava.run(case.network, case.codes[:1], pipelined=True)
        assert time.monotonic() - started < 15
        with pytest.raises(LavaError, match="no answer within 2 s"):  # and the next job is taken on
            lava.run(case.network, case.codes[:1], pipelined=True)
    assert _left_behind(before) == set()


def test_a_lava_process_that_dies_is_noticed_and_leaves_nothing(installed, tmp_path, monkeypatch):
    before = _there()
    _hanging(tmp_path, monkeypatch, textwrap.dedent(KILL_ACTOR) + textwrap.dedent(REAL_RUN_WITH))
    case = draw(1)
    with Lava(timeout=100) as lava:
        started = time.monotonic()
        with pytest.raises(LavaError, match="died|ended with code"):
            lava.run(case.network, case.codes[:1])
        assert time.monotonic() - started < 60
    assert _left_behind(before) == set()


def test_an_error_inside_lava_is_told_in_one_line(installed, tmp_path, monkeypatch):
    _hanging(tmp_path, monkeypatch, "raise ValueError('weights are odd')")
    case = draw(0)
    with Lava(timeout=30) as lava, pytest.raises(LavaError, match="ValueError: weights are odd") as refusal:
        lava.run(case.network, case.codes[:1], pipelined=True)
    assert "\n" not in str(refusal.value)


def test_when_edgekit_is_killed_its_lava_goes_too(installed, tmp_path):
    before = _there()
    code = textwrap.dedent(
        """
        import numpy as np
        from edgekit.neuromorphic.lava import Lava
        from edgekit.neuromorphic.lava.verify import draw
        case = draw(1)
        lava = Lava(timeout=300)
        print("started", flush=True)
        lava.run(case.network, np.repeat(case.codes, 3000, 0))
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    time.sleep(4)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _left_behind(before) == set()


def test_without_lava_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    with pytest.raises(LavaError, match="edgekit spike setup-lava"):
        Lava()


def test_without_the_right_python_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    with pytest.raises(EdgekitError, match=r"needs Python 3\.97.*python3\.97 is on the PATH"):
        Environment("future", "3.97", ()).install()
    assert not (environments.home() / "environments/future").exists()


def test_a_broken_lava_is_told_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    LAVA.executable.parent.mkdir(parents=True)
    LAVA.executable.symlink_to(sys.executable)  # a Python without Lava
    (LAVA.executable.parent.parent / "installed").touch()
    with pytest.raises(LavaError, match="No module named '(lava|numpy)'.*setup-lava --again"):
        Lava()


def test_the_worker_alone_runs_a_network(lava, tmp_path):
    from edgekit.neuromorphic.loihi import save

    case = draw(1)
    save(case.network, tmp_path / "network.npz")
    np.save(tmp_path / "codes.npy", case.codes)
    worker = Path(__file__).parents[2] / "neuromorphic/lava/worker.py"
    command = [str(LAVA.executable), str(worker), "network.npz", "codes.npy", "out.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as file:
        assert np.array_equal(file["v"], Emulator(case.network).run(case.codes).scores)
    refused = subprocess.run([*command, "--hardware"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert (
        refused.stderr.strip()
        == "no Loihi 2 here: Intel's extension of Lava for the chip (lava-loihi) is not installed"
    )
