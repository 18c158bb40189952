"""`edgekit privacy`: what was spent of data's privacy, and whether the noise is what it is said to be."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import AsJson, ExperimentArguments, Trust, read_experiment

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def privacy() -> None:
    """Privacy: what was spent, what is not covered, and an audit. `edgekit run` trains with [privacy]."""


@app.command()
def report(
    place: Annotated[Path, typer.Argument(help="A run folder, a node's, or a ledger of several runs.")],
    as_json: AsJson = False,
) -> None:
    """Read a ledger again, and say what was spent, by which count, and what that does not cover.

    Examples:

        edgekit privacy report runs/digits-001

        edgekit privacy report ~/.local/share/edgekit/node --json

        edgekit privacy report patients.ledger
    """
    import json

    from edgekit.pipeline import privacy_report

    found = privacy_report.of(place)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found.get('run') or found.get('node') or found['ledger']}: protects {found['protected']}")
    if "epsilon" in found:
        limit = f" of {found['of']:g}" if found["of"] else ""
        counted = f"in {found['rounds']} rounds, counted by {found['accountant']}"
        print(f"  spent   epsilon {found['epsilon']:.4g}{limit} at delta {found['delta']:g}, {counted}")
        for charge in found["charges"]:
            print(
                f"  of it   {charge['steps']} steps, noise multiplier {charge['noise_multiplier']:.4g}, "
                f"sample rate {charge['sample_rate']:.4g}"
            )
        for run, share in found.get("runs", {}).items():
            print(f"  of it   {100 * share:.4g} % of the total by {run}")
        if "left" in found:
            print(f"  left    {100 * found['left']:.4g} % of the total")
        whole = "follows line by line" if found["whole"] else "DOES NOT REACH THE CHECKPOINT: lines were cut"
        print(f"  ledger  {whole}")
    for title, lines in (("claims", [found.get("neighbours")]), ("holds", found["holds"]), ("open", found["open"])):
        for line in filter(None, lines):
            print(f"  {title:7} {line}")


@app.command()
def ledger(
    file: Annotated[Path, typer.Argument(help="Made new; `privacy.ledger` of experiments names it.")],
    epsilon: Annotated[float, typer.Option(min=1e-3, max=100, help="What all runs together may spend.")],
    delta: Annotated[float, typer.Option(min=1e-300, max=0.001, help="The other half of the guarantee.")] = 1e-5,
    unit: Annotated[str, typer.Option(help="Whose data it protects: example or client.")] = "example",
    order: Annotated[int, typer.Option(help="Of the Renyi divergence that adds up; 0 takes a Gaussian's best.")] = 0,
) -> None:
    """Fix what all runs on the same data may spend together, before the first of them.

    Each run that names the file is charged there too, and none starts that would go past the total. FILE.key knows the
    data, FILE.head shows whether lines are missing: keep the three together.

    Examples:

        edgekit privacy ledger patients.ledger --epsilon 8

        edgekit run mine.toml privacy.ledger=patients.ledger privacy.randomness=system privacy.epsilon=3
    """
    from edgekit.errors import UsageError
    from edgekit.privacy.filter import Filter, Total, best_order

    if unit not in ("example", "client"):
        raise UsageError(f"--unit {unit!r}: it is example or client")
    order = order or best_order(epsilon, delta)
    Filter.create(file, Total(epsilon, delta, unit, order))
    print(
        f"{file}: all runs that name it spend epsilon {epsilon:g} at delta {delta:g} of one {unit} together, counted "
        f"by a Renyi filter of order {order}"
    )


@app.command()
def audit(
    arguments: ExperimentArguments = None,
    canaries: Annotated[int, typer.Option(help="Units of the auditor's, each in by chance 1/2: 20 to 20000.")] = 1000,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Hold an experiment's claim against what its own rounds give: a lower bound on epsilon by canaries.

    Canaries go through the experiment's mechanism, rounds, method and trainer, by a network of their own that shows
    what each moves; nothing of its data is used, and nothing is charged. What they can show is limited by their number:
    a claim above that cannot be refuted, which is said. Ends with 1 where the bound is above the claim.

    Examples:

        edgekit privacy audit privacy.unit=client privacy.epsilon=2

        edgekit privacy audit mine.toml federation.rounds=5 --canaries 5000 --json
    """
    import json

    experiment = read_experiment(arguments)

    from edgekit.cli.terminal import Terminal
    from edgekit.pipeline.auditing import audit_experiment

    with Terminal(silent=as_json) as terminal:
        found = audit_experiment(experiment, canaries, terminal.notice, terminal.round)
    if as_json:
        print(json.dumps(found, indent=2))
        raise typer.Exit(0 if found["holds"] else 1)
    whose = f"one {found['unit']}, noise by the {found['noise']}, {found['rounds']} rounds, {found['trainer']}"
    sure = f"{100 * found['confidence']:g} % sure"
    print(f"claim      epsilon {found['claim']:.4g} at delta {found['delta']:g} for {whose}")
    print(f"at least   {found['by_noise']:.4g} by the size of the noise beside what canaries move; {sure}")
    print(
        f"at least   {found['one_run']:.4g} by guesses about {found['guesses']} of {found['canaries']} canaries, "
        f"{found['right']} of them right; {sure}. More than {found['one_run_at_most']:.4g} so many cannot show"
        + (", so they cannot refute this claim" if found["claim"] > found["one_run_at_most"] else "")
    )
    if found["holds"]:
        print("nothing speaks against the claim")
        return
    print(f"REFUTED: the claim is {found['claim']:.4g}, but it is at least {found['at_least']:.4g}")
    raise typer.Exit(1)
