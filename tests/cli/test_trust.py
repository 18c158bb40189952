"""An experiment's own code: who is asked before it runs, what is never run, and what it may do to the output."""

import importlib
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit import experiment as experiments
from edgekit import plugins
from edgekit.cli.app import main
from edgekit.errors import EdgekitError, ExperimentError, ModelError, UsageError
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder
from edgekit.trust import Gate

NET = """
import os, sys
print("imported", flush=True)
open("ran", "a").write("x")
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(torch.flatten(x, 1))

def net():
    return Net()
"""
QUICK = ["data.clients=3", "federation.rounds=1", "training.epochs=1", "export.presets=[]", "spiking.enabled=false"]
QUICK += ["privacy.unit=none"]
TOML = 'name = "x"\n[model]\nname = "mynet:Net"\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(NET)
    (tmp_path / "mine.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def edgekit(place, monkeypatch, capsys):
    """The command line, as a new process would find it: (exit code, output, errors)."""

    def run(*arguments, home="home"):
        monkeypatch.setenv("EDGEKIT_HOME", str(place / home))
        monkeypatch.delenv("EDGEKIT_TRUST", raising=False)
        monkeypatch.delitem(sys.modules, "mynet", raising=False)
        importlib.invalidate_caches()
        try:
            main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


def _ran(place):
    return (place / "ran").exists()


def test_code_that_nobody_trusts_is_named_and_not_run_and_once_trusted_it_stays_so(place, edgekit):
    code, _, err = edgekit("run", "mine.toml", *QUICK)
    assert code == 2
    assert f"model.name names mynet:Net, which is code in {place / 'mynet.py'}" in err
    assert "give --trust" in err
    assert len(err.strip().splitlines()) == 1
    assert not _ran(place)
    code, out, err = edgekit("run", "mine.toml", *QUICK, "--trust", "--json", "--out", "one")
    assert (code, json.loads(out)["rounds"]) == (0, 1)
    assert "imported" in err
    assert _ran(place)
    with open(place / "mynet.py", "a") as file:
        file.write("\n# changed: it is beside the experiment, and stays trusted\n")
    assert edgekit("resume", "one")[0] == 0
    # In somebody else's home nothing was trusted, and what a run folder names is not either.
    (place / "ran").unlink()
    for command in (
        *(["resume", "one"], ["export", "one"], ["spike", "run", "one"], ["privacy", "audit", "mine.toml"]),
        *(["serve", "mine.toml"], ["split", "plan", "mine.toml"], ["split", "attack", "mine.toml"]),
    ):
        code, _, err = edgekit(*command, home="other")
        assert code == 2
        assert "nobody has trusted" in err, command
    assert not _ran(place)


def test_what_comes_from_elsewhere_is_remembered_by_its_content(place, edgekit, tmp_path_factory):
    sent = tmp_path_factory.mktemp("sent") / "run"
    code, out, _ = edgekit("run", "mine.toml", *QUICK, "--trust", "--out", str(sent), "--json")
    assert (code, json.loads(out)["interrupted"]) == (0, False)
    assert edgekit("resume", str(sent), "--trust", home="other")[0] == 0
    assert edgekit("resume", str(sent), home="other")[0] == 0
    with open(place / "mynet.py", "a") as file:
        file.write("\n# changed\n")
    code, _, err = edgekit("resume", str(sent), home="other")
    assert code == 2
    assert "nobody has trusted" in err


def test_a_name_that_was_typed_is_meant(place, edgekit):
    (place / "plain.toml").write_text('name = "x"\n')
    assert edgekit("run", "plain.toml", *QUICK, "model.name=mynet:Net", "--out", "typed")[0] == 0
    assert edgekit("resume", "typed")[0] == 0


@pytest.mark.parametrize(
    ("answer", "let"), [("y", True), ("YES ", True), ("", False), ("no", False), (EOFError, False)]
)
def test_who_is_there_is_asked(place, monkeypatch, capsys, answer, let):
    def asked(question):
        assert question == "Run it, now and from now on? [y/N] "
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setenv("EDGEKIT_HOME", str(place / "home"))
    monkeypatch.setattr("builtins.input", asked)
    gate = Gate(["run", "mine.toml"], asks=True)
    sys.path.append(str(place))
    if let:
        gate("mynet:Net", "model.name")
        monkeypatch.setattr("builtins.input", None)
        gate("mynet:Net", "model.name")
    else:
        with pytest.raises(UsageError, match="was not trusted, and nothing was run"):
            gate("mynet:Net", "model.name")
    assert "It would run with all your rights." in capsys.readouterr().err
    assert not _ran(place)


def test_on_a_terminal_the_question_is_put(place):
    mine, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "edgekit.cli", "run", "mine.toml", *QUICK]
    environment = {**os.environ, "EDGEKIT_HOME": str(place / "home")}
    os.write(mine, b"n\n")
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=False,
        timeout=60,
    )
    os.close(theirs)
    told = os.read(mine, 65536).decode()
    os.close(mine)
    assert done.returncode == 2, told
    assert "It would run with all your rights." in told
    assert not _ran(place)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.name=os:system", "is of Python's own library"),
        ("model.name=subprocess:call", "is of Python's own library"),
        ("model.name=numpy:load", "not a torch.nn.Module class"),
        ("model.name=torch.hub:load", "not a torch.nn.Module class"),
        ("data.source=os:getcwd", "is of Python's own library"),
        ("data.source=numpy:zeros", "not a function of yours"),
        ("federation.strategy=os:system", "is of Python's own library"),
        ("federation.strategy=numpy:save", "is not a flwr.serverapp.strategy.Strategy"),
        ("federation.selector=numpy:array", "is no selector's class"),
        ("federation.algorithm=numpy:save", "is not an edgekit.algorithms.base.Algorithm"),
    ],
)
def test_what_is_of_another_kind_is_never_called(override, words):
    from edgekit import algorithms
    from edgekit.server.loop import selection

    made = experiments.load(None, [override, 'model.arguments={command="touch ran"}'])

    def all_of_it():
        dataset = load_dataset(made)
        selection.make(made.federation.selector or "uniform")
        algorithms.make(made.federation)
        build_network(made, dataset)

    with pytest.raises((ExperimentError, ModelError), match=words):
        all_of_it()
    assert not Path("ran").exists()


