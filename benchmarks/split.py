"""Steps of split learning a second: in one process, over gRPC, over a slow link, and by Flower's messages.

    python benchmarks/split.py [--json] [--seconds 6] [--no-flower] [--accuracy]

A convolution on the device makes activations of 32 x 16 x 14 x 14; the server has the rest of a small depthwise
network, and the labels; its memory is measured with 100 devices connected. Device and server are processes of their
own, one thread each. The slow link is a proxy of 10 Mbit/s and 40 ms there and back. Flower's messages are rounds of
one of its own SuperNodes, as each step would be one.

With --accuracy: MNIST (EDGEKIT_DATA) over 10 clients, Dirichlet 0.5, U-shaped, and by federated averaging of as many
examples; that takes half an hour.
"""

import argparse
import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deployment import stock_rounds

from edgekit.algorithms.interactive import steps
from edgekit.algorithms.split.device import Device
from edgekit.algorithms.split.line import DirectLine
from edgekit.algorithms.split.messages import Forward
from edgekit.algorithms.split.server import split_cohort
from edgekit.algorithms.split.service import SplitService, listen
from edgekit.algorithms.split.settings import Split
from edgekit.algorithms.split.stream import StreamLine
from edgekit.clients import LocalSettings, LocalTask
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.clients.torch_trainer import state
from edgekit.data import Examples
from edgekit.models import build
from edgekit.models.settings import Model

SHAPE, CLASSES, BATCH = (1, 28, 28), 10, 32
NETWORK = Model(
    name="dscnn", norm="group", arguments={"channels": [16, 32, 64, 96], "strides": [2, 2, 1, 1]},
)  # fmt: skip
CUT = "layers.2"
WORK = LocalSettings(batch_size=BATCH, epochs=10_000, learning_rate=0.05, momentum=0.9)
DEVICES = 100
SLOW_BITS, SLOW_SECONDS = 10e6, 0.04
CASES = {
    "grpc_float32": ("float32", 1, False),
    "grpc_float16": ("float16", 1, False),
    "grpc_int8": ("int8", 4, False),
    "slow_float32_window_1": ("float32", 1, True),
    "slow_int8_window_4": ("int8", 4, True),
}
WAYS = {
    "averaging": [],
    "split_each_float32": [f"split.cut={CUT}", "split.halves=each"],
    "split_each_int8": [f"split.cut={CUT}", "split.halves=each", "split.codec=int8"],
    "split_shared_float32": [f"split.cut={CUT}"],
    "split_shared_int8": [f"split.cut={CUT}", "split.codec=int8"],
}


def parts(codec: str, window: int) -> tuple[Any, Any]:
    """Return the network, and what trains it in parts."""
    model = build(NETWORK, SHAPE, CLASSES, 0)
    settings = Split.model_validate({"cut": CUT, "labels": "server", "codec": codec, "window": window})
    return model, split_cohort(settings, model, _Data())


class _Data:
    """What `split_cohort` asks of a dataset."""

    shape, classes = SHAPE, [str(label) for label in range(CLASSES)]


