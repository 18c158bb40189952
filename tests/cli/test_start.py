"""A wrong argument is answered before anything heavy is loaded: people wait for a word, not for torch."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "flwr", "sklearn", "numba")
WRONG = {
    "inspect none.tflite": "none.tflite does not exist",
    "run training.epoch=1": "did you mean 'epochs'",
    "run model.name=mlpp": "model.name 'mlpp' is unknown; did you mean 'mlp'?",
    "run data.source=nothing": "data.source 'nothing' is unknown; known are digits, moving-digits",
    "run federation.strategy=FedAvgg": "federation.strategy 'FedAvgg' is unknown; did you mean 'FedAvg'?",
    "run federation.algorithm=fedpro": "federation.algorithm 'fedpro' is unknown; did you mean 'fedprox'?",
    "run federation.algorithm=scaffold federation.strategy=Krum": "are two methods: leave one out",
    "run nowhere.toml": "nowhere.toml does not exist",
    "resume nowhere": "nowhere is not a run folder",
    "resume a b": "Got unexpected extra argument (b) (edgekit resume --help)",
    "runs nowhere": "nowhere does not exist",
    "compare nowhere": "give two runs or more",
    "sweep training.epoch=1,2": "did you mean 'epochs'",
    "search --latency-ms 1 training.epoch=1,2": "did you mean 'epochs'",
    "search model.width=0.5,1": "nothing is bounded",
    "search --device cortex-m7 --latency-ms 1": "cannot be measured on this machine",
    "predict nowhere x.npz": "nowhere does not exist",
    "evaluate nowhere": "nowhere does not exist",
    "new --data nowhere.csv": "nowhere.csv does not exist",
    "export nowhere": "nowhere is not a run folder",
    "export --model a:B --sample 8,8": "give one input's shape with a batch of 1",
    "spike run nothing": "nothing is not a run folder",
    "spike verify --random 0": "nothing to compare",
    "spike plot nothing": "nothing is not a run folder",
    "spike export nothing": "nothing is not a run folder",
    "spike setup-lava --x": "No such option",
    "split plan training.epoch=1": "did you mean 'epochs'",
    "split plan --device toaster": "no device profile 'toaster'",
    "split attack training.epoch=1": "did you mean 'epochs'",
    "privacy report nothing": "nothing is neither a run folder nor a node",
    "privacy audit training.epoch=1": "did you mean 'epochs'",
    "privacy ledger x --epsilon 8 --unit person": "it is example or client",
    "serve training.epoch=1": "did you mean 'epochs'",
    "join nonsense": "nonsense",
    "phone nonsense": "nonsense",
    "devices list --x": "No such option",
    "devices show none": "no device profile 'none'",
    "devices doctor --x": "No such option",
    "devices profile --out board.txt": "a profile is a file NAME.toml",
    "devices status none": "none is not a run folder",
    "devices remove": "Missing argument",
    "devices leave": "holds no node",
    "bundle --device x": "no device profile 'x'",
    "models --x": "No such option",
    "models show vitt": "did you mean 'vit'",
    "models fit dscnn --device toaster": "no device profile 'toaster'",
    "models fit nett": "model.name 'nett' is unknown",
    "inspect none.tflite --check --runtime x": "there are ai-edge-litert",
    "doctor --install x": "there is tflite-runtime",
    "new existing.toml": "existing.toml exists already",
}
"""A wrong argument of each command, and what is said about it."""

ANSWERS = f"""
import contextlib, io, json, sys
from edgekit.cli import main
found = {{}}
for line in sys.argv[1:]:
    errors, code = io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(line.split())
        except SystemExit as end:
            code = end.code
    found[line] = code, errors.getvalue(), [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """One process that is given one wrong argument after another: exit codes, errors, heavy modules loaded by then."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "existing.toml").touch()
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, *WRONG],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"EDGEKIT_HOME": str(folder / "home"), "COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_argument_is_answered_before_anything_heavy_is_loaded(arguments, answers):
    code, errors, heavy = answers[arguments]
    assert code in (1, 2), errors
    assert WRONG[arguments] in errors
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1, errors
    assert heavy == []


def test_every_command_has_a_wrong_argument_here():
    from typer.main import get_command

    from edgekit.cli.app import app

    def names(group, before=()):
        for name, command in group.commands.items():
            inner = getattr(command, "commands", None)
            yield from names(command, (*before, name)) if inner else [" ".join((*before, name))]

    for name in names(get_command(app)):
        assert any(f"{wrong} ".startswith(f"{name} ") for wrong in WRONG), name
