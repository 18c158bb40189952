"""`edgekit inspect`: what a file of ours, or any .tflite, holds; and whether it works."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tflite, .safetensors, .nir or .npz file.")],
    check: Annotated[bool, typer.Option("--check", help="Run a .tflite in the runtimes, and compare.")] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="With --check: ai-edge-litert, tflite-runtime (those that are installed), tflite-micro."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="With --check: the run whose test set and network to hold it to.")
    ] = None,
    npu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Estimate a .tflite on an Arm accelerator, as ethos-u55-128.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show what a file holds. With --check a .tflite is run: by its run's test set, its self-test, or random numbers.

    Examples:

        edgekit inspect runs/digits-001/export/int8.tflite --check

        edgekit inspect runs/digits-001/export/int8-full.tflite --npu ethos-u55-128
    """
    import json

    from rich.console import Console

    from edgekit.errors import UsageError
    from edgekit.export.settings import Runtime
    from edgekit.pipeline import inspecting

    if unknown := [name for name in runtime or [] if name not in get_args(Runtime)]:
        raise UsageError(f"--runtime {unknown[0]}: there are {', '.join(get_args(Runtime))}")
    facts = inspecting.inspect(file)
    if npu is not None:
        facts["npu"] = inspecting.npu(file, npu)
    if check:
        facts["check"] = inspecting.check(file, runtime, run)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False)
    for line in _lines(facts):
        console.print(line, markup=False, soft_wrap=True)


def _lines(facts: Any, indent: str = "") -> list[str]:
    """Return nested facts as indented lines."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and len(str(value)) > 200:
            lines.append(f"{indent}{name}: {len(value)} entries")
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines
