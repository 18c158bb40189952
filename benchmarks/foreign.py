"""Networks that others wrote, of torchvision and timm, through edgekit's doors: float32, int8, the training graph.

    python benchmarks/foreign.py                      a table; makes an environment of its own with torchvision and timm
    python benchmarks/foreign.py --networks resnet18,timm:ghostnet_100 --json

Each network is built with 10 classes, its batch norms see 512 smooth random images of 3 x 48 x 48, and each is done in
a process of its own, which may take TIME_LIMIT seconds. A row:
    parameters              of the network
    float32_error           largest difference of a score to torch's, relative to the largest score, in LiteRT
    int8_error              likewise of the int8 file, on examples that it was not calibrated with; right up to 0.1
    int8_agreement          share of examples whose class stays, of those that lead by a tenth of the scores' range
    training_error          largest difference of a training step to torch's (batch norms frozen, no dropout)
    seconds                 CPU seconds of it all
    problems                what was refused, by form, and why
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NETWORKS = [
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5",
    "regnet_y_400mf", "efficientnet_b0", "googlenet", "convnext_tiny",
    "timm:vit_tiny_patch16_224", "timm:mixer_s32_224", "timm:ghostnet_100", "timm:edgenext_xx_small",
    "timm:convnext_atto", "timm:repvgg_a0",
]  # fmt: skip
SIZE, CLASSES, TIME_LIMIT = 48, 10, 900
FORMS = ("float32", "int8", "training")
RIGHT = 0.1
"""Error of an int8 file that is right, relative to the largest score."""


def environment(place: Path) -> Path:
    """Return the Python of an environment with torchvision and timm that sees this one's packages too."""
    python = place / "bin/python"
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
        library = next((place / "lib").glob("python3*")) / "site-packages"
        (library / "beside.pth").write_text("\n".join(one for one in sys.path if one.endswith("site-packages")))
        install = ["install", "--quiet", "--no-deps", "--target", str(library), "torchvision<0.29", "timm"]
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
        (place / "ready").touch()
    return python


def network(name: str) -> Any:
    """Build a network with 10 classes, its batch norms used to images."""
    import torch

    torch.manual_seed(0)
    declare_nms()
    if name.startswith("timm:"):
        import timm

        wanted = {"img_size": SIZE} if "patch" in name or "mixer" in name else {}
        model = timm.create_model(name[5:], num_classes=CLASSES, **wanted)
    else:
        import torchvision.models

        more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        model = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **more)
    with torch.no_grad():
        for part in images(512, 1).split(64):
            model.train()(part)
    return model.eval()


def declare_nms() -> None:
    """Declare operators of torchvision's, which no network here uses, where its library was made for another torch."""
    import importlib.util

    import torch

    found = importlib.util.find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    try:
        torch.ops.load_library(str(next(Path(found.origin).parent.glob("_C*.so"))))
    except (OSError, StopIteration):
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def images(many: int, seed: int) -> Any:
    """Return smooth random images (many, 3, SIZE, SIZE), of another contrast each."""
    import torch

    random = torch.Generator().manual_seed(seed)
    small = torch.rand(many, 3, 6, 6, generator=random) - 0.5
    large = torch.nn.functional.interpolate(small, SIZE, mode="bilinear", align_corners=False)
    return large * (0.5 + 3 * torch.rand(many, 1, 1, 1, generator=random))


