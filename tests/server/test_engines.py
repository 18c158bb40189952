"""Where simulated clients train, and that a run's bits do not depend on it."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from edgekit.algorithms.fedavg import FedAvg
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.errors import EdgekitError, TrainingError
from edgekit.processes import children
from edgekit.server.engines import parcels
from edgekit.server.engines import processes as several
from edgekit.server.engines.shards import Common, cut, shards

MIXER = ("model.name=mixer", "data.clients=7", "federation.rounds=2")


def _bits(outcome):
    return {name: array.tobytes() for name, array in outcome.weights.items()}


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of three clients; no process that a test begins outlives it."""
    monkeypatch.setattr("edgekit.server.engines.shards.SHARD", 3)
    before = children(os.getpid(), alive=True)
    yield
    assert children(os.getpid(), alive=True) <= before


@pytest.mark.parametrize(
    "keys",
    [
        ("federation.algorithm=scaffold", "training.learning_rate=0.05", "data.client_test_fraction=0.2"),
        pytest.param(("federation.strategy=FedMedian",), marks=pytest.mark.long),
        pytest.param(("training.trainer=one-by-one", "privacy.unit=client"), marks=pytest.mark.long),
        pytest.param(("federation.algorithm=fjord", "model.name=dscnn", "model.norm=none"), marks=pytest.mark.long),
        pytest.param(("training.trainer=litert", "model.name=dscnn"), marks=pytest.mark.long),
        pytest.param(("privacy.unit=example", "privacy.noise=client"), marks=pytest.mark.long),
    ],
)
def test_several_processes_give_the_same_bits_and_lines(keys, coordinate, make_experiment, small_shards, tmp_path):
    experiment = make_experiment(*MIXER, *keys)
    alone = coordinate(experiment, "alone").run()
    made = coordinate(make_experiment(*MIXER, *keys, "training.workers=2"), "several")
    assert made.engine.trainer.endswith("; 2 processes")
    assert _bits(made.run()) == _bits(alone)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("alone", "several")]
    for one, other in zip(*lines, strict=True):
        assert one.partition('"seconds"')[0] == other.partition('"seconds"')[0]


def test_a_process_that_is_killed_costs_nothing_but_time(coordinate, make_experiment, small_shards, monkeypatch):
    alone = coordinate(make_experiment(*MIXER), "alone").run()
    said, killed = [], []
    made = coordinate(make_experiment(*MIXER, "training.workers=2"), "several", on_notice=said.append)
    give = several._Process.give

    def gives(process, *more):
        give(process, *more)
        if len(killed) < 2:
            killed.append(process)
            os.kill(process._child.pid, signal.SIGKILL)

    monkeypatch.setattr(several._Process, "give", gives)
    assert _bits(made.run()) == _bits(alone)
    assert len(killed) == 2
    assert any("was ended by SIGKILL" in line and line.endswith("its shard is done again") for line in said)


def test_a_shard_that_ends_every_process_ends_the_round_with_a_line(
    coordinate, make_experiment, small_shards, monkeypatch
):
    made = coordinate(make_experiment(*MIXER, "training.workers=2"), "several")
    give = several._Process.give

    def gives(process, number, *more):
        give(process, number, *more)
        if number == 1:
            os.kill(process._child.pid, signal.SIGKILL)

    monkeypatch.setattr(several._Process, "give", gives)
    with pytest.raises(TrainingError, match="trains clients was ended by SIGKILL"):
        made.run()


@pytest.mark.long
def test_processes_end_with_the_one_that_began_them(tmp_path):
    program = textwrap.dedent("""
        import os, time
        from pathlib import Path
        from edgekit import experiment as experiments
        from edgekit.pipeline.subjects import build_network, load_dataset
        from edgekit.processes import children
        from edgekit.runfolder import RunFolder
        from edgekit.server.loop.sync import Coordinator
        made = experiments.load(None, ["data.clients=60", "training.workers=2", "training.trainer=cohort"])
        data = load_dataset(made)
        def told(metrics):
            print(*children(os.getpid(), alive=True), flush=True)
            time.sleep(60)
        Coordinator(made, data, build_network(made, data), RunFolder.create(Path("run")), told).run()
    """)
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as begun:
        own = [int(word) for word in begun.stdout.readline().split()]
        assert len(own) == 2
        begun.kill()
    for _ in range(200):
        if not any(os.path.exists(f"/proc/{process}") for process in own):
            break
        time.sleep(0.05)
    assert not [process for process in own if os.path.exists(f"/proc/{process}")]


def test_what_cannot_be_sent_to_another_process_says_so(coordinate, make_experiment, small_shards):
    made = coordinate(make_experiment(*MIXER, "training.workers=2"), "several")
    made.engine._pool._recipe.model.held = threading.Lock()
    with pytest.raises(TrainingError, match="cannot be sent to another process: TypeError"):
        made.run()


