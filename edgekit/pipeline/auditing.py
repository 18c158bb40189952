"""`edgekit privacy audit`: canaries through an experiment's own loop, and what can be told of them afterwards.

The network is a linear one of two classes that begins at zero, and canary j has its own input j alone: so it moves its
own two weights, against each other, as far as the bound lets it (the strongest unit there is), and nothing else. What
an experiment's own network and examples move is never more. All else is the experiment's: its mechanism, plan, method,
transforms, rounds, trainer and batches.
"""

import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.asks import WEIGHTS, Aggregate, Ask, State
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.data import Examples, FederatedDataset
from edgekit.errors import EdgekitError, UsageError
from edgekit.experiment import Experiment
from edgekit.guarantee import Plan
from edgekit.pipeline.subjects import load_dataset
from edgekit.privacy import audit
from edgekit.runfolder import RunFolder
from edgekit.server.engines.base import Exchanged, Fold
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.server.loop.sync import Coordinator
from edgekit.transforms.base import Round

CANARIES = 1000
LEAST, MOST = 20, 20_000
_WIDTH = 25
_BLANKS = 8
"""Examples that the server has for itself."""


@dataclass
class Seen:
    """What rounds gave: of each, how far it moved every input's two weights against each other, and together.

    Attributes:
        apart: (rounds, canaries), of each canary's own client where clients add the noise.
        together: likewise; canaries move nothing there, so it is noise alone.
    """

    apart: list[NDArray[np.float64]] = field(default_factory=list)
    together: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, moved: NDArray[np.float64]) -> None:
        """Take in one round's movement of the weights, (2, canaries)."""
        self.apart.append((moved[1] - moved[0]) / 2**0.5)
        self.together.append((moved[1] + moved[0]) / 2**0.5)


