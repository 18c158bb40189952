"""The README's experiments are read by the real schema, and its commands exist."""

import json
import os
import re
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
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_script_runs(path, tmp_path):
    if path.stem == "frozen_head":
        pytest.skip("the network of frozen-head.toml")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = [sys.executable, f"examples/{path.name}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize("path", sorted((ROOT / "examples/notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_every_notebook_runs_and_does_not_flood(path, tmp_path):
    import nbclient
    import nbformat

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    book = nbformat.read(path, 4)
    assert not any(cell.get("outputs") for cell in book.cells)  # kept without
    nbclient.NotebookClient(
        book, timeout=600, resources={"metadata": {"path": tmp_path / "examples/notebooks"}}
    ).execute()
    for cell in book.cells:
        shown = [one for one in cell.get("outputs", []) if one["output_type"] in ("display_data", "stream")]
        assert len(shown) <= 3, shown


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "fedprox",
        "scaffold",
        "fednova",
        "fedadam",
        "private-examples",
        "private-devices",
        "private-clients",
        "machines",
        "pruned",
    ],
)
def test_an_example_of_each_method_and_privacy_learns(name, edgekit, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    quick = ["export.presets=[]", "spiking.enabled=false", "--out", "r", "--json"]
    done = edgekit("run", f"examples/{name}.toml", *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"] > result["majority_baseline"] + 0.35


def test_the_documented_keys_are_the_schemas():
    documented = (ROOT / "docs/experiment.md").read_text()
    for section, field in Experiment.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {section: None})
        for key in inner:
            assert f"`{key}`" in documented or f"[{section}.{key}]" in documented, (section, key)
