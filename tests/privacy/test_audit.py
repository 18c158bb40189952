"""Audits: the bounds against what papers say, the product's own loop against its claims, and sabotages against both."""

import itertools
import json
from math import comb, exp, inf, sqrt
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.cli.app import main
from edgekit.experiment import load
from edgekit.guarantee import Plan
from edgekit.pipeline import auditing
from edgekit.pipeline.auditing import audit_experiment
from edgekit.privacy import audit, gaussian

DELTA = 1e-5
KINDS = [("example", "server"), ("example", "client"), ("client", "server"), ("client", "client")]


def _plan(**changed):
    facts = {
        "unit": "client", "noise": "server", "target_epsilon": 2.0, "delta": DELTA, "accountant": "pld", "clip": 1.0,
        "sample_rate": 1.0, "steps": 1, "rounds": 4, "noise_multiplier": 4.0, "epsilon": 2.0,
        "adjacency": "add-or-remove-one", "sensitivity": 1.0,
    }  # fmt: skip
    return Plan(**{**facts, **changed})


def test_the_chance_of_right_guesses_is_the_theorems():
    """Steinke et al. 2023, theorem 5.2, its sums written out."""
    canaries, guesses, right, epsilon, delta = 40, 20, 16, 0.7, 1e-3
    q = 1 / (1 + exp(-epsilon))

    def chance(k):
        return comb(guesses, k) * q**k * (1 - q) ** (guesses - k)

    beyond = sum(chance(k) for k in range(right, guesses + 1))
    most = max(sum(chance(k) for k in range(right - i, right)) / i for i in range(1, right + 1))
    found = audit.guess_chance(canaries, guesses, right, epsilon, delta)
    assert found == pytest.approx(beyond + 2 * canaries * delta * most, rel=1e-9)
    assert audit.guess_chance(canaries, guesses, 0, epsilon, 0.0) == pytest.approx(1)


@pytest.mark.parametrize(("canaries", "most"), [(1000, 5.8), (10_000, 7.8)])
def test_so_many_canaries_show_no_more_than_was_computed(canaries, most):
    assert audit.least_epsilon(canaries, canaries, canaries, DELTA, 0.05) == pytest.approx(most, abs=0.05)


def test_randomised_response_is_above_its_epsilon_as_rarely_as_promised():
    """Warner's mechanism at epsilon 1, whose best guess is its answer: the hardest case for the bound."""
    rng, epsilon, runs, canaries = np.random.default_rng(0), 1.0, 400, 200
    above = 0
    for _ in range(runs):
        inside = rng.random(canaries) < 0.5
        told = np.where(rng.random(canaries) < 1 / (1 + exp(-epsilon)), inside, ~inside)
        found = audit.one_run(told + 1e-6 * rng.random(canaries), inside, 0.0, confidence=0.9)
        assert found.guesses == canaries // 2
        above += found.epsilon > epsilon
    assert 0 < above <= 0.1 * runs + 3 * sqrt(0.09 * runs)


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.2, 1), (0.25, 4)])
def test_the_size_of_noise_shows_what_is_too_small_by_a_fifth(rate, steps):
    from edgekit.privacy import solve_noise_multiplier

    rng, rounds, units = np.random.default_rng(1), 6, 2000
    multiplier = solve_noise_multiplier(2.0, DELTA, rate, rounds * steps)
    plan = _plan(sample_rate=rate, steps=steps, rounds=rounds)
    moved = rng.binomial(steps, rate, (rounds, units)).astype(float)
    noise = multiplier * sqrt(steps) * rng.standard_normal(rounds * units)
    assert 1.6 < audit.by_noise(moved, noise, plan) <= 2
    assert audit.by_noise(moved, 0.8 * noise, plan) > 2
    assert audit.by_noise(2 * moved, noise, plan) > 2, "units move twice the bound"
    assert audit.by_noise(moved, 0 * noise, plan) == inf
    assert audit.by_noise(0 * moved, noise, plan) == 0


@pytest.fixture(autouse=True)
def _the_same_coins(monkeypatch):
    """One in a thousand honest audits ends above its claim: the suite draws the same ones each time."""
    numbers = itertools.count(1)
    monkeypatch.setattr(auditing, "secrets", SimpleNamespace(randbits=lambda bits: next(numbers)))


def _audited(*overrides, canaries=1000):
    quick = ["privacy.epsilon=2", "federation.rounds=4", "training.epochs=1", "data.clients=8"]
    return audit_experiment(load(None, [*quick, *overrides]), canaries, lambda line: None, lambda metrics, rounds: None)


def _kind(unit, noise):
    return f"privacy.unit={unit}", f"privacy.noise={noise}"


