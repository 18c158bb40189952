"""Attackers of simulations, against their papers' equations, and on digits."""

import sys

import numpy as np
import pytest
from torch import nn

from edgekit.asks import BUFFERS, WEIGHTS
from edgekit.data import Examples
from edgekit.errors import EdgekitError, ExperimentError
from edgekit.randomness import generator
from edgekit.runfolder import read_lines
from edgekit.server.attacks.attackers import SUCCESS
from edgekit.server.attacks.poisoning import takes_trigger, with_trigger
from edgekit.server.attacks.updates import KINDS
from edgekit.server.loop.evaluation import outputs_of

RNG = np.random.default_rng(0)
OWN, OTHERS = RNG.normal(size=(3, 40)), RNG.normal(size=(12, 40))


def _sent(kind, strength=0.0, own=OWN, others=OTHERS):
    return KINDS[kind](own, others, strength, np.random.default_rng(1))


def test_what_is_sent_instead_is_as_long_as_it_says():
    np.testing.assert_allclose(_sent("sign"), -OWN)
    np.testing.assert_allclose(_sent("sign", 4.0), -4 * OWN)
    np.testing.assert_allclose(_sent("scale"), 10 * OWN)
    assert not _sent("free-rider").any()
    np.testing.assert_allclose(np.linalg.norm(_sent("noise", 3.0), axis=1), 3 * np.linalg.norm(OWN, axis=1))
    assert abs(np.corrcoef(_sent("noise")[0], OWN[0])[0, 1]) < 0.6


def test_a_replaced_model_is_the_mean():
    """Bagdasaryan et al. 2020, equation 3, where honest clients stay where they are."""
    sent = _sent("replacement", own=OWN[:1].repeat(3, 0))
    np.testing.assert_allclose(np.concatenate([sent, 0 * OTHERS]).mean(0), OWN[0])


def test_a_little_is_enough():
    """Baruch et al. 2019, section 4.1: of 50 clients 24 attack, and z is 1.43 (a table of the normal distribution)."""
    own = RNG.normal(size=(24, 40))
    sent = _sent("little", own=own, others=RNG.normal(size=(26, 40)))
    assert (sent == sent[0]).all()
    np.testing.assert_allclose((own.mean(0) - sent[0]) / own.std(0), 1.43, atol=0.005)
    np.testing.assert_allclose(_sent("little", 2.0)[0], OWN.mean(0) - 2 * OWN.std(0))


def test_min_max_goes_as_far_as_the_others_are_apart():
    """Shejwalkar & Houmansadr 2021, equation 7."""
    sent = _sent("min-max")[0]
    apart = max(np.linalg.norm(one - other) for one in OTHERS for other in OTHERS)
    assert np.linalg.norm(OTHERS - sent, axis=1).max() == pytest.approx(apart, rel=1e-6)
    aside = sent - OTHERS.mean(0)
    gamma = -aside / OTHERS.std(0)
    np.testing.assert_allclose(gamma, gamma[0])
    same = np.ones((4, 40))
    np.testing.assert_allclose(_sent("min-max", others=same), np.ones((3, 40)))
    assert np.isfinite(_sent("min-max", others=OTHERS[:0])).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (64,), (128, 3)])
def test_a_trigger_is_in_the_last_corner(shape):
    x = np.zeros((2, *shape), np.float32)
    changed = with_trigger(x, 3.0)
    assert not x.any()
    assert set(np.unique(changed)) == {0.0, 3.0}
    assert (changed[0].reshape(-1)[-2:] == 3.0).all()
    assert takes_trigger(shape)
    assert (changed > 0).mean() < 0.1


KEYS = ("data.clients=10", "data.alpha=100", "model.name=mlp", "federation.rounds=2", "training.learning_rate=0.1")


def _run(coordinate, make_experiment, kind, *keys, name="run"):
    made = coordinate(make_experiment(*KEYS, f"attack.kind={kind}", *keys), name)
    return made, made.run().weights