ENDS = {
    "import": "import sys\nsys.exit(3)\n",
    "class": NET.replace("self.out = nn", "sys.exit(3)\n        self.out = nn"),
    "forward": NET.replace("return self.out", "sys.exit(3)\n        return self.out"),
}


@pytest.mark.parametrize("what", ENDS)
def test_code_that_ends_the_program_is_one_line(place, edgekit, what):
    (place / "mynet.py").write_text(ENDS[what])
    code, out, err = edgekit("run", "mine.toml", *QUICK, "--trust", "--json")
    assert (code, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("edgekit: ")
    assert "3" in last
    assert "Traceback" not in err


def test_children_end_with_the_run_and_what_they_print_is_no_output(place):
    forks = 'import subprocess\nopen("child", "w").write(str(subprocess.Popen(["sleep", "300"]).pid))\n'
    forks += 'os.system("echo from a child")\n'
    forks += 'if os.fork() == 0:\n    if os.fork() == 0:\n        open("orphan", "w").write(str(os.getpid()))\n'
    forks += "        import time\n        time.sleep(300)\n    os._exit(0)\n"
    (place / "mynet.py").write_text(NET.replace("import torch\n", f"{forks}import torch\n", 1))
    command = [
        sys.executable,
        "-P",
        "-m",
        "edgekit.cli",
        "run",
        "mine.toml",
        *QUICK,
        "--trust",
        "--json",
        "--out",
        "run",
    ]
    environment = {**os.environ, "EDGEKIT_HOME": str(place / "home")}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 1
    assert "from a child" in done.stderr
    for name in ("child", "orphan"):
        pid = (place / name).read_text()
        until = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < until, f"{name} still runs"
            time.sleep(0.05)
    with RunFolder(place / "run").alone():
        pass


def test_a_store_that_cannot_be_read_is_said(place, edgekit):
    (place / "home").mkdir()
    (place / "home" / "trusted.json").write_text("[]")
    code, _, err = edgekit("run", "mine.toml", "--trust")
    assert code == 2
    assert "trusted.json cannot be read: remove it" in err


def test_a_program_of_ones_own_is_not_asked(place, monkeypatch):
    sys.path.append(str(place))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    assert plugins.guarding() is None
    made = experiments.load(place / "mine.toml")
    assert type(build_network(made, load_dataset(made))).__name__ == "Net"
    with pytest.raises(EdgekitError, match="no module named"):
        plugins.load("nothere:Net", "model.name")