class Canaries:
    """Units of an auditor's in an experiment.

    Args:
        experiment: with privacy.
        count: of them.

    Raises:
        UsageError: there is nothing to audit, or it is not a number of canaries.
    """

    def __init__(self, experiment: Experiment, count: int) -> None:
        if not experiment.privacy.on:
            raise UsageError("there is nothing to audit: the experiment has privacy.unit none; set it")
        if experiment.split.on:
            raise UsageError(
                "split learning's noise is not audited here: leave [split] out, or use edgekit split attack"
            )
        if experiment.privacy.clips:
            raise UsageError(
                f"an audit sees one bundle, and {experiment.federation.method} sends more (privacy.clips): audit the "
                "privacy with federation.algorithm=fedavg"
            )
        if not LEAST <= count <= MOST:
            raise UsageError(f"--canaries {count}: there are {LEAST} to {MOST}")
        self.count = -(-count // _WIDTH) * _WIDTH
        self.of_clients = experiment.privacy.unit == "client"
        self.clients = self.count if self.of_clients else min(self.count, experiment.data.clients)
        self.experiment = self._audited(experiment)

    def _audited(self, experiment: Experiment) -> Experiment:
        """Return the experiment with what belongs to the canaries: their number, and steps that never saturate them."""
        federation, privacy = experiment.federation, experiment.privacy
        cohort, expected = 0, 0.0
        if self.of_clients and privacy.noise == "server" and federation.cohort:  # who takes part is part of the claim
            cohort = max(1, round(federation.cohort / load_dataset(experiment).clients * self.count))
        if privacy.expected_examples:
            expected = self.count / self.clients
        # An example's gradient is ten times its bound, and steps are so short that it stays so; a client's first step
        # takes it far beyond its bound.
        self.scale = 0.01 / privacy.clip if self.of_clients else 20 * privacy.clip
        rate = 40 * privacy.clip / self.scale if self.of_clients else 1e-6 / (self.scale * privacy.clip)
        plainly = {"keep": "last", "stop_at": 0.0, "average_last": 0.0, "evaluate_every": federation.rounds}
        # One step of a client's own is as long as any: it is clipped.
        one_step = {"epochs": 1} if self.of_clients else {}
        training = experiment.training.model_copy(
            update={
                **one_step,
                "learning_rate": rate, "schedule": "constant", "warm_up": 0, "momentum": 0.0, "nesterov": False,
                "weight_decay": 0.0, "gradient_clip": 0.0, "optimiser": "sgd",
            }
        )  # fmt: skip
        return experiment.model_copy(
            update={
                "federation": federation.model_copy(update={"cohort": cohort, **plainly}),
                "privacy": privacy.model_copy(
                    update={"expected_examples": expected, "learning_rate": rate, "ledger": ""}
                ),
                "training": training,
                "data": experiment.data.model_copy(update={"clients": self.clients, "client_test_fraction": 0.0}),
            }
        )

    def network(self) -> nn.Module:
        """Return the network that shows each canary by itself."""
        linear = nn.Linear(self.count, 2, bias=False)
        nn.init.zeros_(linear.weight)
        return nn.Sequential(nn.Flatten(), linear)

    def whose(self) -> NDArray[np.int64]:
        """Return each canary's client."""
        return np.arange(self.count) % self.clients

    def dataset(self, inside: NDArray[np.bool_]) -> FederatedDataset:
        """Return the data of which some canaries are part; in the others' places is what the guarantee sets against it.

        That is a blank, which moves nothing; or, of a client that hides its update behind its own noise, another
        client's: one that moves the same weights the other way.
        """
        whose, shape = self.whose(), (1, self.count // _WIDTH, _WIDTH)
        other = self.of_clients and self.experiment.privacy.noise == "client"

        def load(client: int) -> Examples:
            own = np.flatnonzero(whose == client)
            x = np.zeros((len(own), self.count), np.float32)
            x[np.arange(len(own)), own] = self.scale * (inside[own] | other)
            return Examples(x.reshape(len(own), *shape), np.where(inside[own] | (not other), 1, 0).astype(np.int64))

        rng = np.random.default_rng(0)
        blanks = Examples(
            rng.random((_BLANKS, *shape), np.float32) * np.float32(self.scale), np.arange(_BLANKS, dtype=np.int64) % 2
        )
        return FederatedDataset(
            self.clients, load, blanks, blanks, ["0", "1"], f"{self.count} canaries", total_examples=self.count
        )


def audit_experiment(
    experiment: Experiment, canaries: int, say: Callable[[str], None], on_round: Callable[[RoundMetrics, int], None]
) -> dict[str, Any]:
    """Train with canaries, tell from what the mechanism gave which were in, and return what that shows.

    Args:
        experiment: with privacy.
        canaries: how many, rounded up to a multiple of 25.
        say: called with a line for people.
        on_round: called after each round with its metrics and the number of rounds.

    Raises:
        UsageError: there is nothing to audit.
        EdgekitError: the experiment cannot be run.
    """
    made = Canaries(experiment, canaries)
    torch.set_num_threads(1)
    keep_freed_memory()
    # From the system's entropy, whatever the experiment says: a bound holds over coins and noise that nobody chose.
    inside = np.random.default_rng(secrets.randbits(128)).random(made.count) < 0.5
    seed = secrets.randbits(128)
    with tempfile.TemporaryDirectory() as place:
        seen, plan, trainer = _run(made, inside, Path(place) / "in", seed, say, on_round)
        found = audit.one_run(np.sum(seen.apart, 0), inside, plan.delta)
        # The same random numbers once more, with nobody in: what is different is what canaries move.
        say("once more with the same random numbers and no canary in")
        empty, _, _ = _run(made, np.zeros_like(inside), Path(place) / "out", seed, say, on_round)
    moved = np.array([(one - other)[inside] for one, other in zip(seen.apart, empty.apart, strict=True)])
    if not moved.mean() > 0:
        raise EdgekitError(
            f"canaries moved nothing through {made.experiment.federation.method} and its transforms, so nothing can be "
            "told of its noise: audit the privacy with federation.algorithm=fedavg and no transforms"
        )
    by_noise = audit.by_noise(moved, np.concatenate(empty.together), plan)
    at_least = max(found.epsilon, by_noise)
    return {
        "unit": plan.unit,
        "noise": plan.noise,
        "delta": plan.delta,
        "claim": round(plan.epsilon, 4),
        "at_least": round(at_least, 4),
        "holds": at_least <= plan.epsilon,
        "one_run": round(found.epsilon, 4),
        "one_run_at_most": round(found.most, 4),
        "by_noise": round(by_noise, 4),
        "confidence": audit.CONFIDENCE,
        "canaries": made.count,
        "guesses": found.guesses,
        "right": found.right,
        "noise_multiplier": round(plan.noise_multiplier, 4),
        "sample_rate": plan.sample_rate,
        "rounds": plan.rounds,
        "steps": plan.steps,
        "trainer": trainer,
    }


def _run(
    made: Canaries,
    inside: NDArray[np.bool_],
    place: Path,
    seed: int,
    say: Callable[[str], None],
    on_round: Callable[[RoundMetrics, int], None],
) -> tuple[Seen, Plan, str]:
    """Run the experiment's rounds; return what its mechanism gave, its plan, and how clients trained."""
    rounds = made.experiment.federation.rounds
    coordinator = Coordinator(
        made.experiment,
        made.dataset(inside),
        made.network(),
        RunFolder.create(place),
        on_round=lambda metrics: on_round(metrics, rounds),
        on_notice=say,
        private_seed=seed,
    )
    seen = Seen()
    _watch(coordinator, made, seen)
    outcome = coordinator.run()
    assert coordinator.plan is not None
    if outcome.rounds < rounds or len(seen.apart) < rounds:
        raise UsageError(f"the run ended after {outcome.rounds} of {rounds} rounds: there is nothing to say of it")
    return seen, coordinator.plan, outcome.trainer


def _watch(coordinator: Coordinator, made: Canaries, seen: Seen) -> None:
    """Have what leaves the mechanism seen, as whoever it hides examples from sees it."""
    mechanism, engine = coordinator.mechanism, coordinator.engine
    assert mechanism is not None
    whose = made.whose()

    def weights(bundle: Mapping[str, Any]) -> NDArray[np.float64]:
        (array,) = bundle.values()
        return np.asarray(array, np.float64)

    if mechanism.at_server:  # all it gives is what goes on to the method
        released = mechanism.on_aggregate

        def aggregated(
            got: Aggregate, state: State, round_: Round, rng: np.random.Generator
        ) -> tuple[Aggregate, State]:
            given, after = released(got, state, round_, rng)
            seen.add(weights(given.bundles[WEIGHTS]) - weights(round_.weights))
            return given, after

        mechanism.on_aggregate = aggregated  # type: ignore[method-assign]
        return
    exchange, engine.folds = engine.exchange, False  # all of a round is watched together

    def exchanged(asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
        found = exchange(asks)
        moved = np.zeros((2, made.count))
        for reply in found.replies:
            if reply.update is not None:
                own = whose == reply.client
                sent = weights(asks[reply.client].bundles[WEIGHTS])
                moved[:, own] = (weights(reply.update.bundles[WEIGHTS]) - sent)[:, own]
        seen.add(moved)
        return found

    engine.exchange = exchanged  # type: ignore[method-assign]
