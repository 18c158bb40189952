"""Files for devices: size, accuracy and latency by number format, group norm's price, and the training step.

    python benchmarks/tflite.py             tables
    python benchmarks/tflite.py --json      for machines
    python benchmarks/tflite.py --quick     less training, DS-CNN only

Networks learn MNIST where EDGEKIT_DATA names a folder that has it, else scikit-learn's digits. One thread throughout.
Ratios compare medians that were taken in turns within one run; torch's own are taken in the same process.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter
from torch import nn
from torch.func import functional_call, grad, vmap

from edgekit.data import FederatedDataset
from edgekit.data import load as load_data
from edgekit.data.settings import Data
from edgekit.export.convert import to_float32
from edgekit.export.metadata import add_metadata
from edgekit.export.quantise import quantise
from edgekit.export.tflite import as_device
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.export.verify import run_examples
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.registry import PRESETS

NETS = {
    "dscnn": {"arguments": {"channels": [64, 128, 256, 256]}},
    "mobilenetv2": {"width": 0.35},
}
TRAINED = {"dscnn": ["none", "group", "weight-standardised"], "mobilenetv2": ["weight-standardised"]}
BATCH = 16


def data() -> FederatedDataset:
    place = os.environ.get("EDGEKIT_DATA")
    source = f"npz:{Path(place) / 'mnist.npz'}" if place else "digits"
    return load_data(Data(source=source, clients=10, partition="iid"), seed=0)


def trained(model: nn.Module, dataset: FederatedDataset, examples: int) -> nn.Module:
    x = torch.from_numpy(np.concatenate([dataset.client(i).x for i in range(dataset.clients)]))
    y = torch.from_numpy(np.concatenate([dataset.client(i).y for i in range(dataset.clients)]))
    optimiser = torch.optim.Adam(model.train().parameters(), 2e-3)
    done = 0
    while done < examples:
        for batch in torch.randperm(len(y), generator=torch.Generator().manual_seed(done)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
            done += len(batch)
            if done >= examples:
                break
    return model.eval()


def in_turns(works: dict[str, Callable[[], Any]], rounds: int = 15, least: float = 0.02) -> dict[str, float]:
    """Return each work's median time in microseconds; they run in turns, so that all see the same machine."""
    repeats = {}
    for name, work in works.items():
        work()
        start = time.perf_counter()
        work()
        repeats[name] = max(1, round(least / max(1e-7, time.perf_counter() - start)))
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                work()
            taken[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def invoking(content: bytes) -> Callable[[], None]:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    invoke: Callable[[], None] = interpreter.invoke
    return invoke


def formats(name: str, dataset: FederatedDataset, examples: int) -> dict[str, Any]:
    settings = Model(name=name, norm="weight-standardised", **NETS[name])
    model = trained(build(settings, dataset.shape, 10, 0, dataset.calibration.x), dataset, examples)
    float32 = to_float32(model, dataset.shape)
    calibration = as_device(dataset.calibration.x)
    # As edgekit writes them: `add_metadata` packs them tightly.
    files = {preset: add_metadata(quantise(float32, preset, "image", calibration), {}) for preset in PRESETS}
    test, labels = as_device(dataset.test.x[:5000]), dataset.test.y[:5000]
    accuracy = {
        preset: float((run_examples(file, test).scores.argmax(1) == labels).mean()) for preset, file in files.items()
    }
    one = torch.from_numpy(dataset.test.x[:1])

    def eager() -> None:
        with torch.no_grad():
            model(one)

    taken = in_turns({**{preset: invoking(file) for preset, file in files.items()}, "torch eager": eager})
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "presets": {
            preset: {
                "bytes": len(file),
                "accuracy": accuracy[preset],
                "loss_points": round(100 * (accuracy["float32"] - accuracy[preset]), 3),
                "times_smaller": round(len(files["float32"]) / len(file), 2),
                "latency_us": round(taken[preset], 1),
                "latency_to_float32": round(taken[preset] / taken["float32"], 2),
            }
            for preset, file in files.items()
        },
        "torch_eager_us": round(taken["torch eager"], 1),
        "torch_eager_to_float32": round(taken["torch eager"] / taken["float32"], 1),
    }


def batch_normed(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, nn.BatchNorm2d(child.num_channels))
    return model.eval()


