"""`edgekit models`: the zoo, and what a network of it costs layer by layer."""

from typing import Annotated, Any

import typer

from edgekit.cli.options import AsJson

app = typer.Typer(rich_markup_mode="markdown")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the networks of the zoo: what they are made for, parameters, multiply-adds, the forms each is delivered in.

    Sizes are those on a usual shape of the first kind of examples named, with 10 classes: images of 28 x 28, a second
    of sound, 64 frames of 6 numbers, graphs of 40 nodes. All but spiking ones are delivered as .tflite files and as
    training graphs; some also as `stream` (a frame at a time), `exits` (stage by stage) and `spikes`.

    Examples:

        edgekit models

        edgekit models show vit
    """
    if context.invoked_subcommand is not None:
        return
    import json

    from rich.console import Console
    from rich.table import Table

    from edgekit.models.cost import macs
    from edgekit.models.kinds import inputs_of, usual_arguments, usual_shape
    from edgekit.pipeline.forms import FILES, forms_of
    from edgekit.registry import MODELS

    rows: list[dict[str, Any]] = []
    for name, entry in MODELS.items():
        kind = MODELS.load(name)
        shape = usual_shape(kind)
        model = kind(shape, 10, **usual_arguments(kind))
        rows.append(
            {
                "name": name,
                "inputs": list(inputs_of(kind)),
                "shape": list(shape),
                "parameters": sum(p.numel() for p in model.parameters()),
                "macs": macs(model, shape),
                "forms": forms_of(model, shape),
                "summary": entry.summary,
                "source": entry.source,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "for", "parameters", "multiply-adds", "also as", "what it is"):
        number = heading in ("parameters", "multiply-adds")
        table.add_column(heading, justify="right" if number else "left", no_wrap=number or heading == "name")
    for row in rows:
        what = f"{row['summary']} ({row['source']})"
        table.add_row(
            row["name"],
            ", ".join(row["inputs"]),
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            ", ".join(f for f in row["forms"] if f not in FILES),
            what,
        )
    Console(highlight=False).print(table)
    print('\nA network in detail: edgekit models show NAME. Your own: model.name = "package.module:Class".')


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A network of the zoo, or package.module:Class.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[model.key=value …]", help="Settings, as in an experiment.")
    ] = None,
    shape: Annotated[str, typer.Option(help="One example's shape, as 3,32,32.")] = "",
    classes: Annotated[int, typer.Option(min=1, help="How many scores it gives.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what each layer of a network gives, and what it costs.

    Examples:

        edgekit models show mobilenetv2

        edgekit models show vit model.width=0.5 'model.arguments={attention = "performer"}' --shape 3,32,32
    """
    import json

    model, size = _network(name, settings, shape)

    from rich.console import Console
    from rich.table import Table

    from edgekit import objectives
    from edgekit.models import build
    from edgekit.models.cost import layers
    from edgekit.models.kinds import aim_of
    from edgekit.registry import MODELS
    from edgekit.section import Chosen

    aim = objectives.make(Chosen(name=aim_of(MODELS.load(name))))
    rows = layers(build(model, size, classes, 0, objective=aim), size)
    total = {
        "parameters": sum(row.parameters for row in rows),
        "macs": sum(row.macs for row in rows),
        "weight_bytes": sum(row.weight_bytes for row in rows),
        "activation_bytes": sum(row.activation_bytes for row in rows),
        "largest_activation_bytes": max((row.activation_bytes for row in rows), default=0),
    }
    if as_json:
        facts = [
            {**vars(row), "weight_bytes": row.weight_bytes, "activation_bytes": row.activation_bytes} for row in rows
        ]
        print(json.dumps({"name": name, "shape": list(size), "layers": facts, **total}, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "kind", "gives", "parameters", "multiply-adds", "bytes"):
        left = heading in ("layer", "kind", "gives")
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in rows:
        table.add_row(
            row.name or "(itself)", row.kind, " x ".join(map(str, row.output)), f"{row.parameters:,}", f"{row.macs:,}",
            f"{row.activation_bytes:,}",
        )  # fmt: skip
    Console(highlight=False).print(table)
    print(
        f"\n{name} of {' x '.join(map(str, size))}, {classes} classes, model.norm = {model.norm!r}: "
        f"{total['parameters']:,} parameters ({total['weight_bytes']:,} bytes in float32, a quarter in int8), "
        f"{total['macs']:,} multiply-adds; what its layers give takes {total['activation_bytes']:,} bytes, the largest "
        f"{total['largest_activation_bytes']:,}"
    )


@app.command()
def fit(
    name: Annotated[str, typer.Argument(help="A network of the zoo, or package.module:Class.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[model.key=value …]")] = None,
    device: Annotated[str, typer.Option(help="A device profile: see edgekit devices list.")] = "cortex-m4-256",
    shape: Annotated[str, typer.Option(help="Of one example, as 1,28,28; by default what the network is for.")] = "",
    classes: Annotated[int, typer.Option(min=1, help="Classes of its answer.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say whether a network fits a device, by its file and the memory that it takes when it runs; and what would.

    Exit status 1 where it does not fit.

    Examples:

        edgekit models fit keyword-dscnn --device cortex-m4-256

        edgekit models fit mobilenetv2 model.width=0.5 --shape 3,32,32 --device esp32-s3
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from edgekit.cli.terminal import Terminal
    from edgekit.devices import profile as profiles

    profile = profiles.load(device)
    model, size = _network(name, settings, shape)
    with Terminal(silent=as_json) as terminal:
        from edgekit.pipeline.fitting import fit as fitted

        found = fitted(model, size, classes, profile, terminal.notice)
    if as_json:
        print(
            json.dumps({"device": profile.name, "shape": list(size), "tried": [one.facts() for one in found]}, indent=2)
        )
        raise typer.Exit(0 if found[0].fits else 1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("width", "file", "flash", "of", "memory", "of", ""):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            f"{one.width:g}", f"{one.file:,}", f"{one.flash:,}", f"{one.has_flash:,}" if one.has_flash else "?",
            f"{one.ram:,}", f"{one.has_ram:,}" if one.has_ram else "?", "fits" if one.fits else "does not fit",
        )  # fmt: skip
    Console(highlight=False).print(table)
    told = (
        f", flash includes {(found[0].flash - found[0].file) // 1024} kB for kernels"
        if found[0].flash > found[0].file
        else ""
    )
    print(f"\n{profile.description}: {found[0].preset} file{told}; memory is {found[0].how}")
    if not found[0].fits:
        if found[-1].fits:
            print(f"{name} fits at model.width = {found[-1].width:g}")
        else:
            print(f"{name} does not fit at any width tried: fewer or smaller layers, or a smaller input")
        raise typer.Exit(1)


def _network(name: str, settings: list[str] | None, shape: str) -> tuple[Any, tuple[int, ...]]:
    """Return a network's section, and the shape of its examples."""
    import json

    from edgekit.cli.options import read_experiment
    from edgekit.errors import UsageError

    if odd := [one for one in settings or [] if not one.startswith("model.")]:
        raise UsageError(f"{odd[0]!r} is no setting of a network: give model.key=value, as model.width=0.5")
    given = _sizes(shape) if shape else ()
    model = read_experiment([f"model.name={json.dumps(name)}", *(settings or [])]).model

    from edgekit.models.kinds import usual_arguments, usual_shape
    from edgekit.registry import MODELS

    if given:
        return model, given
    kind = MODELS.load(name)
    return model.model_copy(update={"arguments": {**usual_arguments(kind), **model.arguments}}), usual_shape(kind)


def _sizes(text: str) -> tuple[int, ...]:
    from edgekit.errors import UsageError

    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--shape {text!r}: give whole numbers, as 3,32,32 or 16")
    return sizes