def measured(name: str) -> dict[str, Any]:
    """Return one network's row."""
    import numpy as np
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    from edgekit.errors import EdgekitError
    from edgekit.export.convert import as_inputs, to_float32
    from edgekit.export.quantise import quantise
    from edgekit.export.tflite import as_device
    from edgekit.export.training.file import training_file
    from edgekit.export.training.steps import Options
    from edgekit.export.verify import run_examples
    from edgekit.models.freezing import train_only

    torch.set_num_threads(1)
    start, shape = time.process_time(), (3, SIZE, SIZE)
    model = network(name)
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "problems": {}}
    x, calibration = images(64, 2).numpy(), images(64, 3).numpy()
    with torch.no_grad():
        scores = model(torch.from_numpy(x)).numpy()
    largest = float(np.abs(scores).max())
    content = None
    try:
        content = to_float32(model, shape)
        row["float32_error"] = float(np.abs(run_examples(content, as_device(x)).scores - scores).max()) / largest
    except EdgekitError as error:
        row["problems"]["float32"] = str(error)
    try:
        if content is None:
            raise EdgekitError("there is no float32 file")
        small = quantise(content, "int8", as_inputs(shape, as_device(calibration)))
        found = run_examples(small, as_device(x)).scores
        row["int8_error"] = float(np.abs(found - scores).max()) / largest
        best = np.sort(scores, 1)
        clear = best[:, -1] - best[:, -2] > 0.1 * (scores.max() - scores.min())
        row["int8_agreement"] = float((found.argmax(1) == scores.argmax(1))[clear].mean()) if clear.any() else None
    except EdgekitError as error:
        row["problems"]["int8"] = str(error)
    try:
        norms = {place for place, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
        learnt = [one for one, _ in model.named_parameters() if one.rpartition(".")[0] not in norms]
        train_only(model, learnt)
        for layer in model.modules():  # as the message on dropout says
            if isinstance(layer, _DropoutNd):
                layer.p = 0.0
        _, row["training_error"] = training_file(model, shape, CLASSES, Options(2, private=False), {})
    except EdgekitError as error:
        row["problems"]["training"] = str(error)
    row["seconds"] = round(time.process_time() - start, 1)
    return row


def done(row: dict[str, Any], form: str) -> bool:
    """Whether a form is there and right."""
    error = row.get(f"{form}_error")
    return error is not None and error <= {"float32": 1e-3, "int8": RIGHT, "training": 1e-5}[form]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="by name, with commas")
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache/edgekit/foreign", help="its folder")
    parser.add_argument("--into", type=Path, help="a file that each row is written to as soon as it is there")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        arguments.into.write_text(json.dumps(measured(arguments.inside)))
        return
    python, rows = environment(arguments.environment), {}
    if not arguments.json:
        print(f"{'network':26} {'parameters':>10} {'float32':>9} {'int8':>9} {'training':>9} {'s':>6}")
    for name in arguments.networks.split(","):
        with tempfile.TemporaryDirectory() as place:
            into = Path(place) / "row.json"
            command = [str(python), str(Path(__file__).resolve()), "--inside", name, "--into", str(into)]
            row: dict[str, Any] = {"problems": {}}
            try:
                ran = subprocess.run(
                    command, cwd=place, env=dict(os.environ), capture_output=True, text=True, timeout=TIME_LIMIT
                )
                if into.exists():
                    row = json.loads(into.read_text())
                else:
                    row["problems"]["all"] = (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[-1]
            except subprocess.TimeoutExpired:
                row["problems"]["all"] = f"not done within {TIME_LIMIT} s"
        rows[name] = row
        if arguments.into:
            arguments.into.write_text(json.dumps(rows, indent=2))
        if not arguments.json:
            errors = [f"{row[key]:.0e}" if key in row else "-" for key in (f"{form}_error" for form in FORMS)]
            line = " ".join(f"{one:>9}" for one in errors)
            print(f"{name:26} {row.get('parameters', 0):10,} {line} {row.get('seconds', 0):6.0f}", flush=True)
            for form, why in row["problems"].items():
                print(f"    {form}: {why[:150]}", flush=True)
    counts = {form: sum(done(row, form) for row in rows.values()) for form in FORMS}
    if arguments.json:
        print(json.dumps({"benchmark": "foreign", "size": SIZE, "right": counts, "rows": rows}, indent=2))
    else:
        print(f"right, of {len(rows)}: " + ", ".join(f"{form} {many}" for form, many in counts.items()))


if __name__ == "__main__":
    main()
