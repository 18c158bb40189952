"""Sabotages of privacy that a reader of the code might miss; each must fail a test.

    python tests/privacy/mutants.py             all of them, a line each
    python tests/privacy/mutants.py POISSON …   those whose names contain one of these words

Each is a change of the installed package, made in a copy, under which tests are run; `test_mutants.py` does the same in
the long suite. A change whose place is gone is an error: the sabotage must move along with the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import edgekit

ROOT = Path(__file__).parent.parent.parent
NOISE, AUDIT, NETWORKS, NODE, SPLIT, SPLIT_LITERT, PAGE = (
    f"tests/{name}.py"
    for name in (
        *("privacy/test_noise", "privacy/test_audit", "clients/test_any_network", "clients/test_node"),
        *("split/test_privacy", "split/test_litert", "devices/test_phone_modules"),
    )
)


@dataclass(frozen=True)
class Mutant:
    """A sabotage.

    Attributes:
        name: what it does.
        file: in the package.
        old: text that stands there once.
        new: what takes its place.
        tests: files that must notice.
        chosen: which of their tests, as `pytest -k`; "" for all.
        page: whether it is of the phones' page, whose tests run in Chromium.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = (NOISE,)
    chosen: str = ""
    page: bool = False


GAUSSIAN, TENSORS = "privacy/gaussian.py", "privacy/tensors.py"
DRAW = "    noise: Array = (deviation * rng.standard_normal(shape)).astype(dtype)"
SQUARES = "    squares = torch.stack([gradient.reshape(len(gradient), -1)"
MUTANTS = [
    Mutant(
        "batches of a fixed size",
        "data/batches.py",
        "np.flatnonzero(rng.random(examples) < sample_rate)",
        "np.sort(rng.permutation(examples)[: round(sample_rate * examples)])",
        chosen="batches",
    ),
    Mutant(
        "the same batches every round",
        "clients/simulated.py",
        'generator(self._whole.seed, "batches", self._asks[client].round, client, *more)',
        'generator(self._whole.seed, "batches", client, *more)',
        chosen="batches",
    ),
    Mutant(
        "the server's noise is the same in every round",
        "transforms/base.py",
        '{plan.clip!r}", number)',
        '{plan.clip!r}")',
        chosen="noise_is and server",
    ),
    Mutant(
        "a client's noise is the same in every round",
        "clients/simulated.py",
        "_as_text(settings), self._asks[client].round, client, *more)",
        "_as_text(settings), client, *more)",
        chosen="noise_is and client",
    ),
    Mutant(
        "every client's noise is the same",
        "clients/simulated.py",
        "_as_text(settings), self._asks[client].round, client, *more)",
        "_as_text(settings), self._asks[client].round, *more)",
        chosen="noise_is and client",
    ),
    Mutant(
        "every array's noise is the same",
        GAUSSIAN,
        DRAW,
        "    import copy\n    noise: Array = (deviation * copy.deepcopy(rng).standard_normal(shape)).astype(dtype)",
        chosen="noise_is",
    ),
    Mutant(
        "system randomness is the seed's",
        "server/loop/charging.py",
        "self.seed = experiment.seed if seeded else secrets.randbits(128)",
        "self.seed = experiment.seed",
        chosen="system_randomness",
    ),
    Mutant("a tenth of all noise", GAUSSIAN, DRAW, DRAW.replace("deviation *", "0.1 * deviation *"), chosen="noise_is"),
    Mutant(
        "a tenth of the noise in torch's steps",
        TENSORS,
        "gaussian.draw(tuple(tensor.shape), deviation,",
        "gaussian.draw(tuple(tensor.shape), 0.1 * deviation,",
        chosen="noise_is and example-client",
    ),
    Mutant(
        "a tenth of the noise in LiteRT's steps",
        "clients/litert.py",
        "gaussian.draw((size,), deviation, rng, np.float32)",
        "gaussian.draw((size,), 0.1 * deviation, rng, np.float32)",
        chosen="noise_is and litert",
    ),
    Mutant(
        "a tenth of the noise on sums of examples",
        "privacy/mechanisms/example_by_server.py",
        "plan.noise_multiplier * plan.sensitivity, rng)",
        "0.1 * plan.noise_multiplier * plan.sensitivity, rng)",
        chosen="noise_is and example-server",
    ),
    Mutant(
        "a tenth of the noise on sums of clients",
        "privacy/mechanisms/client_by_server.py",
        "plan.noise_multiplier * bound *",
        "0.1 * plan.noise_multiplier * bound *",
        chosen="noise_is and client-server",
    ),
    Mutant(
        "a tenth of the noise on a client's update",
        "clients/halves.py",
        "gaussian.add_noise(change, deviation, rng)",
        "gaussian.add_noise(change, 0.1 * deviation, rng)",
        chosen="noise_is and client-client",
    ),
    Mutant(
        "a tenth of the noise on statistics",
        "clients/node/statistics.py",
        "noise_multiplier * SENSITIVITY *",
        "0.1 * noise_multiplier * SENSITIVITY *",
        (NODE,),
        "statistics",
    ),
    Mutant(
        "one clip where two stand for each other",
        "privacy/mechanisms/client_by_client.py",
        "    return 2 * clip",
        "    return clip",
        chosen="the_plan_is",
    ),
    Mutant(
        "no noise on one-dimensional arrays",
        GAUSSIAN,
        DRAW,
        f"    deviation = deviation if len(shape) > 1 else 0.0\n{DRAW}",
        chosen="noise_is",
    ),
    Mutant(
        "uniform noise",
        GAUSSIAN,
        DRAW,
        "    noise: Array = (deviation * rng.uniform(-(3**0.5), 3**0.5, shape)).astype(dtype)",
        chosen="noise_is",
    ),
    Mutant(
        "a mean by the clients that came",
        "privacy/mechanisms/client_by_server.py",
        "1.0 / round_.cohort",
        "1.0 / max(1, got.count - 1)",
        chosen="what_the_server_takes",
    ),
    Mutant(
        "a mean by the drawn batch, one client at a time",
        "clients/torch_trainer.py",
        "sums[name] / settings.batch_of(examples)",
        "sums[name] / max(1, len(y))",
        (NETWORKS,),
        "expected_batch",
    ),
    Mutant(
        "a mean by the drawn batch, in a cohort",
        "clients/cohort/trainer.py",
        "expected = settings.batch_of(len(task.examples))",
        "expected = max(1, len(plans[row][step]))",
        (NETWORKS,),
        "expected_batch",
    ),
    Mutant(
        "no clipping at the server",
        "privacy/mechanisms/client_by_server.py",
        "[gaussian.clip(one, bound) for one in changes]",
        "changes",
        chosen="what_the_server_takes",
    ),
    Mutant(
        "examples clipped layer by layer",
        TENSORS,
        SQUARES,
        f"    if len(gradients) > 1:\n        return [clipped([one], bound)[0] for one in gradients]\n{SQUARES}",
        (NETWORKS,),
        "clipped_sum or moves",
    ),
    Mutant(
        "examples clipped by their longest layer, where all are run in one pass",
        "clients/clipped/sums.py",
        "norms = torch.stack([squares(one) for one in there]).sum(0)",
        "norms = torch.stack([squares(one) for one in there]).amax(0)",
        ("tests/clients/test_clipped.py",),
        "no_example_counts",
    ),
    Mutant(
        "examples meet in a mean over the batch",
        "clients/clipped/apart.py",
        "return dim is not None and all(isinstance(one, int) and one % x.dim() > 0 for one in dims)",
        "return dim is not None and all(isinstance(one, int) for one in dims)",
        ("tests/clients/test_clipped.py",),
        "never_meet",
    ),
    Mutant(
        "updates clipped layer by layer",
        GAUSSIAN,
        "    factor = min(1.0, bound",
        "    if len(arrays) > 1:\n        return {n: clip({n: a}, bound)[n] for n, a in arrays.items()}\n"
        "    factor = min(1.0, bound",
        chosen="what_the_server_takes",
    ),
    Mutant(
        "planned for half the rounds",
        "privacy/mechanisms/base.py",
        "noise = solve_noise_multiplier(own.epsilon, own.delta, rate, steps * schedule.rounds, own.accountant)",
        "noise = solve_noise_multiplier(own.epsilon, own.delta, rate, steps * schedule.rounds // 2, own.accountant)",
        chosen="the_plan_is",
    ),
    Mutant(
        "four fifths of all noise", GAUSSIAN, DRAW, DRAW.replace("deviation *", "0.8 * deviation *"), (AUDIT,), "far"
    ),
    Mutant(
        "examples moved by twice the bound",
        TENSORS,
        "factors = (bound * BELOW /",
        "factors = (2 * bound * BELOW /",
        (AUDIT,),
        "far",
    ),
    Mutant(
        "no clipping of a client's update, there or here",
        GAUSSIAN,
        "    factor = min(1.0, bound",
        "    factor = min(1.0, 1e9 * bound",
        (AUDIT,),
        "far",
    ),
    Mutant(
        "a tenth of the noise on what a split device sends",
        "algorithms/split/hiding.py",
        "rows + gaussian.draw(rows.shape, deviation,",
        "rows + gaussian.draw(rows.shape, 0.1 * deviation,",
        (SPLIT,),
        "clipped_and_noised",
    ),
    Mutant(
        "a tenth of the noise on a split network's parts",
        "algorithms/split/part.py",
        "add_noise(sums, noise.deviation, noise.rng)",
        "add_noise(sums, 0.1 * noise.deviation, noise.rng)",
        (SPLIT,),
        "noised",
    ),
    Mutant(
        "a tenth of the noise on LiteRT's parts",
        "clients/litert_parts.py",
        "gaussian.draw(total.shape, noise.deviation,",
        "gaussian.draw(total.shape, 0.1 * noise.deviation,",
        (SPLIT_LITERT,),
    ),
    Mutant(
        "each part of a split network clipped by the whole's bound",
        "algorithms/split/noise.py",
        "    return Noise(settings.clip / parts**0.5, deviation, settings.sample_rate",
        "    return Noise(settings.clip, deviation, settings.sample_rate",
        (SPLIT,),
        "one_bound",
    ),
    Mutant(
        "one clip where two stand for each other, on a split device",
        "algorithms/split/noise.py",
        "2 * settings.noise_multiplier * settings.clip",
        "settings.noise_multiplier * settings.clip",
        (SPLIT,),
        "clipped_and_noised",
    ),
    Mutant(
        "a split run planned for one release an epoch",
        "algorithms/split/mechanisms.py",
        "steps=schedule.epochs * self._releases,",
        "steps=schedule.epochs,",
        (SPLIT,),
        "the_plan_counts",
    ),
    Mutant(
        "a tenth of the noise that the page draws",
        "clients/phone/page/random.js",
        "const radius = deviation *",
        "const radius = 0.1 * deviation *",
        (PAGE,),
        "random_numbers",
        page=True,
    ),
    Mutant(
        "a tenth of the noise in the page's steps",
        "clients/phone/page/trainer.js",
        "this._noise(settings.noise_multiplier * this.facts.clip, draws)",
        "this._noise(0.1 * settings.noise_multiplier * this.facts.clip, draws)",
        (PAGE,),
        "step_by_step",
        page=True,
    ),
    Mutant(
        "batches of a fixed size in the page",
        "clients/phone/page/random.js",
        "for (let i = 0; i < count; i++) if (uniform() < settings.sample_rate) batch.push(i);",
        "for (let i = 0; i < settings.sample_rate * count; i++) batch.push(below(count));",
        (PAGE,),
        "random_numbers",
        page=True,
    ),
    Mutant(
        "the page counts its noise as twice as large",
        "clients/phone/page/pld.js",
        "const kinds = [...grouped.values()]",
        "const kinds = [...grouped.values()].map(([noise, rate, steps]) => [2 * noise, rate, steps])",
        (PAGE,),
        "accountant",
        page=True,
    ),
    Mutant(
        "the page writes no charge down",
        "clients/phone/page/worker.js",
        "        await store.put('ledger', key, entry);\n",
        "",
        (PAGE,),
        "charged_once",
        page=True,
    ),
    Mutant(
        "the page spends whatever it is asked for",
        "clients/phone/page/ledger.js",
        "  if (!(after <= limit)) {",
        "  if (false) {",
        (PAGE,),
        "overspend",
        page=True,
    ),
    Mutant(
        "replies tell how many examples there are",
        "clients/halves.py",
        "    return Update(bundles, grids={} if settings.update_noise else update.grids)\n",
        "    return Update(bundles, update.weight + 1, update.facts)\n",
        chosen="replies",
    ),
    Mutant(
        "replies tell the loss",
        "clients/halves.py",
        "    return Update(bundles, grids={} if settings.update_noise else update.grids)\n",
        '    return Update(bundles, 1.0, {"train_loss": 1.0})\n',
        chosen="replies",
    ),
]