def test_split_clients_are_simulated_in_one_process(coordinate, make_experiment):
    for key in ("training.workers=2", "federation.engine=ray"):
        with pytest.raises(EdgekitError, match="meet the server in each step: leave it out"):
            coordinate(make_experiment("model.name=mlp", "split.cut=layers.2", key), key[:8])


def test_compiled_steps_need_no_processes(coordinate, make_experiment):
    said = []
    made = coordinate(make_experiment("training.trainer=client-major", "training.workers=3"), on_notice=said.append)
    assert "training.workers is left at one: compiled steps take all cores already" in said
    assert made.engine.trainer == "client after client in compiled steps"


def test_asks_that_several_shards_have_are_sent_once(small_shards):
    one, other = object(), object()
    asks = {client: other if client == 4 else one for client in range(7)}
    common, parts = cut("train", asks, None)
    assert common == Common("train", [one], None)
    assert [part.clients for part in parts] == [{0: 0, 1: 0, 2: 0}, {3: 0, 4: other, 5: 0}, {6: 0}]
    assert [list(part) for part in shards(asks)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_parcels_hold_arrays_that_can_be_written_to_and_are_nobody_elses():
    held = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(0, np.float32), "f": np.asfortranarray(np.eye(3))}
    strided = np.arange(10)[::2]
    with parcels.shared({**held, "s": strided, "call": lambda x: x + 1}) as file:
        first, second = parcels.opened(file), parcels.opened(file)
    assert first["call"](1) == 2
    for name, array in {**held, "s": strided}.items():
        np.testing.assert_array_equal(first[name], array)
        assert first[name].dtype == array.dtype
    first["a"][:] = 7
    np.testing.assert_array_equal(second["a"], held["a"])


def test_a_process_that_is_lost_while_it_has_nothing_to_do_costs_nothing(
    coordinate, make_experiment, small_shards, monkeypatch
):
    alone = coordinate(make_experiment(*MIXER), "alone").run()
    made, taken = coordinate(make_experiment(*MIXER, "training.workers=2"), "several"), several._Process.taken
    idle = []

    def takes(process):
        found = taken(process)
        if len(idle) < 4:
            idle.append(process)
            os.kill(process._child.pid, signal.SIGKILL)
        return found

    monkeypatch.setattr(several._Process, "taken", takes)
    assert _bits(made.run()) == _bits(alone)
    assert len(idle) == 4


class Odd(FedAvg):
    """Its client half fails as `how` says."""

    how = ""

    def local(self, ask, client):
        if self.how == "thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
            raise SystemExit
        raise LockedError if self.how == "lock" else TwoError("a", "b")


class TwoError(TrainingError):
    def __init__(self, one, other):
        super().__init__(one + other)


class LockedError(TrainingError):
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("how", "problem"), [("two", "^ab$"), ("lock", "^locked$"), ("thread", "trains clients does not answer any more")]
)
def test_whatever_a_worker_raises_comes_back_as_a_line(
    how, problem, coordinate, make_experiment, small_shards, monkeypatch
):
    monkeypatch.setattr(several, "END_SECONDS", 0.2)
    monkeypatch.setattr(several, "MOST_LOSSES", 1)
    made = coordinate(make_experiment(*MIXER, "training.workers=2"), "several")
    odd = Odd()
    odd.how = how
    recipe = made.engine._pool._recipe
    made.engine._pool._recipe = dataclasses.replace(recipe, algorithm=odd)
    with pytest.raises(TrainingError, match=problem):
        made.run()


def test_a_round_of_many_shards_holds_few_descriptors(coordinate, make_experiment, monkeypatch):
    monkeypatch.setattr("edgekit.server.engines.shards.SHARD", 1)
    keys = ("model.name=mlp", "data.clients=60", "federation.rounds=1", "training.trainer=cohort")
    made = coordinate(make_experiment(*keys, "training.workers=2"), "several")
    most, taken = [], several._Process.taken

    def takes(process):
        most.append(len(os.listdir("/proc/self/fd")))
        return taken(process)

    monkeypatch.setattr(several._Process, "taken", takes)
    made.run()
    assert len(most) == 60
    assert most[-1] <= most[2] + 2


def test_a_line_that_holds_for_all_shards_is_said_once(coordinate, make_experiment, small_shards, monkeypatch):
    def train(self, asked, tasks):
        raise RuntimeError("no")

    monkeypatch.setattr("edgekit.clients.cohort.trainer.VectorisedTrainer.train_cohort", train)
    said = []
    made = coordinate(make_experiment(*MIXER, "training.trainer=one-by-one"), on_notice=said.append)
    made.engine._here.clients.cohort = VectorisedTrainer(made.model)
    made.run()
    assert len([line for line in said if "common step failed (no)" in line]) == 2  # rounds
