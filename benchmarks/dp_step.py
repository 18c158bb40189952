"""What a private step costs beside a plain one, and beside Opacus, by network and batch.

    python benchmarks/dp_step.py                            a table
    python benchmarks/dp_step.py --nets small --batches 256 --json

Milliseconds of CPU an example, on one thread, the least of interleaved repeats:
    plain       forward, backward and step of the batch's mean
    ours        the clipped sum of the batch (edgekit.clients.clipped)
    before      the same, each example run with weights of its own under torch.func
    opacus      forward, backward and step by Opacus's DPOptimizer, with its hooks; - where it refuses the network
and `error`, the largest difference of ours to one example after the other, in double precision, as a share of the
largest.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from nets import build as own_build
from torch import Tensor, nn

from edgekit.clients.clipped.sums import ClippedSums
from edgekit.clients.cohort.vectorised import Vectorised
from edgekit.clients.per_example import PerExample, _seeded
from edgekit.models import build
from edgekit.models.settings import Model

CLIP, REPEATS = 1.0, 5


def networks(names: Sequence[str]) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return networks and the shapes of their examples, by name."""
    made = {
        "small": lambda: (own_build("small"), (1, 8, 8)),
        "depthwise": lambda: (own_build("depthwise"), (1, 8, 8)),
        "cnn106k": lambda: (
            nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 27), nn.ReLU(), nn.Linear(27, 10),
            ),
            (1, 28, 28),
        ),
        "mobilenetv2": lambda: (
            build(Model(name="mobilenetv2", width=0.35, norm="group"), (3, 32, 32), 10, 0).train(), (3, 32, 32),
        ),
    }  # fmt: skip
    return {name: made[name]() for name in names}


def measured(model: nn.Module, shape: tuple[int, ...], batch: int) -> dict[str, Any]:
    """Return a network's figures at a batch."""
    x, y = torch.rand(batch, *shape), torch.arange(batch) % 10
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    own = dict(model.named_parameters())
    weights, nobody = [own[name].detach() for name in names], torch.zeros(batch, dtype=torch.int64)
    passes, vectorised = ClippedSums(model), Vectorised(model)
    plain = copy.deepcopy(model)
    optimiser = torch.optim.SGD(plain.parameters(), 0.01)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimiser.step()

    ways: dict[str, Callable[[], object]] = {
        "plain": step,
        "ours": lambda: passes.sums(weights, nobody, 1, x, y, CLIP),
        "before": lambda: vectorised.clipped_sums([w[None] for w in weights], nobody, x, y, CLIP, list),
    }
    if (by_opacus := _opacus(model, x, y)) is not None:
        ways["opacus"] = by_opacus
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(REPEATS):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            least[name] = min(least[name], 1000 * (time.process_time() - begun) / batch)
    return {**{name: round(ms, 4) for name, ms in least.items()}, "error": _error(model, x, y)}


def _opacus(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object] | None:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    try:
        wrapped = GradSampleModule(copy.deepcopy(model))
    except Exception:  # it has no rule for one of the layers
        return None
    inner = torch.optim.SGD(wrapped.parameters(), 0.01)
    optimiser = DPOptimizer(inner, noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=len(y))

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(wrapped(x), y).backward()
        optimiser.step()

    return step


def _error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    twice, few = copy.deepcopy(model).double(), x[:8].double()
    own = {name: p for name, p in twice.named_parameters() if p.requires_grad}
    right = PerExample(twice)._one_by_one(own, few, y[:8], CLIP, _seeded(8))
    passes = ClippedSums(twice)
    found = passes.sums([own[n].detach() for n in passes.names], torch.zeros(8, dtype=torch.int64), 1, few, y[:8], CLIP)
    apart = max(float((one[0] - other).abs().max()) for one, other in zip(found, right, strict=True))
    return apart / max(float(one.abs().max()) for one in right)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="small,cnn106k,depthwise,mobilenetv2")
    parser.add_argument("--batches", default="64,256")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    columns = ("plain", "ours", "before", "opacus")
    if not arguments.json:
        print(f"{'network':12}{'batch':>6}" + "".join(f"{name:>9}" for name in columns) + f"{'x plain':>9}{'error':>9}")
    for name, (model, shape) in networks(arguments.nets.split(",")).items():
        for batch in map(int, arguments.batches.split(",")):
            row = found[f"{name} {batch}"] = measured(model, shape, batch)
            if not arguments.json:
                cells = "".join(f"{row[key]:9.4f}" if key in row else f"{'-':>9}" for key in columns)
                print(f"{name:12}{batch:6}{cells}{row['ours'] / row['plain']:9.2f}{row['error']:9.0e}", flush=True)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