def survives(mutant: Mutant) -> str:
    """Run a sabotage's tests on a copy of the package; return what pytest said if none failed, "" if one did.

    Raises:
        LookupError: its place is gone.
    """
    with tempfile.TemporaryDirectory() as place:
        copied = Path(place) / "edgekit"
        shutil.copytree(Path(edgekit.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
        file = copied / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            raise LookupError(f"{mutant.name}: {mutant.file} holds its text {text.count(mutant.old)} times, not once")
        file.write_text(text.replace(mutant.old, mutant.new))
        start = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
        done = subprocess.run(
            [
                sys.executable, "-P", "-c", start, "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
                "-m", f"not long and {'' if mutant.page else 'not '}device", "-k", mutant.chosen, *mutant.tests,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )  # fmt: skip
        if done.returncode not in (0, 1):
            raise LookupError(f"{mutant.name}: its tests cannot be run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout.splitlines()[-1] if done.returncode == 0 else ""


def main(words: list[str]) -> int:
    """Run those chosen; return how many survive."""
    alive = 0
    for mutant in MUTANTS:
        if words and not any(word.lower() in mutant.name for word in words):
            continue
        told = survives(mutant)
        alive += bool(told)
        print(f"{'SURVIVES' if told else 'caught':8}  {mutant.name}  {told}", flush=True)
    return alive


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
