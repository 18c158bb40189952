"""Each tutorial can be followed: its files are written, its commands run in their order, and what they say is said."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs/tutorials"

pytestmark = pytest.mark.long


def blocks(page, language):
    """Return a page's blocks of code of a language; `sh serve` is another than `sh`."""
    return re.findall(rf"^```{language}\n(.*?)^```", (TUTORIALS / page).read_text(), re.DOTALL | re.MULTILINE)


def write_files(page, folder):
    """Write the blocks that begin with a file's name."""
    for text in blocks(page, "(?:python|toml)"):
        if named := re.match(r"# (\w+\.\w+)\n", text):
            (folder / named[1]).write_text(text)


def follow(page, folder, edgekit, language="sh"):
    """Do what a page says, and return what was answered; a line that begins with ! has to fail."""
    write_files(page, folder)
    said = ""
    for block in blocks(page, language):
        for line in block.strip().splitlines():
            words = shlex.split(line.removeprefix("! "))
            if words[0] == "python":
                command = [sys.executable, *words[1:]]
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
            else:
                done = edgekit(*words[1:], cwd=folder)
            assert (done.returncode == 0) != line.startswith("! "), (line, done.stderr)
            said += done.stdout + done.stderr
    return said


def test_the_own_table(edgekit, tmp_path):
    shutil.copy(ROOT / "examples/machines.csv", tmp_path)
    rows = (tmp_path / "machines.csv").read_text().splitlines()[:4]
    (tmp_path / "new.csv").write_text("".join(row.rpartition(",")[0] + "\n" for row in rows))
    said = follow("table.md", tmp_path, edgekit)
    for shown in ("12 numbers of 5 columns; 6 clients", "3 classes: broken, ok, worn", "balanced_accuracy"):
        assert shown in said, shown
    assert (tmp_path / "answers.csv").is_file()
    assert (tmp_path / "compared.html").is_file()


def test_private_training(edgekit, tmp_path):
    said = follow("private.md", tmp_path, edgekit)
    for shown in (
        "planned: epsilon 4.00 at delta 0.0001 for one example, 30 rounds, noise multiplier 2.787",
        "nothing speaks against the claim",
        "81.9 % of its total left",
        "open    The server is trusted",
    ):
        assert shown in said, shown
    assert "what guessing gives" not in said  # the audit's network is not to learn anything


def test_a_method_of_ones_own_is_fedavg_without_momentum(edgekit, tmp_path):
    said = follow("method.md", tmp_path, edgekit)
    assert (tmp_path / "runs/private/report.html").is_file()
    found = {name: re.findall(rf"^ {name} +finished +([.\d]+)", said, re.MULTILINE) for name in ("rolling", "standing")}
    assert found["standing"] == re.findall(r"^ fedavg +finished +([.\d]+)", said, re.MULTILINE)
    assert float(found["rolling"][0]) > float(found["standing"][0]) + 0.02


def test_a_model_into_an_app(edgekit, tmp_path):
    said = follow("android.md", tmp_path, edgekit)
    assert "equal" in said
    assert (tmp_path / "app/Classifier.kt").is_file()


def test_spikes_and_loihi(edgekit, tmp_path):
    said = follow("loihi.md", tmp_path, edgekit)
    shown = re.findall(r"2 samples: ([\d,]+) of ([\d,]+) values equal", said)
    assert len(shown) == 1
    assert shown[0][0] == shown[0][1]
    assert "5 of 5 random networks" in said
    assert (tmp_path / "lava/run_in_lava.py").is_file()


@pytest.mark.xdist_group("processes")
def test_three_boards(edgekit, federation, tmp_path):
    """With processes of this machine for boards."""
    follow("pis.md", tmp_path, edgekit)
    ((serve,),) = [block.splitlines() for block in blocks("pis.md", "sh serve")]
    ((join,),) = [block.splitlines() for block in blocks("pis.md", "sh join")]
    options = shlex.split(join)[3:]
    one = federation(base=(str(tmp_path / "pis.toml"),))
    one.serve("--once", codes=int(shlex.split(serve)[-1]))
    for board in range(3):
        one.join(f"board-{board}", *(word.replace("board-0", str(tmp_path / f"board-{board}")) for word in options[:2]))
    one.wait_for_end(120)
    ((after,),) = [block.splitlines() for block in blocks("pis.md", "sh after")]
    done = edgekit(*shlex.split(after)[1:-1], one.run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^ board-\d", done.stdout, re.MULTILINE)) == 3
    assert "agreed: this device spends epsilon 7.995 at delta 0.0005" in one.output("board-0")
