"""A training graph's trial: what would crash or starve a device is found out in a process of its own."""

import sys
from shlex import quote

import pytest

from edgekit.clients.node import trial
from edgekit.errors import ModelError
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.models import build
from edgekit.models.settings import Model


@pytest.fixture(scope="module")
def graph():
    model = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    return training_file(model, (1, 8, 8), 10, Options(16, 1.0), {})[0]


def test_a_graph_that_runs_passes_once(graph, tmp_path):
    trial.check(graph, tmp_path / "mark")
    assert (tmp_path / "mark").exists()
    trial.check(b"not looked at again", tmp_path / "mark")


def test_what_is_no_graph_is_not_loaded(graph, tmp_path):
    with pytest.raises(ModelError, match="failed in its trial .* nothing of it was loaded"):
        trial.check(graph[:1000], tmp_path / "mark")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("work", "how"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "by signal 11"),
        ("bytearray(3 << 30)", "MemoryError"),
        ("while True: pass", "by signal (9|24)"),
        ("open('left', 'wb', 0).write(b'x')", "(File too large|by signal 25)"),
    ],
)
def test_what_takes_too_much_of_the_device_is_told(tmp_path, monkeypatch, work, how):
    """Graphs that do so would be crafted ones: here the process of the trial itself does it, within its limits."""
    (tmp_path / "work.py").write_text(
        f"from edgekit.clients.node import trial\ntrial.SECONDS = 1\ntrial.limit()\n{work}\n"
    )
    (tmp_path / "python").write_text(
        f"#!/bin/sh\ncd {quote(str(tmp_path))} && exec {quote(sys.executable)} -P work.py\n"
    )
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ModelError, match=how):
        trial.check(b"", tmp_path / "mark")
    assert not (tmp_path / "left").exists() or not (tmp_path / "left").read_text()
