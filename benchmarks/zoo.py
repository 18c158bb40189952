"""The networks of the zoo: what each learns federated, and the forms it is delivered in. Needs EDGEKIT_DATA.

    python benchmarks/zoo.py                              a table: one seed of all
    python benchmarks/zoo.py --networks mixer,ode --json
    python benchmarks/zoo.py --seeds 3 --private          means of three seeds; at epsilon 8 as well
    python benchmarks/zoo.py --rounds 3                   the forms, of networks that learnt a little

Rate, momentum, norm and warm-up are what each network says it learns with.
MNIST: 100 clients, Dirichlet 0.5, 10 a round, 60 rounds of two epochs (12 epochs' work), batches of 16, FedAvgM 0.7.
Spoken digits: the six speakers are the clients, 40 rounds of two epochs; a tenth of the recordings (by index) is tested
in each fold, `--folds` of the ten.
Graphs: superpixels (75 at most) of 10,000 digits of MNIST, 20 clients, Dirichlet 1.0, ten a round, 30 rounds of two
epochs; 2,000 graphs of the test set.
CIFAR-10: 8,000 images, ten clients, Dirichlet 1.0, 30 rounds of one epoch, FedAvgM 0.7, cropped and flipped. A row:
    parameters, macs          of the network at the size that is trained here
    accuracy                  of the global model after the last round, mean over seeds or folds
    accuracy_private          at epsilon 8, unit example, noise by the server, delta 1e-5 (--private)
    int8_loss                 points that the int8 file loses; null where it is not delivered
    float32_us, int8_us       median latency of one inference in LiteRT, one thread of this machine
    train_step_error          largest difference of the training graph's steps to torch's
    conversion_s              CPU seconds to convert the training graph
    cohort_ratio              CPU time of a round of 20 clients as a cohort over one by one
    forms                     that were made and passed their checks
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit import experiment as experiments
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.data import FederatedDataset, load
from edgekit.data.audio import log_mel
from edgekit.data.federated import ArraySource
from edgekit.data.files import array_source
from edgekit.data.settings import Audio, Data, Superpixels
from edgekit.data.sources import share
from edgekit.data.superpixels import as_graphs
from edgekit.errors import EdgekitError
from edgekit.export.tflite import Subject, export
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.models import build
from edgekit.models.cost import macs
from edgekit.models.kinds import learns_with
from edgekit.registry import MODELS
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

MNIST, SOUNDS, GRAPHS, COLOURS = "mnist", "spoken digits", "graphs", "cifar-10"
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "tcn": (SOUNDS, []),
    "s4d": (SOUNDS, []),
    "ssd": (SOUNDS, []),
    "gru": (SOUNDS, []),
    "mingru": (SOUNDS, []),
    "keyword-dscnn": (SOUNDS, []),
    "mixer": (MNIST, []),
    "experts": (MNIST, []),
    "vit": (MNIST, ["model.width=0.75", 'model.arguments={attention="performer"}']),
    "cnn-vit": (MNIST, []),
    "capsule": (MNIST, ["model.width=0.75"]),
    "ode": (MNIST, ["model.width=0.5"]),
    "mobilenetv3": (
        MNIST,
        ["model.arguments={head=64, stages=[[3,48,16,true,false,2],[3,72,24,false,false,2],[5,96,32,true,true,1]]}"],
    ),
    "efficientnet": (MNIST, ["model.arguments={stem=16, head=128, stages=[[1,3,16,1,1],[4,3,24,1,2],[4,5,32,2,1]]}"]),
    "exits": (MNIST, ["model.width=1.5"]),
    "dscnn": (MNIST, []),
    "graph gcn": (GRAPHS, ['model.arguments={kind="gcn"}']),
    "graph gat": (GRAPHS, ['model.arguments={kind="gat"}']),
    "dscnn colour": (COLOURS, []),
    "mobilenetv2 colour": (
        COLOURS,
        ["model.arguments={stages=[[1,16,1,1],[6,24,2,1],[6,32,3,2],[6,64,3,2]], head=256}"],
    ),
    "shufflenet colour": (COLOURS, ["model.arguments={stages=[[48,3],[96,5]], stem=16, head=192}"]),
}
"""By the row's name: its first word is the network's."""
TASKS: dict[str, tuple[int, list[str]]] = {
    MNIST: (
        60,
        [
            "data.clients=100", "data.alpha=0.5", "federation.cohort=10", "training.batch_size=16", "training.epochs=2",
            "federation.strategy=FedAvgM", "federation.arguments={server_momentum=0.7}",
        ],
    ),
    SOUNDS: (40, ["data.partition=natural", "training.batch_size=16", "training.epochs=2"]),
    GRAPHS: (
        30,
        ["data.clients=20", "data.alpha=1.0", "federation.cohort=10", "training.batch_size=16", "training.epochs=2"],
    ),
    COLOURS: (
        30,
        [
            "data.clients=10", "data.alpha=1.0", "federation.cohort=10", "training.batch_size=16", "training.epochs=1",
            'training.augment=["crop","flip"]', "federation.strategy=FedAvgM",
            "federation.arguments={server_momentum=0.7}",
        ],
    ),
}  # fmt: skip
"""Rounds, and the settings beside them."""
GRAPHS_MADE = 10_000, 2_000
PRIVATE = ["privacy.unit=example", "privacy.noise=server", "privacy.epsilon=8", "privacy.delta=1e-5"]
PRIVATE += ["training.momentum=0", "training.schedule=constant", "training.warm_up=0", "training.augment=[]"]


def sounds(place: Path, fold: int) -> FederatedDataset:
    """Return the spoken digits of one fold: the recordings whose index ends in it are tested."""
    with np.load(place / "fsdd.npz") as file:
        held = dict(file)
    ends = np.cumsum(held["length"])
    settings = Audio(sample_rate=int(held["sample_rate"]))
    x = np.stack(
        [
            log_mel((held["samples"][end - size : end] / np.float32(32768)), settings)
            for end, size in zip(ends, held["length"], strict=True)
        ]
    )
    tested = held["index"] % 10 == fold
    names = [str(digit) for digit in range(10)]

    def part(chosen: Any) -> ArraySource:
        return ArraySource(
            x[chosen],
            held["label"][chosen].astype(np.int64),
            names,
            "spoken digits",
            held["speaker"][chosen].astype(str),
        )

    return share(part(~tested), part(tested), Data(source="digits", partition="natural", calibration_examples=60), fold)


def loaded(task: str, settings: list[str], place: Path, seed: int) -> FederatedDataset:
    """Return a task's data, shared out."""
    if task == SOUNDS:
        return sounds(place, seed)
    files = {MNIST: "mnist.npz", COLOURS: "cifar10_10k.npz", GRAPHS: "mnist.npz"}
    data = experiments.load(None, [*settings, f"data.source=npz:{place / files[task]}"]).data
    if task != GRAPHS:
        return load(data, seed)
    train, test = graphs(place)
    return share(train, test, data, seed)


