"""`edgekit new`: a commented experiment to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

TEMPLATE = Path(str(files("edgekit").joinpath("example.toml")))
"""The built-in example, which is also what `edgekit new` writes."""

SCHEMA = "experiment.schema.json"


def schema_text() -> str:
    """Return the JSON schema of experiments, which is made of the sections themselves."""
    import json

    from edgekit.experiment import Experiment

    return json.dumps(Experiment.model_json_schema(), indent=1) + "\n"


def text_for(name: str) -> str:
    """Return the built-in example for another network of the zoo, with what that learns with; without privacy.

    Raises:
        UsageError: there is none of this name.
    """
    import re

    from edgekit.errors import UsageError
    from edgekit.models.kinds import aim_of, inputs_of, learns_with
    from edgekit.registry import MODELS

    if name not in MODELS:
        raise UsageError(f"--model {name!r} is none of the zoo: {', '.join(MODELS)}")
    network = MODELS.load(name)
    learns, kinds = learns_with(network), inputs_of(network)
    text = TEMPLATE.read_text()
    text = re.sub(r"\n\[model\.arguments\].*?(?=\n\[)", "", text, flags=re.DOTALL)
    changes = {"name": f'"{name}"', "norm": f'"{learns["norm"]}"', "unit": '"none"', "enabled": '"auto"'}
    changes |= {key: repr(learns[key]) for key in ("learning_rate", "momentum")}
    for key, value in changes.items():  # the first of its name behind [model]; the experiment's own name stays
        begin = text.index("[model]")
        text = text[:begin] + re.sub(rf"(?m)^{key} = \S+", f"{key} = {value}", text[begin:], count=1)
    more = f'schedule = "{learns["schedule"]}"  # of the step size over the rounds\nwarm_up = {learns["warm_up"]}\n'
    text = re.sub(r"(?m)^momentum = .*\n", lambda found: found[0] + more, text, count=1)
    if (aim := aim_of(network)) != "cross-entropy":
        text = text.replace("[model]", f'[objective]\nname = "{aim}"\n\n[model]', 1)
        text = text.replace('source = "digits"', 'source = "machine-sounds"', 1)
    elif "image" not in kinds:
        text = text.replace('source = "digits"', f'source = "npz:mine.npz"  # x of {kinds[0]}s, y;', 1)
    return text


def new(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("experiment.toml"),
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of experiments instead.")] = False,
    model: Annotated[str, typer.Option(help="A network of the zoo, with what it learns with.")] = "",
    data: Annotated[str, typer.Option(metavar="FILE|FOLDER", help="Data of yours that the experiment shall fit.")] = "",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="With --data: the column that is learnt.")] = "",
) -> None:
    """Write a commented experiment file: the built-in example, every line explained, or one that fits your data.

    Beside it lies the schema that it names, so that editors complete keys and tell what is wrong.

    Examples:

        edgekit new mine.toml

        edgekit new --model vit mine.toml

        edgekit new --data machines.csv --label fault mine.toml

        edgekit new --schema > experiment.schema.json
    """
    if schema:
        print(schema_text(), end="")
        return
    from edgekit.errors import UsageError
    from edgekit.runfolder import write_whole

    if path.exists():
        raise UsageError(f"{path} exists already: give another name")
    if data and model:
        raise UsageError("--data chooses a network that fits: give --model or --data, and change model.name afterwards")
    if label and not data:
        raise UsageError("--label is a column of --data: give the table, too")
    if data:
        from edgekit.pipeline.suggesting import suggest

        made = suggest(data, label)
        text = made.text()
        for line in made.about[1:]:
            print(line)
    else:
        text = text_for(model) if model else TEMPLATE.read_text()
    write_whole(path.with_name(SCHEMA), schema_text())
    write_whole(path, f"#:schema ./{SCHEMA}\n{text}")
    print(f"Wrote {path}. Change what you like, then: edgekit run {path}")