def test_labels_are_flipped_at_attackers_alone(coordinate, make_experiment):
    made, _ = _run(coordinate, make_experiment, "label-flip", "attack.share=0.3")
    attackers = made.attackers.clients
    wanted = generator(0, "attackers").choice(10, 3, replace=False)
    assert attackers == set(wanted.tolist())
    there = made.engine._here.clients.dataset.at(1)
    for client in range(10):
        own, has = made.dataset.load_client(client), there.load_client(client)
        assert np.array_equal(has.x, own.x)
        assert np.array_equal(has.y, 9 - own.y if client in attackers else own.y)


def test_a_backdoor_opens_and_is_told(coordinate, make_experiment, tmp_path):
    keys = ("attack.share=0.3", "attack.target=3", "federation.rounds=4")
    made, _ = _run(coordinate, make_experiment, "replacement", *keys)
    there = made.engine._here.clients.dataset.at(1)
    client = next(iter(made.attackers.clients))
    own, has = made.dataset.load_client(client), there.load_client(client)
    changed = (has.x != own.x).reshape(len(own), -1).any(1)
    assert 0.3 < changed.mean() < 0.7
    assert (has.y[changed] == 3).all()
    assert np.array_equal(has.y[~changed], own.y[~changed])
    told = [line["metrics"][SUCCESS] for line in read_lines(tmp_path / "run/metrics.jsonl")]
    test = made.dataset.test
    shown = with_trigger(test.x[test.y != 3], float(made.dataset.calibration.x.max()))
    found = outputs_of(made.model, Examples(shown, test.y[test.y != 3])).argmax(1)
    assert told[-1] == pytest.approx((found == 3).mean(), abs=1e-6)
    assert told[-1] > 0.5


def test_attacks_begin_with_their_round_and_are_the_same_on_every_engine(coordinate, make_experiment, monkeypatch):
    monkeypatch.setattr("edgekit.server.engines.shards.SHARD", 3)
    clean = coordinate(make_experiment(*KEYS), "clean").run().weights
    later = _run(coordinate, make_experiment, "noise", "attack.start=3", name="later")[1]
    whole = _run(coordinate, make_experiment, "noise", "training.trainer=cohort", name="whole")[1]
    several = ("training.trainer=cohort", "training.workers=2")
    made = _run(coordinate, make_experiment, "noise", *several, name="several")[1]
    for name, array in clean.items():
        np.testing.assert_allclose(later[name], array, atol=1e-5)  # which folds nothing
        assert np.array_equal(made[name], whole[name])
    assert any(not np.allclose(whole[name], clean[name], atol=1e-2) for name in clean)


@pytest.mark.parametrize("kind", ["sign", "little", "min-max", "free-rider"])
@pytest.mark.parametrize("method", ["scaffold", pytest.param("fednova", marks=pytest.mark.long)])
def test_attacks_go_with_methods_that_send_more_than_weights(kind, method, coordinate, make_experiment):
    _, weights = _run(coordinate, make_experiment, kind, f"federation.algorithm={method}")
    assert all(np.isfinite(array).all() for array in weights.values())


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (("attack.kind=sign", "attack.share=0.05"), "attack.share 0.05 of 10 clients is nobody"),
        (("attack.kind=sign", "attack.share=0.6", "federation.algorithm=rfa"), "the method stands 0.5 of the clients"),
        (("attack.kind=sign", "attack.share=0.3", "federation.strategy=FedTrimmedAvg"), "the method stands 0.2 of"),
        (("attack.kind=backdoor", "attack.target=10"), "attack.target is 10, but there are 10 classes"),
        (("attack.kind=sing",), r"attack\.kind"),
        (("attack.kind=min-max", "privacy.unit=client"), "sees the others' updates, which noise by the server hides"),
        (("attack.kind=sign", "attack.share=1"), r"attack\.share"),
        (("attack.kind=sign", "split.cut=layers.2"), "use another method"),
    ],
)
def test_attacks_without_meaning_are_refused_before_training(keys, problem, coordinate, make_experiment):
    with pytest.raises(EdgekitError, match=problem):
        coordinate(make_experiment(*KEYS, *keys))