@functools.cache
def graphs(place: Path) -> tuple[ArraySource, ArraySource]:
    """Return graphs of digits to train and to test with."""
    with np.load(place / "mnist.npz") as file:
        parts = [
            array_source(file[f"x_{part}"][:many], file[f"y_{part}"][:many], "digits")
            for part, many in zip(("train", "test"), GRAPHS_MADE, strict=True)
        ]
    train, test = (as_graphs(part, Superpixels(), "digits") for part in parts)
    return train, test


def trained(name: str, overrides: list[str], dataset: FederatedDataset, seed: int) -> tuple[torch.nn.Module, float]:
    """Return a network after its rounds, and its accuracy."""
    experiment = experiments.load(None, [f"seed={seed}", f"model.name={name}", *overrides])
    model = build(experiment.model, dataset.shape, 10, seed, dataset.calibration.x)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run")
        Coordinator(experiment, dataset, model, folder).run()
        return model, float(list(read_lines(folder.metrics))[-1]["accuracy"])


def cohort_ratio(model: torch.nn.Module, dataset: FederatedDataset) -> float:
    """Return the CPU time of a round of clients together over that of one after the other."""
    clients = [dataset.client(i % dataset.clients) for i in range(20)]
    few = [type(one)(one.x[:64], one.y[:64]) for one in clients]
    asked = Train(trained_weights(model), LocalSettings(batch_size=16, learning_rate=0.01))

    def tasks() -> list[LocalTask]:
        return [LocalTask(one, np.random.default_rng(i), np.random.default_rng(i)) for i, one in enumerate(few)]

    def seconds(work: Any) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    together, alone = VectorisedTrainer(model), TorchTrainer(model)
    both = [
        (
            seconds(lambda: together.train_cohort([asked] * 20, tasks())),
            seconds(lambda: [alone.train(asked, task) for task in tasks()]),
        )
        for _ in range(2)
    ]
    return round(min(one for one, _ in both) / min(other for _, other in both), 3)


