"""The noise of whole rounds, as it leaves the product's own loop: its size, shape and independence.

Epsilon is so small here that examples' own part is nothing beside the noise, so what moved is the noise.
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from edgekit.asks import WEIGHTS, State, Update
from edgekit.clients.torch_trainer import state
from edgekit.data import batches, load
from edgekit.models import build
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint
from edgekit.server.loop.sync import Coordinator

KINDS = [("example", "server"), ("example", "client"), ("client", "server"), ("client", "client")]
CLIENTS, ROUNDS = 3, 3
FIRST = "layers.1.weight"
TRAINERS = ["cohort", "one-by-one", "litert"]


class Watched:
    """A short run whose rounds are kept: weights after each, and each client's reply.

    Attributes:
        steps: what each round's model moved by, by array.
        changes: what each client's update moved by: (round, client) -> by array.
        sizes: of all Poisson batches that were drawn, in order.
        drawn: these batches.
    """

    def __init__(self, place, experiment, monkeypatch, private_seed=None):
        self.drawn = []
        plain = batches.poisson

        def kept(examples, rate, steps, rng):
            found = plain(examples, rate, steps, rng)
            self.drawn.extend((examples, rate, batch) for batch in found)
            return found

        monkeypatch.setattr(batches, "poisson", kept)
        dataset = load(experiment.data, experiment.seed)
        model = build(experiment.model, dataset.shape, 10, experiment.seed, dataset.calibration.x)
        place.mkdir()
        self.coordinator = Coordinator(experiment, dataset, model, RunFolder(place), private_seed=private_seed)
        self.drawn.clear()  # of what was tried before the run
        self.plan, self.changes, self.replies, models = self.coordinator.plan, {}, [], [state(model)]
        exchange, save = self.coordinator.engine.exchange, checkpoint.save

        def watched(asks, fold=None):
            found = exchange(asks)
            for reply in found.replies:
                ask = asks[reply.client]
                self.replies.append(reply.update)
                if ask.settings.work != "clipped-sum":
                    sent, got = ask.bundles[WEIGHTS], reply.update.bundles[WEIGHTS]
                    self.changes[ask.round, reply.client] = {name: got[name] - sent[name] for name in sent}
            return found

        def saved(folder, made, **more):
            models.append(made.state.bundles[WEIGHTS])
            save(folder, made, **more)

        monkeypatch.setattr(self.coordinator.engine, "exchange", watched)
        monkeypatch.setattr(checkpoint, "save", saved)
        self.outcome = self.coordinator.run()
        self.steps = [
            {name: after[name] - before[name] for name in after} for before, after in itertools.pairwise(models)
        ]
        monkeypatch.undo()


@pytest.fixture
def watch(tmp_path, make_experiment, monkeypatch):
    def make(unit, noise, *more, trainer="cohort", name="run", **seeds):
        chosen = [
            f"privacy.unit={unit}", f"privacy.noise={noise}", "privacy.epsilon=0.02", "model.name=mlp",
            "model.arguments={hidden=[24]}", f"data.clients={CLIENTS}", f"federation.rounds={ROUNDS}",
            "training.epochs=1", "data.alpha=100", "privacy.sample_rate=0.5", f"training.trainer={trainer}",
        ]  # fmt: skip
        experiment = make_experiment(*chosen, *more)
        return Watched(tmp_path / name, experiment, monkeypatch, **seeds)

    return make


def _released(run, unit, noise):
    """Return what each round releases, divided by what its noise should measure: (arrays by name) each."""
    plan, dataset = run.plan, run.coordinator.dataset
    scale = plan.noise_multiplier * plan.sensitivity
    if noise == "server":
        each = plan.sample_rate * dataset.total_examples if unit == "example" else run.coordinator.cohort
        return [{name: step[name] * each / scale for name in step} for step in run.steps]
    found = []
    for (_, client), change in sorted(run.changes.items()):
        size = scale
        if unit == "example":  # the sum of the steps' noises, each by the learning rate over the expected batch
            settings = run.coordinator.local_settings
            expected = plan.sample_rate * len(dataset.client(client))
            size = scale * settings.learning_rate / expected * plan.steps**0.5
        found.append({name: change[name] / size for name in change})
    return found


@pytest.mark.parametrize(
    ("unit", "noise", "trainer"),
    [
        ("example", "server", "cohort"),
        ("client", "server", "cohort"),
        *(("example", "client", trainer) for trainer in TRAINERS),
        ("client", "client", "cohort"),
    ],
)
def test_noise_is_gaussian_of_the_planned_size_in_every_array_round_and_client(watch, unit, noise, trainer):
    released = _released(watch(unit, noise, trainer=trainer), unit, noise)
    assert len(released) == (ROUNDS if noise == "server" else ROUNDS * CLIENTS)
    for name in released[0]:
        flat = np.concatenate([one[name].ravel() for one in released])
        # Of n values the sample deviation is off by 1/sqrt(2n); five of these happen once in a million.
        assert abs(flat.std() - 1) < 5 / np.sqrt(2 * flat.size) + 0.01, (name, flat.std())
    whole = np.concatenate([one[name].ravel() for one in released for name in one])
    assert stats.kstest(whole, "norm").pvalue > 1e-4
    rows = np.array([np.concatenate([one[name].ravel() for name in one]) for one in released])
    alike = np.abs(np.corrcoef(rows) - np.eye(len(rows)))
    assert alike.max() < 6 / np.sqrt(rows.shape[1])
    for one in released:  # nor is an array's noise that of another
        arrays = [one[name].ravel() for name in one]
        for i, left in enumerate(arrays):
            for right in arrays[i + 1 :]:
                size = min(len(left), len(right))
                assert np.abs(left[:size] - right[:size]).mean() > 0.3


@pytest.mark.parametrize("trainer", ["cohort", "one-by-one"])
@pytest.mark.parametrize("noise", ["server", "client"])
def test_batches_are_poissons_and_new_in_every_round_and_client(watch, noise, trainer):
    run = watch("example", noise, "federation.rounds=6", trainer=trainer)
    batch_of = [(examples, set(batch.tolist())) for examples, _, batch in run.drawn]
    steps = 1 if noise == "server" else run.plan.steps
    assert len(batch_of) == 6 * CLIENTS * steps
    scores = [(len(batch) - 0.5 * n) / (0.5 * n**0.5) for n, batch in batch_of]
    assert 0.4 < np.std(scores) < 1.6  # a fixed size would have none
    assert all(one != other for i, (_, one) in enumerate(batch_of) for _, other in batch_of[i + 1 :])


@pytest.mark.parametrize(("unit", "noise"), KINDS)
def test_replies_tell_neither_how_many_examples_there_are_nor_losses(watch, unit, noise):
    run = watch(unit, noise)
    assert {update.weight for update in run.replies} == {1.0}
    assert all(not update.facts for update in run.replies)


@pytest.mark.parametrize(("unit", "noise"), KINDS)
def test_system_randomness_is_not_the_seeds(watch, unit, noise):
    one, other = (
        watch(unit, noise, "privacy.randomness=system", "federation.rounds=1", name=name) for name in ("one", "other")
    )
    alike = np.corrcoef(one.steps[0][FIRST].ravel(), other.steps[0][FIRST].ravel())[0, 1]
    assert abs(alike) < 0.3
    seeded, again = (watch(unit, noise, "federation.rounds=1", name=name) for name in ("seeded", "again"))
    assert np.array_equal(seeded.steps[0][FIRST], again.steps[0][FIRST])


@pytest.mark.parametrize(("unit", "noise"), KINDS)
def test_the_plan_is_for_all_rounds_and_steps(watch, unit, noise):
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    run = watch(unit, noise, "privacy.epsilon=2", "federation.rounds=2")
    event = GaussianDpEvent(run.plan.noise_multiplier)
    if run.plan.sample_rate < 1:
        event = PoissonSampledDpEvent(run.plan.sample_rate, event)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(SelfComposedDpEvent(event, 2 * run.plan.steps))
    assert accountant.get_epsilon(run.plan.delta) == pytest.approx(2, rel=0.01)
    assert run.plan.sensitivity == (2 if (unit, noise) == ("client", "client") else 1) * run.plan.clip


def test_what_the_server_takes_of_a_client_is_clipped_whatever_it_sends(watch, monkeypatch, tmp_path):
    """A client that ignores its bound moves the sum by no more than the others may."""
    run = watch("client", "server", "privacy.epsilon=50", "federation.rounds=1")
    coordinator = run.coordinator
    weights = {name: np.zeros_like(array) for name, array in coordinator._first.state.bundles[WEIGHTS].items()}
    huge = {name: np.full_like(array, 1e6) for name, array in weights.items()}
    monkeypatch.setattr("edgekit.privacy.gaussian.add_noise", lambda held, deviation, rng: held)
    updates = {0: Update({WEIGHTS: huge}), 1: Update({WEIGHTS: dict(weights)})}
    state_, _, _ = coordinator.merging.merged(
        State({WEIGHTS: weights}), [State({})], 1, updates, {WEIGHTS: weights}, weights
    )
    moved = state_.bundles[WEIGHTS]
    norm = np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in moved.values()))
    # By the planned cohort, whoever came: else the divisor would tell how many did.
    assert norm == pytest.approx(run.plan.clip / CLIENTS, rel=1e-4)
    layers = [np.abs(array).max() for array in moved.values()]
    assert max(layers) == pytest.approx(min(layers), rel=1e-3)  # together, not layer by layer