def test_real_devices_are_not_attacked(coordinate, make_experiment):
    with pytest.raises(ExperimentError, match=r"\[attack\] is of simulated clients"):
        coordinate(make_experiment(*KEYS, "attack.kind=sign"), engine=lambda algorithm, mechanism: None)


def test_a_trigger_needs_room():
    assert not any(takes_trigger(shape) for shape in [(4,), (1, 2, 2), (3, 1)])


@pytest.mark.parametrize("kind", ["label-flip", "backdoor"])
def test_examples_are_poisoned_from_the_first_round_of_the_attack_on(kind, coordinate, make_experiment):
    clean = coordinate(make_experiment(*KEYS), "clean").run().weights
    never = _run(coordinate, make_experiment, kind, "attack.start=3", name="never")[1]
    late = _run(coordinate, make_experiment, kind, "attack.start=2", name="late")[1]
    assert all(np.array_equal(never[name], array) for name, array in clean.items())
    assert any(not np.array_equal(late[name], array) for name, array in clean.items())


def _watched(coordinate, make_experiment, kind, *keys):
    """Return an attacked run's coordinator, and what was sent: (ask, update) by client of the last round."""
    made = coordinate(make_experiment(*KEYS, "attack.share=0.3", f"attack.kind={kind}", *keys), kind)
    exchange, seen = made.engine.exchange, {}

    def exchanged(asks, fold=None):
        found = exchange(asks)
        seen.update({reply.client: (asks[reply.client], reply.update) for reply in found.replies})
        return found

    made.engine.exchange = exchanged
    made.run()
    return made, seen


def _length(ask, update):
    sent = ask.bundles[WEIGHTS]
    return np.sqrt(sum(float(((a - sent[n]) ** 2).sum()) for n, a in update.bundles[WEIGHTS].items()))


@pytest.mark.parametrize("noise", ["server", "client"])
def test_attackers_are_bounded_under_privacy_as_all_are(noise, coordinate, make_experiment):
    keys = ("privacy.unit=client", f"privacy.noise={noise}", "attack.strength=100")
    made, seen = _watched(coordinate, make_experiment, "scale", *keys)
    clip = made.experiment.privacy.clip
    for client in set(seen) & made.attackers.clients:
        assert _length(*seen[client]) <= clip * (1 + 1e-5)


def test_attacks_leave_alone_what_does_not_move_the_model(coordinate, make_experiment):
    made, seen = _watched(coordinate, make_experiment, "sign", "federation.algorithm=ifca")
    for client in made.attackers.clients:
        assert sorted(seen[client][1].bundles["members"]["place"]) == [0.0, 1.0]
    made, seen = _watched(coordinate, make_experiment, "noise", "federation.algorithm=qfedavg")
    for client in made.attackers.clients:
        assert seen[client][1].bundles["curvature"]["h"][0] > 0


class Normed(nn.Sequential):
    """A network with running statistics."""

    def __init__(self, *about):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize("kind", ["sign", "free-rider"])
def test_attackers_send_running_statistics_that_can_be_taken(kind, coordinate, make_experiment, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "attacked", sys.modules[__name__])
    made, seen = _watched(coordinate, make_experiment, kind, "model.name=attacked:Normed", "model.arguments={}")
    assert [line["failures"] for line in read_lines(tmp_path / kind / "metrics.jsonl")] == [0, 0]
    for client in made.attackers.clients:
        ask, update = seen[client]
        same = np.array_equal(update.bundles[BUFFERS]["2.running_var"], ask.bundles[BUFFERS]["2.running_var"])
        assert same == (kind == "free-rider")


def test_a_backdoor_that_nobody_can_be_led_to_has_no_figure(coordinate, make_experiment):
    made = coordinate(make_experiment(*KEYS, "attack.kind=backdoor", "attack.target=3"))
    own = made.dataset.test.y == 3
    few = Examples(made.dataset.test.x[own], made.dataset.test.y[own])
    assert made.attackers.metrics(made.model, made._first.state.bundles[WEIGHTS], few) == {}
