"""Damaged, missing and contested files of runs: what is refused, what goes on, and what is said."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from edgekit import arrays
from edgekit.errors import EdgekitError, RunFolderError, ServeError, UsageError
from edgekit.pipeline import job
from edgekit.runfolder import RunFolder
from edgekit.server.deployment.coordinating import _Tail, rows_of
from edgekit.server.deployment.enrolment import Enrolment, members_in
from edgekit.server.engines.fleet.nodes import NodeState, load_nodes, read_nodes, save_nodes
from edgekit.server.loop import checkpoint


@pytest.fixture
def experiment(make_experiment):
    return make_experiment("model.name=mlp", "privacy.unit=none", "export.presets=[]", "spiking.enabled=false")


@pytest.fixture
def run(experiment, tmp_path, heard):
    job.run(experiment, tmp_path / "run", heard)
    return RunFolder(tmp_path / "run")


def _hold(path, holds):
    with RunFolder(path).alone():
        holds.set()
        time.sleep(60)


def test_a_folder_has_one_writer_and_that_of_a_dead_one_is_taken_over(run, heard):
    context = multiprocessing.get_context("spawn")
    holds = context.Event()
    other = context.Process(target=_hold, args=(run.path, holds), daemon=True)
    other.start()
    assert holds.wait(60)
    before = run.metrics.read_bytes()
    with pytest.raises(UsageError, match="another edgekit is at work in .*run: wait until it ends"):
        job.resume(run.path, heard)
    assert run.metrics.read_bytes() == before
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert (run.path / "lock").exists()
    job.resume(run.path, heard)
    assert not (run.path / "lock").exists()


def test_each_bit_of_a_checkpoint_counts(run, tmp_path):
    newest = run.checkpoint / "round-000002.safetensors"
    whole, said = newest.read_bytes(), []
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        newest.write_bytes(damaged)
        found = checkpoint.latest(run.checkpoint, said.append)
        same = False
        if found.round == 2:  # in padding, or a name that nobody reads
            arrays_, description = arrays.load(newest)
            newest.write_bytes(whole)
            plain, plainly = arrays.load(newest)
            same = description == plainly and all((plain[name] == arrays_[name]).all() for name in plain)
        assert found.round == 1 or same, place
    assert len(said) > 50
    assert all("going on from the checkpoint of round" in line for line in said)
    newest.write_bytes(whole)
    assert checkpoint.latest(run.checkpoint).round == 2


def test_a_model_that_a_disk_changed_is_refused(run):
    content = bytearray(run.model.read_bytes())
    content[-3] ^= 4
    run.model.write_bytes(content)
    with pytest.raises(EdgekitError, match="model.safetensors is damaged"):
        arrays.load(run.model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[1:], "lacks 1 of 2 rounds, the first of them 1"),
        (lambda lines: [], "lacks 2 of 2 rounds"),
        (lambda lines: None, "is missing: of rounds 1 to 2 there are no metrics"),
        (lambda lines: [*lines, *lines], ""),
        (lambda lines: [*lines, '"round"\n', "[2]\n", '{"round": "x"}\n'], ""),
    ],
)
def test_metrics_that_do_not_fit_the_checkpoint_are_said(run, heard, change, words):
    lines = run.metrics.read_text().splitlines(keepends=True)
    changed = change(lines)
    if changed is None:
        run.metrics.unlink()
    else:
        run.metrics.write_text("".join(changed))
    job.resume(run.path, heard)
    said = [line for line in heard.notices if "metrics.jsonl" in line]
    assert [words in line for line in said] == ([True] if words else [])
    if changed:
        assert [json.loads(line)["round"] for line in run.metrics.read_text().splitlines()] in ([1, 2], [2])


def test_metrics_without_a_checkpoint_are_said(run, heard):
    for path in run.checkpoint.glob("round-*"):
        path.unlink()
    job.resume(run.path, heard)
    assert any("no checkpoint is there: training begins anew" in line for line in heard.notices)
    assert len(run.metrics.read_text().splitlines()) == 2


WRONG = ["", "[", "[1]", '{"a": 1}', '{"a": {"name": 3}}', '[{"node": "x"}]', "null", "\x00", '{"1": null}']


@pytest.mark.parametrize("content", WRONG)
@pytest.mark.parametrize("name", ["members.json", "codes.json"])
def test_what_the_coordinator_knows_is_read_whole_or_refused_in_a_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ServeError, match=f"{name} is damaged .*: restore it, or remove it") as error:
        Enrolment(tmp_path, b"authority", b"s" * 32, lambda key, name: 1, lambda node: None)
    assert len(str(error.value).splitlines()) == 1
    if name == "members.json":
        with pytest.raises(ServeError, match="members.json is damaged"):
            members_in(tmp_path)


@pytest.mark.parametrize("content", WRONG)
def test_what_is_known_of_nodes_begins_anew_and_says_so(run, content):
    path, said = run.path / "nodes.json", []
    path.write_text(content)
    assert load_nodes(path, said.append) == {}
    assert len(said) == 1
    assert "nodes.json is damaged" in said[0]
    assert "begins anew" in said[0]
    with pytest.raises(RunFolderError, match="nodes.json is damaged"):
        read_nodes(run)
    with pytest.raises(RunFolderError):
        rows_of(run)
    save_nodes(path, [NodeState(3, "pi", "torch")])
    assert load_nodes(path)[3].name == "pi"


def test_lines_that_a_killed_process_left_never_end_what_reads_them(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"stage": "old"}\n')
    tail = _Tail(path)
    with open(path, "a") as file:
        file.write('{"round": {"rou{"stage": "training"}\n[1]\n"x"\n\n{"stage": "report"}\n{"sta')
    assert tail.new() == [{"stage": "report"}]
    with open(path, "a") as file:
        file.write('ge": "x"}\n')
    assert tail.new() == [{"stage": "x"}]