def norms(name: str, dataset: FederatedDataset) -> dict[str, Any]:
    """Group norm, as edgekit exports it and as litert-torch would, against the batch-normed twin that folds."""
    import edgekit.export.convert as convert

    def file(norm: str) -> bytes:
        return to_float32(build(Model(name=name, norm=norm, **NETS[name]), dataset.shape, 10, 0), dataset.shape)

    twin = to_float32(
        batch_normed(build(Model(name=name, norm="group", **NETS[name]), dataset.shape, 10, 0)), dataset.shape
    )
    ours = convert.with_fast_group_norms
    convert.with_fast_group_norms = lambda model: model
    plain = file("group")
    convert.with_fast_group_norms = ours
    files = {
        "twin": twin,
        "group": file("group"),
        "group, unchanged": plain,
        "weight-standardised": file("weight-standardised"),
    }
    taken = in_turns({kind: invoking(content) for kind, content in files.items()})
    return {kind: round(taken[kind] / taken["twin"], 2) for kind in files if kind != "twin"}


def training(name: str, norm: str, dataset: FederatedDataset) -> dict[str, Any]:
    model = build(Model(name=name, norm=norm, **NETS[name]), dataset.shape, 10, 0, dataset.calibration.x).train()
    start = time.perf_counter()
    content, error = training_file(model, dataset.shape, 10, Options(BATCH, 1.0), {})
    seconds = time.perf_counter() - start
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    step, private = (interpreter.get_signature_runner(signature) for signature in ("train", "train_dp"))
    x, y = torch.from_numpy(dataset.test.x[:BATCH]), torch.from_numpy(dataset.test.y[:BATCH])
    w = interpreter.get_signature_runner("parameters")()["w"]
    inputs = {
        "x": as_device(x.numpy()),
        "y": np.eye(10, dtype=np.float32)[y.numpy()],
        "mask": np.ones(BATCH, np.float32),
        "lr": np.array([1e-3], np.float32),
        "w": w,
    }
    noise = np.zeros_like(w)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)

    def eager() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()

    parameters = {key: p.detach() for key, p in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, weights, (one[None],)), label[None])

    each = vmap(grad(loss), (None, 0, 0))

    def torch_private() -> None:
        gradients = each(parameters, x, y)
        norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        factors = (1 / (norm + 1e-6)).clamp(max=1.0)
        for key, g in gradients.items():
            parameters[key] = parameters[key] - 1e-3 * torch.tensordot(factors, g, 1)

    taken = in_turns(
        {
            "train": lambda: step(**inputs),
            "train_dp": lambda: private(**inputs, noise=noise),
            "torch eager": eager,
            "torch vmap, private": torch_private,
        }
    )
    return {
        "parameters": len(w),
        "conversion_seconds": round(seconds, 1),
        "bytes": len(content),
        "largest_error": error,
        "train_us": round(taken["train"], 1),
        "train_to_torch_eager": round(taken["train"] / taken["torch eager"], 2),
        "private_to_train": round(taken["train_dp"] / taken["train"], 2),
        "torch_private_to_torch_eager": round(taken["torch vmap, private"] / taken["torch eager"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dataset = data()
    names = ["dscnn"] if options.quick else list(NETS)
    examples = 3000 if options.quick else 40_000
    result: dict[str, Any] = {"data": dataset.description, "batch": BATCH, "formats": {}, "norms": {}, "training": {}}
    for name in names:
        result["formats"][name] = formats(name, dataset, examples)
        result["norms"][name] = norms(name, dataset)
        for norm in ["weight-standardised"] if options.quick else TRAINED[name]:
            result["training"][f"{name}, {norm}"] = training(name, norm, dataset)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(result["data"])
    for name, found in result["formats"].items():
        print(
            f"\n{name}, {found['parameters']:,} parameters; torch eager {found['torch_eager_us']:.0f} us, "
            f"{found['torch_eager_to_float32']} x float32's"
        )
        print(
            f"{'preset':>14}{'bytes':>11}{'smaller':>9}{'accuracy':>10}{'lost, points':>14}{'us':>9}{'to float32':>12}"
        )
        for preset, row in found["presets"].items():
            print(
                f"{preset:>14}{row['bytes']:>11,}{row['times_smaller']:>9}{row['accuracy']:>10.4f}"
                f"{row['loss_points']:>14}{row['latency_us']:>9}{row['latency_to_float32']:>12}"
            )
        print(f"latency to the batch-normed twin: {result['norms'][name]}")
    print(
        f"\n{'training file':>32}{'convert s':>11}{'step us':>10}{'to eager':>10}{'private':>9}{'vmap':>8}{'error':>10}"
    )
    for name, row in result["training"].items():
        print(
            f"{name:>32}{row['conversion_seconds']:>11}{row['train_us']:>10.0f}{row['train_to_torch_eager']:>10}"
            f"{row['private_to_train']:>9}{row['torch_private_to_torch_eager']:>8}{row['largest_error']:>10.0e}"
        )


if __name__ == "__main__":
    main()
