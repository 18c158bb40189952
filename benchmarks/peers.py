"""Whole rounds beside other simulators, in CPU seconds: 1000 clients of 15 digits, 100 a round, 13.7k weights.

    python benchmarks/peers.py             a table; makes environments of their own for the peers
    python benchmarks/peers.py --only fedjax,edgekit --json

Each trains the same network (two convolutions, two dense layers) by plain SGD, 2 epochs in steps of 5 examples, and
averages. Rows, each in processes of its own; medians of the rounds after the first two, of all its processes:
    plain       a loop over the clients in torch, averaging by hand
    edgekit     `Coordinator.run`, with checkpoints and metrics, as `edgekit run` trains; compiled steps, one thread
    pfl         pfl-research (Apple), FederatedAveraging on its SimulatedBackend in torch
    fedjax      FedJAX (Google), its federated_averaging, compiled by XLA for one thread
    flower_ray  Flower's FedAvg on Flower's own engine: Ray, a process a core
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLIENTS, COHORT, EXAMPLES, EPOCHS, BATCH, RATE = 1000, 100, 15, 2, 5, 0.1
PEERS = {
    "plain": [],
    "edgekit": [],
    "pfl": ["pfl==0.6.0", "multiprocess>=0.70.15,<0.71", "dill", "prv-accountant>=0.2,<0.3"],
    "fedjax": ["fedjax==0.0.17"],
    "flower_ray": [],
}
APART = {"fedjax"}
"""Peers whose environment does not see this one's packages."""
SKIPPED = 2


def python_of(peer: str, place: Path) -> str:
    """Return the Python that runs a peer: its own environment's, where it needs packages."""
    if not PEERS[peer]:
        return sys.executable
    home = place / peer
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
        library = next((home / "lib").glob("python3*")) / "site-packages"
        if peer not in APART:
            (library / "beside.pth").write_text("\n".join(one for one in sys.path if one.endswith("site-packages")))
        alone = [] if peer in APART else ["--no-deps"]
        install = ["install", "--quiet", *alone, "--target", str(library), *PEERS[peer]]
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
        (home / "ready").touch()
    return str(home / "bin/python")


def cpu_seconds(*, of_all: bool) -> float:
    """Return the CPU seconds of this process, and of those that it began."""
    total = time.process_time()
    if not of_all:
        return total
    import psutil

    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


class Stamps(list[float]):
    """CPU seconds at the ends of rounds.

    Args:
        of_all: of the processes that this one begins too.
    """

    def __init__(self, *, of_all: bool) -> None:
        super().__init__()
        self._of_all = of_all

    def add(self) -> None:
        """A round ended."""
        self.append(cpu_seconds(of_all=self._of_all))


def client_data(held: Any, client: int) -> tuple[Any, Any]:
    """Return a client's 15 digits."""
    import numpy as np

    chosen = np.random.default_rng(client).integers(0, len(held["y"]), EXAMPLES)
    return held["x"][chosen], held["y"][chosen]


def cohort_of(number: int) -> list[int]:
    """Return a round's clients."""
    import numpy as np

    return sorted(np.random.default_rng(number).choice(CLIENTS, COHORT, replace=False).tolist())


def plain(held: Any, rounds: int, stamps: Stamps) -> str:
    """Loop over the clients."""
    import nets
    import torch

    model = nets.build("small")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = {client: tuple(map(torch.from_numpy, client_data(held, client))) for client in range(CLIENTS)}
    for number in range(rounds):
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for client in cohort_of(number):
            x, y = data[client]
            model.load_state_dict(weights)
            optimiser = torch.optim.SGD(model.parameters(), RATE)
            for start in itertools.chain.from_iterable([range(0, EXAMPLES, BATCH)] * EPOCHS):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(model(x[start : start + BATCH]), y[start : start + BATCH]).backward()
                optimiser.step()
            for name, tensor in model.state_dict().items():
                total[name] += tensor / COHORT
        weights = total
        stamps.add()
    return str(torch.__version__)


def edgekit(held: Any, rounds: int, stamps: Stamps) -> str:
    """Run the coordinator of a whole experiment."""
    import nets

    from edgekit import experiment as experiments
    from edgekit.clients.cohort.memory import keep_freed_memory
    from edgekit.data import Examples, FederatedDataset
    from edgekit.runfolder import RunFolder
    from edgekit.server.loop.sync import Coordinator
    from edgekit.version import __version__

    keep_freed_memory()
    examples = [Examples(*client_data(held, client)) for client in range(CLIENTS)]
    classes = [str(digit) for digit in range(10)]
    dataset = FederatedDataset(CLIENTS, examples.__getitem__, examples[0], examples[0], classes, "digits")
    keys = [
        f"data.clients={CLIENTS}", f"federation.cohort={COHORT}", f"federation.rounds={rounds}",
        f"federation.evaluate_every={rounds}", f"training.epochs={EPOCHS}", f"training.batch_size={BATCH}",
        f"training.learning_rate={RATE}", "training.trainer=client-major",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run")
        made = Coordinator(
            experiments.load(None, keys), dataset, nets.build("small"), folder, lambda metrics: stamps.add()
        )
        assert made.engine.trainer == "client after client in compiled steps"
        made.run()
    return __version__


def pfl(held: Any, rounds: int, stamps: Stamps) -> str:
    """Run pfl-research's simulation."""
    import types
    from importlib.metadata import version

    import nets
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    network = nets.build("small")

    def loss(self: Any, x: Any, y: Any, eval: bool = False) -> Any:
        return torch.nn.functional.cross_entropy(self(x), y)

    network.loss = types.MethodType(loss, network)
    network.metrics = types.MethodType(lambda self, x, y, eval=True: {"loss": Weighted(0.0, 1)}, network)
    data = {client: list(map(torch.from_numpy, client_data(held, client))) for client in range(CLIENTS)}

    class Told(TrainingProcessCallback):
        def after_central_iteration(self, aggregate: Any, model: Any, *, central_iteration: int) -> Any:
            stamps.add()
            return False, Metrics()

    clients = FederatedDataset(
        lambda user: Dataset(raw_data=data[user], user_id=str(user)), get_user_sampler("random", list(range(CLIENTS)))
    )
    model = PyTorchModel(
        network, local_optimizer_create=torch.optim.SGD, central_optimizer=torch.optim.SGD(network.parameters(), 1.0)
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=10**6,
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=clients, val_data=clients),
        model,
        NNTrainHyperParams(local_num_epochs=EPOCHS, local_learning_rate=RATE, local_batch_size=BATCH),
        NNEvalHyperParams(local_batch_size=EXAMPLES),
        callbacks=[Told()],
    )
    return version("pfl")