def forms(model: torch.nn.Module, dataset: FederatedDataset) -> dict[str, Any]:
    """Return what the files of a trained network give."""
    row: dict[str, Any] = {"forms": []}
    subject = Subject.of(model.eval(), dataset)
    with tempfile.TemporaryDirectory() as place:
        scores = {}
        for preset in ("float32", "int8"):
            try:
                made = export(subject, [preset], Path(place), {}, 1.0)[preset]
            except EdgekitError as error:
                row[f"{preset}_problem"] = str(error)
                continue
            scores[preset] = made.score
            row[f"{preset}_us"] = next(iter(made.latency_us.values())).median
            row["forms"].append(preset)
    row["int8_loss"] = round(100 * (scores["float32"] - scores["int8"]), 2) if len(scores) == 2 else None
    start = time.process_time()
    try:
        _, row["train_step_error"] = training_file(model, dataset.shape, 10, Options(8, 1.0), {})
        row["forms"].append("training")
    except EdgekitError as error:
        row["training_problem"] = str(error)
    row["conversion_s"] = round(time.process_time() - start, 1)
    return row


def measured(name: str, arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Return one network's row."""
    task, more = NETWORKS[name]
    rounds, settings = TASKS[task]
    kind = name.split()[0]
    learns = learns_with(MODELS.load(kind))
    own = [f"model.norm={learns.pop('norm')}", *(f"training.{key}={value}" for key, value in learns.items())]
    own += ["federation.evaluate_every=1000", *settings, *more, f"federation.rounds={arguments.rounds or rounds}"]
    found, private = [], []
    for seed in range(arguments.folds if task == SOUNDS else arguments.seeds):
        dataset = loaded(task, own, place, seed)
        model, accuracy = trained(kind, own, dataset, seed)
        found.append(accuracy)
        if arguments.private:
            private.append(trained(kind, [*own, *PRIVATE], dataset, seed)[1])
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": macs(model, dataset.shape),
        "accuracy": round(statistics.mean(found), 4),
        "each": [round(one, 4) for one in found],
    }
    if private:
        row["accuracy_private"] = round(statistics.mean(private), 4)
    if not arguments.skip_forms:
        row |= {"cohort_ratio": cohort_ratio(model, dataset), **forms(model, dataset)}
    return row


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="by name, with commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=0, help="0 are the task's own")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--skip-forms", action="store_true")
    parser.add_argument("--into", type=Path, help="a file that each row is written to as soon as it is there")
    arguments = parser.parse_args()
    if "EDGEKIT_DATA" not in os.environ:
        parser.error("EDGEKIT_DATA must name the folder with mnist.npz and fsdd.npz")
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    if not arguments.json:
        print(f"{'network':18} {'parameters':>10} {'macs':>12} {'accuracy':>9} {'int8 loss':>9}  forms")
    for name in arguments.networks.split(","):
        try:
            row = rows[name] = measured(name, arguments, Path(os.environ["EDGEKIT_DATA"]))
        except EdgekitError as error:
            rows[name] = {"problem": str(error)}
            print(f"{name}: {error}", file=sys.stderr)
            continue
        if arguments.into:
            arguments.into.write_text(json.dumps(rows, indent=2))
        if not arguments.json:
            lost = row.get("int8_loss")
            print(
                f"{name:18} {row['parameters']:10,} {row['macs']:12,} {row['accuracy']:9.4f} "
                f"{'' if lost is None else f'{lost:.2f}':>9}  {', '.join(row.get('forms', []))}",
                flush=True,
            )
    if arguments.json:
        print(
            json.dumps(
                {
                    "benchmark": "zoo",
                    "rounds": {task: arguments.rounds or one for task, (one, _) in TASKS.items()},
                    "rows": rows,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
