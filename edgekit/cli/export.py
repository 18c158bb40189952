"""`edgekit export`: .tflite files of a run, or of a module of the user's."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.options import Arguments, AsJson, Model, Trust, Weights, json_object, open_run


def export(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A finished run's folder.")] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="float32, float16, int8-weights, int8-dynamic, int8, int8-mixed, int8-full, int16, int4; can be given "
            "several times. By default those of the run's experiment."
        ),
    ] = None,
    training: Annotated[bool, typer.Option("--training", help="Write the training graph, training.tflite.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Examples a step of the training graph.")] = None,
    private: Annotated[
        bool, typer.Option("--private/--no-private", help="Whether the training graph has a private step.")
    ] = True,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Runtimes to check in: ai-edge-litert, tflite-runtime, tflite-micro; several times for several."
        ),
    ] = None,
    model: Model = None,
    arguments: Arguments = "{}",
    weights: Weights = None,
    sample: Annotated[str, typer.Option(metavar="1,C,H,W", help="With --model: the shape of one input.")] = "",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --model: real inputs, .npz with x and y or .npy; int8 needs them."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="With --model: share of answers that a file may change.")
    ] = 0.01,
    name: Annotated[str, typer.Option(help="With --model: the model's name, for the files' cards.")] = "",
    licence: Annotated[str, typer.Option(help="The model's licence, for the files' cards.")] = "",
    out: Annotated[Path | None, typer.Option(help="With --model: the folder; by default export/.")] = None,
    app: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a folder for an app's developer: model, labels, code."),
    ] = None,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Write .tflite files, each run in the runtimes that devices have and held against torch before it counts.

    Examples:

        edgekit export runs/digits-001 --preset int8-full --preset float16 --runtime tflite-runtime

        edgekit export runs/digits-001 --training

        edgekit export runs/digits-001 --app for-the-app

        edgekit export --model mynets:Net --weights net.safetensors --sample 1,1,28,28
    """
    from typing import get_args

    from edgekit.cli.terminal import Terminal
    from edgekit.errors import UsageError
    from edgekit.export.settings import Runtime
    from edgekit.plugins import is_import_path
    from edgekit.registry import PRESETS

    presets: list[Any] = preset or []
    for option, given, known in (("--preset", presets, tuple(PRESETS)), ("--runtime", runtime, get_args(Runtime))):
        if unknown := [value for value in given or [] if value not in known and not is_import_path(value)]:
            raise UsageError(f"{option} {unknown[0]}: there are {', '.join(known)}")
    if (run is None) == (model is None):
        raise UsageError("give a run's folder, or a module by --model package.module:Class")
    alone = {"--weights": weights, "--sample": sample, "--calibration": calibration, "--out": out, "--name": name}
    if run is not None and (misplaced := [option for option, value in alone.items() if value]):
        raise UsageError(f"{misplaced[0]} belongs to --model; a run's files go into its folder")
    parsed, size = json_object("--arguments", arguments), [] if model is None else _shape(sample)
    for option, file in (("--weights", weights), ("--calibration", calibration)):
        if file is not None and not file.is_file():
            raise UsageError(f"{option} {file} does not exist")
    if run is not None:
        open_run(run)
    if app is not None:
        if training or batch or runtime:
            raise UsageError("--app takes a file that is there already: leave --training, --batch and --runtime out")
        _hand_over(run, app, presets, as_json)
        return
    with Terminal(silent=as_json) as terminal:
        terminal.stage("export")
        from edgekit.pipeline import exporting

        if run is not None:
            facts = exporting.export_run(
                run, presets, training, runtime or [], batch, private, licence, terminal.notice
            )
        else:
            assert model is not None
            from edgekit.export.training.steps import Options

            facts = exporting.export_module(
                model,
                parsed,
                weights,
                size,
                calibration,
                presets or ([] if training else ["float32"]),
                runtime or ["ai-edge-litert"],
                Options(batch or 16, private=private) if training else None,
                tolerance,
                out or Path("export"),
                name or model.partition(":")[2],
                licence,
                terminal.notice,
            )
        if as_json:
            terminal.result(facts)


def _hand_over(run: Path | None, app: Path, presets: list[str], as_json: bool) -> None:
    import json

    from edgekit.errors import UsageError
    from edgekit.pipeline.handing import hand_over

    if run is None or len(presets) > 1:
        raise UsageError("--app is of a run, and of one --preset")
    written = hand_over(run, app, presets[0] if presets else "")
    if as_json:
        print(json.dumps({"folder": str(app), "files": [path.name for path in written]}))
        return
    print(f"Wrote {app}: {', '.join(path.name for path in written)}")


def _shape(text: str) -> list[int]:
    from edgekit.errors import UsageError

    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or sizes[0] != 1 or min(sizes) < 1:
        raise UsageError(f"--sample {text!r}: give one input's shape with a batch of 1, as 1,1,28,28")
    return sizes
