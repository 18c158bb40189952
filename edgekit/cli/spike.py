"""`edgekit spike`: spiking forms of networks, run, verified and looked at."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.options import Arguments, AsJson, Model, Trust, Weights, json_object, open_run

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that one run of Lava may take.")]


@app.callback()
def spike() -> None:
    """Spiking networks: make them from a run, a module or a .nir file; hold them against Lava; look at them."""


@app.command()
def run(
    source: Annotated[
        Path | None, typer.Argument(metavar="[RUN|FILE.nir]", help="A finished run's folder, or a .nir file.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value …]", help="Keys of [spiking], as reset=hard.")
    ] = None,
    backend: Annotated[str, typer.Option(help="emulator, lava or snntorch.")] = "emulator",
    steps: Annotated[int | None, typer.Option(min=1, max=256, help="Time steps.")] = None,
    examples: Annotated[int, typer.Option(help="With lava and snntorch: test examples to run.")] = 20,
    model: Model = None,
    arguments: Arguments = "{}",
    weights: Weights = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --model or a .nir file: .npz with x and y.")
    ] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="With a .nir file: length of a step; 0.0001 by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --model or a .nir file: the folder; by default spiking/.")
    ] = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Make the spiking form, and measure accuracy, spikes, energy and cores; or run it in another backend.

    Examples:

        edgekit spike run runs/digits-001 --steps 16 reset=hard

        edgekit spike run runs/digits-001 --backend lava --examples 10

        edgekit spike run network.nir --data examples.npz

        edgekit spike run --model mynets:Net --weights net.safetensors --data examples.npz
    """
    from edgekit import experiment as experiments
    from edgekit.cli.terminal import Terminal
    from edgekit.errors import UsageError

    words = changes or []
    if source is not None and "=" in str(source) and not source.exists():
        words, source = [str(source), *words], None
    if wrong := [word for word in words if "=" not in word]:
        raise UsageError(f"{wrong[0]!r} is not of the form key=value, as in reset=hard")
    chosen: dict[str, Any] = dict(word.split("=", 1) for word in words)
    if steps is not None:
        chosen["steps"] = steps
    if backend not in ("emulator", "lava", "snntorch"):
        raise UsageError(f"--backend {backend}: there are emulator, lava and snntorch")
    if (source is None) == (model is None):
        raise UsageError("give a run's folder or a .nir file, or a module by --model package.module:Class")
    alone = source is None or source.suffix == ".nir"
    if alone and data is None:
        raise UsageError("give examples by --data FILE.npz, with x and y")
    if alone and backend != "emulator":
        raise UsageError(f"--backend {backend} is for runs; `edgekit spike verify` holds any network against Lava")
    misplaced = {"--data": data, "--out": out, "--weights": weights, "--step-seconds": step_seconds}
    if not alone and (given := [option for option, value in misplaced.items() if value is not None]):
        raise UsageError(f"{given[0]} belongs to --model or a .nir file; a run has its own")
    parsed = json_object("--arguments", arguments)
    for option, file in (("--weights", weights), ("--data", data), ("FILE", source if alone else None)):
        if file is not None and not file.is_file():
            raise UsageError(f"{option} {file} does not exist")
    folder = None if alone or source is None else open_run(source)
    experiments.load(folder.experiment if folder else None, [f"spiking.{key}={value}" for key, value in chosen.items()])
    with Terminal(silent=as_json) as terminal:
        terminal.stage("spiking")
        from edgekit.pipeline import lava, spiking_again

        if model is not None:
            assert data is not None
            place = out or Path("spiking")
            facts = spiking_again.spike_module(model, parsed, weights, data, chosen, place, terminal.notice)
        elif alone:
            assert source is not None
            assert data is not None
            facts = spiking_again.spike_file(
                source, data, chosen, out or Path("spiking"), step_seconds, terminal.notice
            )
        else:
            assert source is not None
            facts = {}
            if backend == "emulator" or chosen:
                facts = spiking_again.spike_run(source, chosen, terminal.notice)
            if backend == "lava":
                facts = lava.run_in_lava(source, examples, timeout, terminal.notice)
            elif backend == "snntorch":
                facts = lava.run_in_snntorch(source, examples, terminal.notice)
        if as_json:
            terminal.result(facts)
        elif backend == "emulator":
            for line in table(facts):
                terminal.notice(line)


def table(facts: dict[str, Any]) -> list[str]:
    """Return accuracy by steps, and the layers on the chip, as lines."""
    lines = ["", f"{'steps':>6} {'float':>8} {'loihi':>8} {'energy uJ':>10}"]
    for steps, row in facts["by_steps"].items():
        energy = 1e6 * row["energy_joules_estimate"]
        lines.append(f"{steps:>6} {row['float']:8.4f} {row['loihi']:8.4f} {energy:10.3f}")
    early = facts["early_decision"]
    lines.append(f"deciding when sure: accuracy {early['accuracy']:.4f} in {early['steps']:.2f} steps on average")
    for found in facts["resources"].values():
        lines += [
            "",
            f"{found['chip']}: {found['cores']} cores, {found['neurons']:,} neurons, {found['synapses']:,} synapses",
        ]
        lines.append(
            f"  {'layer':<20} {'neurons':>8} {'synapses':>10} {'bytes':>9} {'fan-in':>7} {'fan-out':>8} {'cores':>6}"
        )
        for layer in found["layers"]:
            lines.append(
                f"  {layer['name'][:20]:<20} {layer['neurons']:>8,} {layer['synapses']:>10,} "
                f"{layer['synapse_bytes']:>9,} {layer['fan_in']:>7,} {layer['fan_out']:>8,} {layer['cores']:>6}"
            )
    lines.append("energy is an estimate without static power, not measured on a chip")
    return lines


@app.command()
def verify(
    source: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A finished run's folder; without it, random networks.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Samples of the run to compare.")] = 3,
    random: Annotated[int, typer.Option(min=0, help="Random networks to compare.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the first random network.")] = 0,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Run the emulator and Intel's Lava side by side, and compare every spike, current and voltage.

    Example:

        edgekit spike verify runs/digits-001 --examples 3 --random 20
    """
    from edgekit.cli.terminal import Terminal
    from edgekit.errors import UsageError

    if source is not None:
        open_run(source)
    elif not random:
        raise UsageError("nothing to compare: give a run's folder, or --random 1 or more")
    with Terminal(silent=as_json) as terminal:
        terminal.stage("verify")
        from edgekit.pipeline import lava

        facts = lava.verify(source, examples, random, seed, timeout, terminal.notice)
        if as_json:
            terminal.result(facts)


@app.command()
def plot(
    source: Run,
    example: Annotated[
        int | None, typer.Option(min=0, help="Number of a test example; by default one it gets right.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder; by default RUN/spiking/plots.")] = None,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Draw spikes, voltages, rates, accuracy and energy by time steps, and early decisions, as .svg files.

    Example:

        edgekit spike plot runs/digits-001 --example 7
    """
    from edgekit.cli.terminal import Terminal

    open_run(source)
    with Terminal(silent=as_json) as terminal:
        terminal.stage("plot")
        from edgekit.pipeline import plotting

        files = plotting.plot(source, example, out)
        for file in files:
            terminal.notice(str(file))
        if as_json:
            terminal.result({"files": [str(file) for file in files]})


@app.command()
def export(
    source: Run,
    to: Annotated[
        str, typer.Option(help="netx (lava-dl's HDF5) or lava (a script with network and samples).")
    ] = "netx",
    out: Annotated[Path | None, typer.Option(help="The file or folder; by default in RUN/spiking.")] = None,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Write a run's integers for other tools: lava-dl's netx, or a script that runs them in Lava or on a Loihi 2 chip.

    Example:

        edgekit spike export runs/digits-001 --to lava
    """
    from edgekit.cli.terminal import Terminal
    from edgekit.errors import UsageError

    if to not in ("netx", "lava"):
        raise UsageError(f"--to {to}: there are netx and lava")
    open_run(source)
    with Terminal(silent=as_json) as terminal:
        terminal.stage("spiking export")
        from edgekit.pipeline import lava

        facts = lava.export(source, to, out, terminal.notice)
        if as_json:
            terminal.result(facts)


@app.command("setup-lava")
def setup_lava(
    again: Annotated[bool, typer.Option("--again", help="Make it anew.")] = False, as_json: AsJson = False
) -> None:
    """Install Intel's Lava in a Python 3.10 of its own, and see that it works.

    Example:

        edgekit spike setup-lava
    """
    from edgekit.cli.terminal import Terminal

    with Terminal(silent=as_json) as terminal:
        terminal.stage("lava")
        from edgekit.pipeline import lava

        facts = lava.setup(again, terminal.notice)
        if as_json:
            terminal.result(facts)
