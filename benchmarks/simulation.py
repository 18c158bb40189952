"""How long a simulated round takes: 1000 clients, 100 a round, the same local SGD in every row.

    python benchmarks/simulation.py            a table
    python benchmarks/simulation.py --json     for machines
    python benchmarks/simulation.py --no-ray   without Flower's own engine

Rows, in seconds a round (median, after one round of warming up):
    plain       a loop over the clients in torch, averaging by hand: no Flower at all
    local       edgekit's local engine with fedavg, one client at a time
    cohort      the same with the whole cohort in vectorised steps
    client_major  the same with client after client in compiled steps, where all layers have a rule
    strategy    the same with Flower's FedAvg instead of ours: replies as Flower's messages
    flower_ray  Flower's FedAvg on Flower's own simulation engine (Ray), a process a core
    gemm_floor  the same multiply-adds as bare batched matrix products, and the update's pass over the memory

All but flower_ray use one thread; flower_ray uses every core.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import nets
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.data import Examples, FederatedDataset

CLIENTS, COHORT, EXAMPLES, EPOCHS, BATCH, RATE = 1000, 100, 15, 2, 5, 0.1
STEPS = EPOCHS * EXAMPLES // BATCH
ROUNDS = 7


def client_data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a client's 15 digits; clients overlap, since there are 1797 in all."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(client).integers(0, len(labels), EXAMPLES)
    x = (images[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return torch.from_numpy(x), torch.from_numpy(labels[chosen].astype(np.int64))


def local_sgd(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimiser = torch.optim.SGD(model.parameters(), RATE)
    for _ in range(EPOCHS):
        for start in range(0, EXAMPLES, BATCH):
            optimiser.zero_grad()
            F.cross_entropy(model(x[start : start + BATCH]), y[start : start + BATCH]).backward()
            optimiser.step()


def median_seconds(one_round: Callable[[int], None]) -> float:
    one_round(0)
    taken = []
    for number in range(1, ROUNDS + 1):
        start = time.perf_counter()
        one_round(number)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def cohort_of(number: int) -> list[int]:
    return sorted(np.random.default_rng(number).choice(CLIENTS, COHORT, replace=False).tolist())


def plain(net: str, data: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    model = nets.build(net)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def one_round(number: int) -> None:
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for client in cohort_of(number):
            model.load_state_dict(weights)
            local_sgd(model, *data[client])
            for name, tensor in model.state_dict().items():
                total[name] += tensor / COHORT
        weights.update(total)

    return median_seconds(one_round)


def on_local_engine(net: str, data: list[tuple[torch.Tensor, torch.Tensor]], trainer: str, strategy: str = "") -> float:
    from dataclasses import replace

    from edgekit.algorithms import make
    from edgekit.algorithms.settings import Federation
    from edgekit.asks import Aggregate, mean_of
    from edgekit.clients.client_major.choice import client_major
    from edgekit.clients.cohort.trainer import VectorisedTrainer
    from edgekit.clients.simulated import SimulatedClients
    from edgekit.clients.torch_trainer import TorchTrainer, state
    from edgekit.clients.trainer import CohortTrainer
    from edgekit.local_settings import LocalSettings

    held = [Examples(x.numpy(), y.numpy()) for x, y in data]
    dataset = FederatedDataset(CLIENTS, held.__getitem__, held[0], held[0], [str(d) for d in range(10)], "digits")
    model = nets.build(net)
    algorithm = make(Federation(strategy=strategy))
    single = TorchTrainer(model)
    cohort: CohortTrainer | None = None
    if trainer == "cohort":
        cohort = VectorisedTrainer(model)
    elif trainer == "client-major":
        cohort = client_major(model, held[0].x.shape[1:], 10, 512 << 20)
    clients = SimulatedClients(dataset, algorithm, single, cohort, 0)
    settings = LocalSettings(epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE)
    current = algorithm.begin(state(model), single.learnt)

    def one_round(number: int) -> None:
        nonlocal current
        asks = algorithm.ask(current, cohort_of(number), number)
        replies = clients.train({c: replace(ask, settings=settings, round=number) for c, ask in asks.items()})
        updates = {reply.client: reply.update for reply in replies if reply.update is not None}
        assert len(updates) == COHORT
        if algorithm.reads == "each":
            got = Aggregate({}, {}, COHORT, CLIENTS, updates)
        else:
            got = Aggregate(*mean_of(list(updates.values())), COHORT, CLIENTS)
        current = algorithm.merge(current, got, number)

    return median_seconds(one_round)


def gemm_floor(net: str) -> float:
    """Time the products alone: forward, weights' gradient, inputs' gradient; then the update of all weights."""
    work = []
    for rows, inputs, outputs, needs_input in nets.products(net, BATCH):
        x, w = torch.randn(COHORT, rows, inputs), torch.randn(COHORT, inputs, outputs)
        y = torch.randn(COHORT, rows, outputs)
        work.append((x, w, y, torch.empty_like(y), torch.empty_like(w), torch.empty_like(x) if needs_input else None))
    size = sum(parameter.numel() for parameter in nets.build(net).parameters())
    weights, gradient = torch.randn(COHORT, size), torch.randn(COHORT, size)

    def one_round(_: int) -> None:
        for _ in range(STEPS):
            for x, w, y, out, of_w, of_x in work:
                torch.bmm(x, w, out=out)
                torch.bmm(x.mT, y, out=of_w)
                if of_x is not None:
                    torch.bmm(y, w.mT, out=of_x)
            weights.add_(gradient, alpha=-RATE)

    return median_seconds(one_round)


def flower_ray(net: str, ended: Callable[[], None] = lambda: None) -> float:
    """Run Flower's own engine; each client trains with the same plain torch code as the row `plain`."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    here = os.path.dirname(os.path.abspath(__file__))
    client_app, server_app, stamps = ClientApp(), ServerApp(), []

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        sys.path.insert(0, here)
        import nets
        import simulation
        import torch

        torch.set_num_threads(1)
        model = nets.build(net)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        simulation.local_sgd(model, *simulation.client_data(int(context.node_config["partition-id"])))
        content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": EXAMPLES})}
        return Message(RecordDict(content), reply_to=message)

    def told() -> None:
        stamps.append(time.perf_counter())
        ended()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        FedAvg(fraction_train=COHORT / CLIENTS, fraction_evaluate=0.0).start(
            grid=grid,
            initial_arrays=ArrayRecord(nets.build(net).state_dict()),
            num_rounds=ROUNDS + 2,
            evaluate_fn=lambda number, arrays: told(),
        )

    cores = len(os.sched_getaffinity(0))
    backend = {"init_args": {"num_cpus": cores, "logging_level": "error"}, "client_resources": {"num_cpus": 1}}
    run_simulation(server_app, client_app, CLIENTS, backend_config=backend)
    taken = [after - before for before, after in itertools.pairwise(stamps[2:])]
    return statistics.median(taken)