def device(trainer: Any, model: Any) -> Device:
    """Return a client with 512 random images."""
    rng = np.random.default_rng(0)
    examples = Examples(rng.standard_normal((512, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, 512))
    task = LocalTask(examples, np.random.default_rng(1), np.random.default_rng(2))
    return trainer.plan.begin(state(model), task, WORK)


def rate(steps: Any, seconds: float) -> float:
    """Return how many steps a second are made, after the first few."""
    for _ in range(5):
        next(steps)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(steps)
        count += 1
    return count / (time.perf_counter() - begun)


def in_process(seconds: float) -> float:
    """Return the steps a second of device and server in one process."""
    model, trainer = parts("float32", 1)
    trainer.server.begin(state(model), WORK, 0)
    line = DirectLine(lambda message: trainer.server.answer(0, message), "float32")
    return rate(filter(None, steps(device(trainer, model).exchanges(), line)), seconds)


def serve(codec: str, window: int, told: Connection, devices: int = 1) -> None:
    """Run the server's process; at its end it says how much memory it had (MB)."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the server app does
    model, trainer = parts(codec, window)
    trainer.server.begin(state(model), WORK, 0)
    service = SplitService(trainer.server, trainer.plan.codec, window)
    server, port = listen(service, "127.0.0.1:0", devices, None)
    told.send((port, [service.admit(client) for client in range(devices)]))
    told.recv()
    server.stop(0)
    told.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def over_grpc(codec: str, window: int, slow: bool, seconds: float) -> float:
    """Return the steps a second over a stream."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(codec, window, theirs))
    process.start()
    port, (token,) = ours.recv()
    model, trainer = parts(codec, window)
    address = f"127.0.0.1:{slow_link(port) if slow else port}"
    with StreamLine(address, token, trainer.plan.codec, 600) as line:
        found = rate(filter(None, steps(device(trainer, model).exchanges(), line)), seconds)
    ours.send("done")
    process.join()
    return found


def memory(devices: int) -> float:
    """Return the largest memory (MB) of a server with so many devices, each with a batch under way."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=("float32", 1, theirs, devices))
    process.start()
    port, tokens = ours.recv()
    shape = parts("float32", 1)[1].plan.terms.crossing[0]
    rng = np.random.default_rng(0)
    batch = Forward(1, rng.random((BATCH, *shape), np.float32), rng.integers(0, CLASSES, BATCH))
    lines = [StreamLine(f"127.0.0.1:{port}", token, "float32", 600) for token in tokens]
    for step in range(1, 4):
        for line in lines:
            line.send(replace(batch, step=step))
        for line in lines:
            line.receive()
    for line in lines:
        line.close()
    ours.send("done")
    found = float(ours.recv())
    process.join()
    return found


def slow_link(port: int) -> int:
    """Return the port of a proxy with the speed and the delay of a slow link."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(one: socket.socket, other: socket.socket) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        there = threading.Condition()

        def deliver() -> None:
            while True:
                with there:
                    while not waiting:
                        there.wait()
                    due, data = waiting.popleft()
                time.sleep(max(0.0, due - time.monotonic()))
                other.sendall(data)

        threading.Thread(target=deliver, daemon=True).start()
        free = 0.0  # when the link has sent all it was given
        while data := one.recv(4096):
            now = time.monotonic()
            free = max(free, now) + 8 * len(data) / SLOW_BITS
            with there:
                waiting.append((free + SLOW_SECONDS / 2, data))
                there.notify()
            time.sleep(max(0.0, free - now - 0.05))  # buffers are small: whoever sends more has to wait

    def accept() -> None:
        while True:
            here, _ = listener.accept()
            there = socket.create_connection(("127.0.0.1", port))
            for ends in ((here, there), (there, here)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def accuracies(rounds: int) -> dict[str, float]:
    """Return the accuracy of each way to train, over the same rounds of the same clients."""
    data = Path(os.environ["EDGEKIT_DATA"]) / "mnist.npz"
    common = [
        f"data.source=npz:{data}", "data.clients=10", "data.alpha=0.5", "model.name=dscnn", "model.norm=group",
        f"model.arguments={{channels={NETWORK.arguments['channels']}, strides={NETWORK.arguments['strides']}}}",
        f"training.batch_size={BATCH}", "training.epochs=1", "training.learning_rate=0.1", "privacy.unit=none",
        f"federation.rounds={rounds}", "federation.evaluate_every=1000", "export.presets=[]", "spiking.enabled=false",
    ]  # fmt: skip
    found = {}
    for name, more in WAYS.items():
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "run"
            command = [sys.executable, "-P", "-m", "edgekit.cli", "run", *common, *more, "--out", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found[f"{name}_accuracy"] = json.loads((out / "result.json").read_text())["accuracy"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=6.0, help="a measurement")
    parser.add_argument("--no-flower", action="store_true", help="leave out Flower's messages, which take a minute")
    parser.add_argument("--accuracy", action="store_true", help="train on MNIST too")
    parser.add_argument("--rounds", type=int, default=12, help="of that training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    found = {"inprocess_steps_s": in_process(given.seconds)}
    for name, (codec, window, slow) in CASES.items():
        found[f"{name}_steps_s"] = over_grpc(codec, window, slow, given.seconds)
    found["inprocess_steps_s"] = statistics.mean([found["inprocess_steps_s"], in_process(given.seconds)])
    found[f"server_memory_{DEVICES}_devices_mb"] = memory(DEVICES)
    if not given.no_flower:
        with tempfile.TemporaryDirectory() as place:
            found["flower_messages_steps_s"] = 1 / statistics.median(stock_rounds(Path(place), 1, 4)[1:])
    if given.accuracy:
        found |= accuracies(given.rounds)
    found = {name: round(value, 4) for name, value in found.items()}
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        beside = f"{value / found['inprocess_steps_s']:10.2f} x in process" if name.endswith("_steps_s") else ""
        print(f"{name:36}{value:10.2f}{beside}")


if __name__ == "__main__":
    main()