@pytest.mark.parametrize(
    ("unit", "noise", "more", "canaries"),
    [
        ("example", "server", (), 400),
        ("example", "client", (), 400),
        ("client", "server", ("federation.cohort=2", "training.learning_rate=3"), 600),
        ("client", "client", ("federation.cohort=4",), 400),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("example", "client", ("training.trainer=litert",), 200),
                ("example", "server", ("training.trainer=one-by-one", "privacy.expected_examples=30"), 200),
                ("example", "client", ("training.trainer=one-by-one", "training.momentum=0.9"), 200),
                ("example", "client", ("privacy.sample_rate=1", "training.epochs=2"), 400),
                ("client", "server", (), 400),
                ("client", "server", ("federation.algorithm=fedprox", "training.epochs=3"), 400),
                ("client", "server", ("federation.strategy=FedAdam",), 400),
                ("client", "client", ("training.trainer=litert", "federation.rounds=2"), 200),
            )
        ),
    ],
)
def test_no_bound_is_above_its_claim_and_none_is_far_below(unit, noise, more, canaries):
    found = _audited(*_kind(unit, noise), *more, canaries=canaries)
    assert found["holds"], found
    assert found["claim"] == pytest.approx(2, rel=0.01)
    assert 1.2 < found["by_noise"] <= found["claim"], found
    assert found["one_run"] < found["claim"], found
    assert found["guesses"] == found["canaries"] // 2


@pytest.mark.parametrize(("unit", "noise"), [KINDS[0], KINDS[3]])
def test_a_fifth_less_noise_at_rate_one_is_refuted(unit, noise, monkeypatch):
    draw = gaussian.draw
    monkeypatch.setattr(gaussian, "draw", lambda shape, deviation, rng, dtype: draw(shape, 0.8 * deviation, rng, dtype))
    found = _audited(*_kind(unit, noise), "privacy.sample_rate=1", canaries=600)
    assert not found["holds"]
    assert found["by_noise"] > found["claim"]


@pytest.mark.parametrize(("unit", "noise"), KINDS[1:2])
def test_a_tenth_of_the_noise_is_refuted_by_guesses_alone(unit, noise, monkeypatch):
    draw = gaussian.draw
    monkeypatch.setattr(gaussian, "draw", lambda shape, deviation, rng, dtype: draw(shape, 0.1 * deviation, rng, dtype))
    found = _audited(*_kind(unit, noise))
    assert found["one_run"] > found["claim"]
    assert found["one_run"] <= found["one_run_at_most"]


def test_no_norm_that_was_clipped_is_above_the_bound():
    """In all of float32's range, one example among thousands, over several arrays."""
    import torch

    from edgekit.privacy import tensors

    rng = np.random.default_rng(0)
    for scale, bound in itertools.product((1e-6, 1.0, 1e4, 1e15), (1e-3, 1.0, 50.0)):
        arrays = [(scale * rng.standard_normal((64, *shape))).astype(np.float32) for shape in ((500, 3), (7,), ())]
        held = tensors.clipped([torch.from_numpy(array) for array in arrays], bound)
        norms = sqrt_of_squares([one.numpy().reshape(64, -1) for one in held])
        assert norms.max() <= bound * (1 + 1e-6)
        whole = gaussian.clip({str(i): array for i, array in enumerate(arrays)}, bound)
        assert sqrt_of_squares([array.reshape(1, -1) for array in whole.values()]).max() <= bound * (1 + 1e-6)


def sqrt_of_squares(rows):
    return np.sqrt(sum(np.square(one, dtype=np.float64).sum(1) for one in rows))


def _told(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["privacy", "audit", *arguments])
    out = capsys.readouterr()
    return end.value.code, out.out, out.err


QUICK = ["privacy.unit=example", "privacy.epsilon=2", "federation.rounds=2", "--canaries", "100"]


def test_the_command_says_what_it_found_and_ends_with_it(capsys, monkeypatch):
    code, out, _ = _told(capsys, *QUICK)
    assert code == 0
    assert "nothing speaks against the claim" in out
    assert "at least" in out
    code, out, _ = _told(capsys, *QUICK, "--json")
    assert (code, json.loads(out)["canaries"]) == (0, 100)
    code, out, _ = _told(capsys, "privacy.unit=example", "privacy.epsilon=30", *QUICK[2:])
    assert (code, "cannot refute this claim" in out) == (0, True)
    draw = gaussian.draw
    monkeypatch.setattr(gaussian, "draw", lambda shape, deviation, rng, dtype: draw(shape, 0.1 * deviation, rng, dtype))
    code, out, _ = _told(capsys, *QUICK)
    assert code == 1
    assert "REFUTED" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["privacy.unit=none"], "privacy.unit none"),
        (["privacy.unit=example", "split.cut=auto"], "split learning"),
        ([*QUICK[:3], "--canaries", "3"], "20 to 20000"),
        (["privacy.unit=client", "federation.algorithm=scaffold", "privacy.clips.control=1"], "sees one bundle"),
        (["none.toml"], "none.toml does not exist"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(capsys, arguments, words):
    code, _, err = _told(capsys, *arguments)
    assert code
    assert words in err
    assert len(err.strip().splitlines()) == 1