def measure(net: str, *, ray: bool) -> dict[str, Any]:
    data = [client_data(client) for client in range(CLIENTS)]
    row: dict[str, Any] = {
        "plain_s": plain(net, data),
        "local_s": on_local_engine(net, data, "one-by-one"),
        "cohort_s": on_local_engine(net, data, "cohort"),
        "client_major_s": on_local_engine(net, data, "client-major"),
        "strategy_s": on_local_engine(net, data, "cohort", "FedAvg"),
        "gemm_floor_s": gemm_floor(net),
    }
    row["flower_ray_s"] = flower_ray(net) if ray else None
    row["cohort_to_plain"] = row["cohort_s"] / row["plain_s"]
    row["client_major_to_plain"] = row["client_major_s"] / row["plain_s"]
    row["cohort_to_floor"] = row["cohort_s"] / row["gemm_floor_s"]
    row["flower_ray_to_cohort"] = row["flower_ray_s"] / row["cohort_s"] if ray else None
    return {key: None if value is None else round(value, 4) for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    result = {**measure("small", ray=not options.no_ray), "depthwise": measure("depthwise", ray=not options.no_ray)}
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{CLIENTS} clients, {COHORT} a round, {STEPS} steps of {BATCH} examples each\n")
    print(f"{'':>22}{'small CNN':>12}{'depthwise':>12}")
    for key, value in result.items():
        if key != "depthwise":
            small, depthwise = (f"{v:.4f}" if v is not None else "–" for v in (value, result["depthwise"][key]))
            print(f"{key:>22}{small:>12}{depthwise:>12}")


if __name__ == "__main__":
    main()
