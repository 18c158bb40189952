"""The README's experiments are read by the real schema, and its commands exist."""

import re
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
    commands = set(re.findall(r"edgekit ([a-z]+)", README)) - {"trains"}
    for command in commands:
        assert edgekit(command, "--help", cwd=tmp_path).returncode == 0, command


def test_the_documented_keys_are_the_schemas():
    documented = (ROOT / "docs/experiment.md").read_text()
    for section, field in Experiment.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {section: None})
        for key in inner:
            assert f"`{key}`" in documented or f"[{section}.{key}]" in documented, (section, key)
