"""A folder for whoever builds an app: the model, its labels, how data becomes its input, and code that uses it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit.data.settings import Audio, audio_of
from edgekit.data.unlabelled import Inputs, kind_of
from edgekit.errors import RunFolderError, UsageError
from edgekit.export.convert import device_shape
from edgekit.export.metadata import read_metadata
from edgekit.export.tflite import self_test_examples
from edgekit.pipeline import micro
from edgekit.pipeline.trained import facts_of
from edgekit.runfolder import RunFolder, write_whole

PREFERRED = ("int8", "float32")
"""Presets whose files take and give floats, the first that a run has."""
CODE = ("classify.py", "classify.mjs", "Classifier.kt", "Classifier.swift")
KINDS = {
    "image": "Pictures are resized to {height} x {width} (bilinear), {colours}, and divided by {divide_by}; channels "
    "last.",
    "audio": "Recordings of {sample_rate} samples a second become log-mel features: `log_mel` in classify.py is the "
    "formula.",
    "table": "Rows become {numbers} numbers: numbers as (value - mean) / std, a category as a 1 in its place, dates as "
    "their days since 1970 and places in year and week; gaps become the mean. Values that are not listed become zeros.",
    "array": "Arrays of the input's shape, divided by {divide_by}.",
}


def hand_over(path: Path, out: Path, preset: str = "") -> list[Path]:
    """Write the folder; return its files.

    Args:
        path: a finished run with .tflite files.
        out: the folder; it must not exist, or be empty.
        preset: which file; "" takes int8, or float32.

    Raises:
        UsageError: the folder is in use, or the run has no such file, or one without floats at its ends.
        RunFolderError: the run is not finished, or damaged.
    """
    folder = RunFolder.open(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already and is not empty: give another --app")
    result = folder.read_result()
    inputs, objective, decided, experiment = facts_of(folder)
    made = result.get("tflite") or {}
    if not isinstance(made, dict) or not all(isinstance(one, dict) and "path" in one for one in made.values()):
        raise RunFolderError(f"{folder.result} does not say which .tflite files there are")
    chosen = preset or next((one for one in PREFERRED if one in made), "")
    if chosen not in made:
        has = f"it has {', '.join(made)}" if made else "it has none"
        raise UsageError(
            f"{path} has no {chosen or 'int8 or float32'} .tflite, {has}: "
            f"edgekit export {path} --preset {preset or 'int8'}"
        )
    file = folder.export / Path(str(made[chosen]["path"])).name  # whatever result.json says, of this run
    if not file.is_file():
        raise RunFolderError(f"{file} is gone: edgekit export {path} --preset {chosen}")
    content = file.read_bytes()
    told = read_metadata(content) or {}
    try:
        ends = told["input"]["dtype"], told["output"]["dtype"]
        examples = self_test_examples(told["input"]["shape"][1:], int(told["input"].get("vocabulary", 0)))
        expected = told["self_test"]["scores"]
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(f"{file} does not say what it takes: edgekit export {path} makes it anew") from None
    facts = preprocessing(inputs)
    facts["output"] |= {"objective": objective.name, "classes": objective.of_classes, **decided}
    if chosen == micro.PRESET:
        if ends != ("int8", "int8"):
            raise UsageError(f"{chosen} takes {ends[0]} and gives {ends[1]} here, a sketch is for int8: --preset int8")
        return micro.write(content, facts, examples, _words(experiment.name, result, facts, chosen), out)
    if ends != ("float32", "float32"):
        raise UsageError(f"{chosen} takes and gives {ends[0]}: the code here is for floats, take --preset int8")
    out.mkdir(parents=True, exist_ok=True)
    room = files("edgekit.export").joinpath("app")
    texts = {name: room.joinpath(name).read_text() for name in CODE}
    texts["labels.txt"] = "".join(f"{' '.join(name.split())}\n" for name in inputs.classes)
    texts["preprocessing.json"] = json.dumps(facts, indent=1) + "\n"
    texts["example.json"] = json.dumps({"inputs": examples.round(6).tolist(), "scores": expected}) + "\n"
    texts["README.md"] = _readme(experiment.name, result, facts, chosen, len(content))
    write_whole(out / "model.tflite", content)
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / "model.tflite", *(out / name for name in sorted(texts))]


def preprocessing(inputs: Inputs) -> dict[str, Any]:
    """Return how raw data becomes a network's input, as plain facts."""
    shape, held = inputs.shape, inputs.normalisation
    kind = kind_of(shape, held)
    facts: dict[str, Any] = {
        "version": 1,
        "kind": kind,
        "input": {
            "shape": [1, *device_shape(tuple(shape))],
            "layout": "NHWC" if len(shape) == 3 else "NC",
            "dtype": "float32",
        },
        "divide_by": inputs.scale(),
        "output": {"labels": list(inputs.classes)},
    }
    if kind == "table":
        facts |= {"columns": held["columns"], "headings": held.get("headings", [])}
    elif kind == "audio":
        facts["audio"] = audio_of(held, Audio()).model_dump(exclude={"pattern"})
    elif kind == "image":
        channels, height, width = shape
        facts["image"] = {
            "channels": channels,
            "height": height,
            "width": width,
            "divide_by": 255,
            "resample": "bilinear",
        }
    return facts


def _readme(name: str, result: dict[str, Any], facts: dict[str, Any], preset: str, size: int) -> str:
    template = files("edgekit.export").joinpath("app/README.md").read_text()
    return template.format(**_words(name, result, facts, preset), size=size)


def _words(name: str, result: dict[str, Any], facts: dict[str, Any], preset: str) -> dict[str, Any]:
    """Return what a README tells of a model."""
    measure = result.get("objective", {}).get("measure", "accuracy")
    kind, image = facts["kind"], facts.get("image", {})
    words = {
        **image,
        **facts.get("audio", {}),
        "divide_by": image.get("divide_by", facts["divide_by"]),
        "numbers": facts["input"]["shape"][-1],
        "colours": "grey" if image.get("channels") == 1 else "in colours",
    }
    return {
        "name": name,
        "edgekit": result["versions"]["edgekit"],
        "measure": measure,
        "score": f"{result['tflite'][preset][measure]:.4f}",
        "privacy": result["privacy_statement"],
        "preset": preset,
        "shape": tuple(facts["input"]["shape"]),
        "outputs": len(facts["output"]["labels"]),
        "kind": KINDS[kind].format(**words),
    }
