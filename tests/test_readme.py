"""The README's experiments are read by the real schema, and its commands exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgekit import experiment as experiments
from edgekit.experiment import Experiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_an_experiment(path):
    assert experiments.load(path).name == path.stem


def test_the_experiment_in_the_readme_is_one():
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert Experiment.model_validate(tomllib.loads(text)).federation.algorithm == "scaffold"


def test_every_link_within_the_project_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), (page.name, link)


def test_every_command_in_the_readme_exists(edgekit, tmp_path):
    commands = set(re.findall(r"edgekit ([a-z]+)", README)) - {"trains", "as"}
    for command in commands:
        assert edgekit(command, "--help", cwd=tmp_path).returncode == 0, command


def test_the_pages_are_built_without_a_broken_link(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "edgekit predict" in (tmp_path / "python/index.html").read_text()  # of the docstrings


@pytest.mark.long
def test_the_tutorial_can_be_followed(edgekit, tmp_path):
    """Each command of it, in its order; the figures that it shows are those of this code, but for times."""
    page = (ROOT / "docs/tutorials/table.md").read_text()
    shutil.copy(ROOT / "examples/machines.csv", tmp_path)
    rows = (tmp_path / "machines.csv").read_text().splitlines()[:4]
    (tmp_path / "new.csv").write_text("".join(row.rpartition(",")[0] + "\n" for row in rows))
    said = ""
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.strip().splitlines():
            done = edgekit(*shlex.split(line)[1:], cwd=tmp_path)
            assert done.returncode == 0, (line, done.stderr)
            said += done.stdout
    for shown in ("12 numbers of 5 columns; 6 clients", "3 classes: broken, ok, worn", "balanced_accuracy"):
        assert shown in said, shown
    assert (tmp_path / "answers.csv").is_file()
    assert (tmp_path / "compared.html").is_file()


def test_the_documented_keys_are_the_schemas():
    documented = (ROOT / "docs/experiment.md").read_text()
    for section, field in Experiment.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {section: None})
        for key in inner:
            assert f"`{key}`" in documented or f"[{section}.{key}]" in documented, (section, key)
