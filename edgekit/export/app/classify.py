"""What a model of edgekit says of new examples: python classify.py FILE …

Needs numpy, LiteRT (ai-edge-litert or tflite-runtime), and Pillow for pictures. `preprocessing.json` beside it says how
raw data becomes what the model takes; nothing here depends on edgekit.
"""

import csv
import datetime
import json
import math
import re
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FACTS: dict[str, Any] = json.loads((HERE / "preprocessing.json").read_text())
MISSING = {"", "?", "-", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "none"}


def interpreter() -> Any:
    """Return the model, ready to run."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    made = Interpreter(str(HERE / "model.tflite"))
    made.allocate_tensors()
    return made


def scores(model: Any, x: Any) -> Any:
    """Return what the model gives for one example, prepared: (outputs,)."""
    source, target = model.get_input_details()[0], model.get_output_details()[0]
    model.set_tensor(source["index"], np.asarray(x, np.float32).reshape(source["shape"]))
    model.invoke()
    return model.get_tensor(target["index"])[0]


def from_picture(path: str) -> Any:
    """Return a picture as the model takes it: (height, width, channels), from 0 to 1."""
    from PIL import Image

    facts = FACTS["image"]
    with Image.open(path) as picture:
        plain = picture.convert("L" if facts["channels"] == 1 else "RGB")
        plain = plain.resize((facts["width"], facts["height"]), Image.Resampling.BILINEAR)
    return np.asarray(plain, np.float32).reshape(facts["height"], facts["width"], -1) / facts["divide_by"]


def from_recording(path: str) -> Any:
    """Return a 16-bit wav of the model's rate as log-mel features: (mel bands, frames, 1)."""
    facts = FACTS["audio"]
    with wave.open(path) as file:
        rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
        data = file.readframes(file.getnframes())
    if rate != facts["sample_rate"] or width != 2:
        raise SystemExit(f"{path}: {facts['sample_rate']} samples a second of 16 bits are needed, these are {rate}")
    samples = np.frombuffer(data, "<i2").reshape(-1, channels).mean(1).astype(np.float32) / 32768
    return log_mel(samples)


def log_mel(samples: Any) -> Any:
    """Return log-mel features of samples from -1 to 1: the formulas of preprocessing.json."""
    facts = FACTS["audio"]
    rate, bands = facts["sample_rate"], facts["mel_bands"]
    window, hop = round(rate * facts["window_ms"] / 1000), round(rate * facts["hop_ms"] / 1000)
    length = max(round(rate * facts["seconds"]), window)
    samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2 / (window / 4) ** 2
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = np.floor((window + 1) * 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1) / rate)
    bins = np.arange(window // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = np.where((bins >= low) & (bins < peak), (bins - low) / np.maximum(peak - low, 1), 0)
    falling = np.where((bins >= peak) & (bins < high), (high - bins) / np.maximum(high - peak, 1), 0)
    decibels = 10 * np.log10(np.maximum(power @ (rising + falling).T, 1e-8))
    return np.clip(decibels / 80 + 1, 0, 1.5).T[..., None].astype(np.float32)


def from_row(row: dict[str, str]) -> Any:
    """Return a table's row as the model takes it: (numbers,)."""
    found: list[float] = []
    for column in FACTS["columns"]:
        text = row[column["name"]].strip()
        if column["kind"] == "category":
            found += [float(text == value) for value in column["values"]]
            continue
        lost = text in MISSING
        if column["kind"] == "number":
            value = float("nan") if lost else float(text)
            lost = not math.isfinite(value)
            value = column["mean"] if lost else value
        else:
            moment = datetime.datetime(1970, 1, 1) if lost else datetime.datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
            value = column["mean"] if lost else (moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
        found.append((value - column["mean"]) / column["std"])
        found += [float(lost)] if column["missing"] else []
        if column["kind"] == "date":
            for cycle, begin in ((365.2425, 0), (7.0, 3), *([(1.0, 0)] if column["clock"] else [])):
                days = value if cycle == 1.0 else math.floor(value) + begin
                turn = 2 * math.pi * (days % cycle) / cycle
                found += [0.0, 0.0] if lost else [math.sin(turn), math.cos(turn)]
    return np.array(found, np.float32)


def examples(path: str) -> Any:
    """Yield the examples of a file: a name, and what the model takes."""
    kind = FACTS["kind"]
    if kind == "table":
        with open(path, newline="", encoding="utf-8-sig") as file:
            start = file.read(1 << 16)
            file.seek(0)
            separator = max(",;\t|", key=start.partition("\n")[0].count)
            commas = separator == ";" and re.search(r"(^|;)-?\d+,\d+(;|$)", start, re.MULTILINE)
            rows = csv.reader(file, delimiter=separator)
            names = [name.strip() for name in next(rows)]
            for number, row in enumerate(rows, 1):
                held = dict(zip(names, row, strict=False))
                if commas:
                    held = {name: re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", text) for name, text in held.items()}
                yield f"{path}:{number}", from_row(held)
    elif kind == "image":
        yield path, from_picture(path)
    elif kind == "audio":
        yield path, from_recording(path)
    else:
        for number, x in enumerate(np.load(path, allow_pickle=False)):
            yield f"{path}:{number}", x.astype(np.float32) / FACTS["divide_by"]


def answer(found: Any) -> str:
    """Return scores in words."""
    labels = FACTS["output"]["labels"]
    if not FACTS["output"]["classes"]:
        return ", ".join(f"{label} {value:.6g}" for label, value in zip(labels, found, strict=False))
    chances = np.exp(found - found.max())
    chances /= chances.sum()
    return f"{labels[int(chances.argmax())]} {chances.max():.6f}"


if __name__ == "__main__":
    running = interpreter()
    for given in sys.argv[1:]:
        for name, example in examples(given):
            print(f"{name}: {answer(scores(running, example))}")
