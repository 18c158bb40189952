"""The experiment file: precedence, strictness, and errors that say what would be right."""

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from edgekit import experiment as experiments
from edgekit.cli.new import TEMPLATE
from edgekit.errors import ExperimentError
from edgekit.experiment import Experiment


def test_an_override_goes_before_the_file_and_the_file_before_the_default(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("seed = 5\n[training]\nepochs = 3\nbatch_size = 16\n")
    made = experiments.load(path, ["training.epochs=7"])
    assert (made.training.epochs, made.training.batch_size, made.seed) == (7, 16, 5)
    assert made.training.learning_rate == Experiment().training.learning_rate


def test_the_saved_experiment_reads_back_as_itself(tmp_path):
    made = experiments.load(TEMPLATE, ["privacy.epsilon=3.5", "federation.arguments.eta=0.1"])
    experiments.save(made, tmp_path / "experiment.toml")
    assert experiments.load(tmp_path / "experiment.toml") == made


def test_the_template_spells_out_only_keys_that_exist():
    assert Experiment.model_validate(tomllib.loads(TEMPLATE.read_text())).name == "digits"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=2", "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ("trainin.epochs=2", "did you mean 'training'?"),
        ("training.epochs=0", "training.epochs: input should be greater than or equal to 1 (got 0)"),
        ("training.epochs=2.5", "training.epochs"),
        ('training.epochs="two"', "training.epochs: input should be a valid integer"),
        ("privacy.delta=1.5", "privacy.delta: input should be less than 1"),
        ("privacy.unit=person", "'none', 'example' or 'client'"),
        ("training.learning_rate=nan", "training.learning_rate: input should be a finite number"),
        ("model.arguments.since=2020-01-01", "arguments must be numbers, texts, booleans"),
        ("privacy.epsilon=1e6", "privacy.epsilon: input should be less than or equal to 100"),
        ("training", "is not of the form key.path=value"),
        ("seed.a=1", "seed: input should be a valid integer"),
        ("name=../elsewhere", "name"),
    ],
)
def test_a_wrong_key_type_or_range_is_one_line_that_says_what_would_be_right(override, message):
    with pytest.raises(ExperimentError) as caught:
        experiments.load(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_under_a_value_is_an_error():
    with pytest.raises(ExperimentError, match="seed is a value, not a table"):
        experiments.load(None, ["seed=1", "seed.deeper=2"])


def test_a_missing_file_names_the_command_that_writes_one(tmp_path):
    with pytest.raises(ExperimentError, match="edgekit new"):
        experiments.load(tmp_path / "none.toml")


def test_a_carriage_return_alone_ends_no_line_as_in_toml(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_bytes(b"seed = 3\rname = 'x'\n")
    with pytest.raises(ExperimentError, match="is not valid TOML"):
        experiments.load(path)


def test_broken_toml_names_the_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("seed = = 3\n")
    with pytest.raises(ExperimentError, match="line 1"):
        experiments.load(path)


def test_the_page_of_all_keys_is_made_of_the_sections():
    """`python -m edgekit.cli.reference docs/experiment.md` makes it anew."""
    from edgekit.cli import reference

    page = (Path(__file__).parents[1] / "docs" / "experiment.md").read_text()
    assert reference.renewed(page) == page
    assert page.count("| `") > 90


def test_each_key_says_what_it_is():
    def unsaid(section, path=""):
        for name, field in section.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from unsaid(inner, f"{path}{name}.")
            elif not field.description:
                yield path + name

    assert list(unsaid(Experiment)) == []


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        (["training.optimiser=adam", "training.momentum=0.9"], "momentum is of sgd"),
        (["training.nesterov=true"], "nesterov is a form of momentum"),
        (["training.optimiser=adam", "privacy.unit=example", "privacy.noise=client"], "private steps are of plain SGD"),
        (["training.schedule=cosine", "privacy.unit=example"], "privacy.learning_rate"),
        (["training.weight_decay=0.1", "split.cut=layers.2"], "split learning makes steps of plain SGD"),
        (["privacy.unit=client", "serve.statistics_every=2"], "says nothing of a whole client"),
        (["privacy.unit=client", "privacy.expected_examples=20"], "leave it out"),
    ],
)
def test_settings_that_do_not_go_together_say_what_would(chosen, problem):
    with pytest.raises(ExperimentError, match=problem):
        experiments.load(None, chosen)