def fedjax(held: Any, rounds: int, stamps: Stamps) -> str:
    """Run FedJAX's federated averaging."""
    from importlib.metadata import version

    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.tree_map = jax.tree_multimap = jax.tree_util.tree_map  # FedJAX asks for what JAX no longer has
    jax.tree_leaves = jax.tree_util.tree_leaves
    import fedjax

    def convolution(x: Any, w: Any, b: Any) -> Any:
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dimensions) + b)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    shapes = {"a": (3, 3, 1, 16), "b": (3, 3, 16, 32), "c": (128, 64), "d": (64, 10)}
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in shapes.items():
        bound = np.prod(shape[:-1]) ** -0.5
        weights |= {
            name: rng.uniform(-bound, bound, shape).astype(np.float32),
            name + "_": np.zeros(shape[-1], np.float32),
        }
    assert sum(array.size for array in weights.values()) == 13706

    def loss(w: Any, batch: Any, key: Any) -> Any:
        x = convolution(convolution(batch["x"], w["a"], w["a_"]), w["b"], w["b_"]).reshape(len(batch["x"]), -1)
        scores = jax.nn.relu(x @ w["c"] + w["c_"]) @ w["d"] + w["d_"]
        return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(batch["y"])), batch["y"]])

    method = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(loss),
        fedjax.optimizers.sgd(RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH, num_epochs=EPOCHS, seed=0),
    )
    clients = {}
    for client in range(CLIENTS):
        x, y = client_data(held, client)
        clients[b"%06d" % client] = {"x": x.transpose(0, 2, 3, 1).copy(), "y": y}
    state = method.init(weights)
    sampler = fedjax.client_samplers.UniformGetClientSampler(
        fedjax.InMemoryFederatedData(clients), num_clients=COHORT, seed=0
    )
    for number in range(rounds):
        sampler.set_round_num(number)
        state, _ = method.apply(state, sampler.sample())
        jax.block_until_ready(state.params)
        stamps.add()
    return f"{version('fedjax')}, jax {jax.__version__}"


def flower_ray(held: Any, rounds: int, stamps: Stamps) -> str:
    """Run Flower's own engine."""
    from importlib.metadata import version

    import simulation

    simulation.ROUNDS = rounds - 2
    simulation.flower_ray("small", ended=lambda: stamps.add())
    del stamps[0]  # before the first round
    return f"{version('flwr')}, ray {version('ray')}"


def measured(peer: str, python: str, digits: Path, rounds: int) -> dict[str, Any]:
    """Return what a peer's process tells."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    command = [python, __file__, "--peer", peer, "--digits", str(digits), "--rounds", str(rounds)]
    if peer != "flower_ray" and hasattr(os, "sched_setaffinity"):
        core = str(min(os.sched_getaffinity(0)))
        command = ["taskset", "-c", core, *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(peer: str, digits: str, rounds: int) -> None:
    """Be a peer's process."""
    import numpy as np

    stamps = Stamps(of_all=peer == "flower_ray")
    if peer in ("plain", "pfl", "edgekit"):
        import torch

        torch.set_num_threads(1)
    version = globals()[peer](np.load(digits), rounds, stamps)
    taken = [after - before for before, after in itertools.pairwise(stamps)][SKIPPED - 1 :]
    print(json.dumps({"version": version, "cpu_s": round(statistics.median(taken), 4), "least": round(min(taken), 4)}))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--only", default=",".join(PEERS), help="peers, with commas")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--environments", type=Path, help="where the peers' environments stay; a new place by default")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--digits", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run(options.peer, options.digits, options.rounds)
        return
    import numpy as np
    from sklearn.datasets import load_digits

    with tempfile.TemporaryDirectory() as place:
        images, labels = load_digits(return_X_y=True)
        digits = Path(place) / "digits.npz"
        np.savez(digits, x=(images / 16).astype(np.float32).reshape(-1, 1, 8, 8), y=labels.astype(np.int64))
        result = {}
        for peer in options.only.split(","):
            python = python_of(peer, options.environments or Path(place))
            result[peer] = measured(peer, python, digits, options.rounds)
    own = result.get("edgekit", {}).get("cpu_s")
    for row in result.values():
        if own and "cpu_s" in row:
            row["to_edgekit"] = round(row["cpu_s"] / own, 2)
    if options.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), **result}, indent=2))
        return
    print(f"{'':>12}{'CPU s a round':>15}{'to edgekit':>12}  version")
    for peer, row in result.items():
        if "problem" in row:
            print(f"{peer:>12}  {row['problem']}")
        else:
            print(f"{peer:>12}{row['cpu_s']:>15.4f}{row.get('to_edgekit', float('nan')):>12.2f}  {row['version']}")


if __name__ == "__main__":
    main()
