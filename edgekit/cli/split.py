"""`edgekit split`: what split learning costs, and what its server learns."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import AsJson, ExperimentArguments, Trust, read_experiment
from edgekit.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Figure = typer.Option(min=0, help="Instead of the profile's.", show_default=False)


@app.callback()
def split() -> None:
    """Split learning: what each cut costs a device, and what the server learns. `edgekit run` trains with [split]."""


@app.command()
def plan(
    arguments: ExperimentArguments = None,
    device: Annotated[str, typer.Option(help="A device profile, by name or a file NAME.toml.")] = "raspberry-pi-4",
    mbit_up: Annotated[float | None, Figure] = None,
    mbit_down: Annotated[float | None, Figure] = None,
    latency_ms: Annotated[float | None, Figure] = None,
    gflops: Annotated[float | None, Figure] = None,
    busy_watts: Annotated[float | None, Figure] = None,
    memory_mb: Annotated[float | None, Figure] = None,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Compare federated averaging with each cut: what one round costs a device. Estimates, from its profile.

    Seconds are of the device and its link; the server's own are left out. `edgekit devices doctor` measures a board and
    writes its profile.

    Examples:

        edgekit split plan mine.toml --device raspberry-pi-4 --mbit-up 10 --mbit-down 40 --latency-ms 20 --gflops 8

        edgekit split plan model.name=mobilenetv2 split.codec=int8 --device board.toml
    """
    import json
    from dataclasses import asdict

    from edgekit.devices import profile as profiles

    experiment = read_experiment(arguments)
    found_profile = profiles.load(device)
    if experiment.split.parties:
        raise UsageError("split.parties have a network of their own each: there are no cuts to compare")

    from edgekit.algorithms.split.plan import best, compare, verdict, with_figures
    from edgekit.data import load
    from edgekit.models import build

    figures = {"mbit_up": mbit_up, "mbit_down": mbit_down, "latency_ms": latency_ms, "gflops": gflops}
    profile = with_figures(found_profile, {**figures, "busy_watts": busy_watts, "memory_mb": memory_mb})
    dataset = load(experiment.data, experiment.seed)
    model = build(experiment.model, dataset.shape, len(dataset.classes), experiment.seed)
    examples = dataset.examples_a_client
    ways = compare(model, dataset.shape, examples, experiment.training.plain(), experiment.split, profile)
    chosen = best(ways)
    if as_json:
        found = {"ways": [asdict(way) for way in ways], "best": chosen.name, "examples": examples}
        print(json.dumps({**found, "verdict": verdict(ways)}, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    def amount(value: float | None, form: str = ",.2f") -> str:
        return "?" if value is None else format(value, form)

    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    for heading in ("cut behind", "parameters", "memory MB", "M MACs", "MB up", "MB down", "seconds", "joules"):
        table.add_column(heading, justify="left" if heading == "cut behind" else "right", no_wrap=True)
    for way in ways:
        table.add_row(
            way.name, f"{way.parameters:,}", f"{way.memory_mb:,.2f}" + (" !" if way.fits is False else ""),
            f"{way.macs / 1e6:,.1f}", f"{way.bytes_up / 1e6:,.3f}", f"{way.bytes_down / 1e6:,.3f}",
            amount(way.seconds), amount(way.joules), style="bold" if way is chosen else None,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(f"one round of {experiment.training.epochs} epochs over {examples} examples, on {profile.name}")
    console.print(table)
    if ways[0].joules is None:
        console.print(
            "[dim]?: the profile does not say; give --gflops, --mbit-up, --mbit-down (and --busy-watts)[/dim]"
        )
    console.print(verdict(ways))


@app.command()
def attack(
    arguments: ExperimentArguments = None,
    out: Annotated[Path, typer.Option(help="Folder for attack.json and rebuilt.svg.")] = Path("attack"),
    rounds: Annotated[int, typer.Option(help="Rounds to train before the attack.", min=1, max=1000)] = 5,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Attack split learning as an honest but curious server: rebuild examples, and guess labels.

    The experiment is trained for a few rounds without a defence, with NoPeek's penalty, and with noise against the
    server; then one more round of some clients is listened to. The server rebuilds examples from activations by what
    its own test examples taught it, and guesses labels from the gradients that devices send.

    Examples:

        edgekit split attack split.cut=layers.2

        edgekit split attack mine.toml split.cut=auto privacy.epsilon=20 --rounds 10 --out attack-20
    """
    import json

    from edgekit.cli.terminal import Terminal

    experiment = read_experiment(arguments)

    from edgekit.pipeline.attacking import attack_split, table

    federation = experiment.federation.model_copy(update={"rounds": rounds, "evaluate_every": rounds})
    experiment = experiment.model_copy(update={"federation": federation})
    with Terminal(silent=as_json) as terminal:
        found = attack_split(experiment, out, terminal.notice, lambda name: terminal.notice(f"training: {name}"))
    if as_json:
        print(json.dumps(found, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    heading, *rows = table(found)
    shown = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    for name in heading:
        shown.add_column(name, justify="left" if name == heading[0] else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False)
    console.print(
        f"cut behind {found['cut']}, {found['rounds']} rounds, then {found['victims']} examples of devices attacked"
    )
    console.print(shown)
    console.print(
        "rebuilt: share of the pixels' variance; recognised: examples nearest to their own picture; labels: guessed "
        f"from gradients (the commonest label alone would be right in {100 * found['chance']:.0f} %)"
    )
    console.print(f"{out / 'attack.json'}" + (f", {out / 'rebuilt.svg'}" if (out / "rebuilt.svg").exists() else ""))
