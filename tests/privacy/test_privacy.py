"""Privacy held against Opacus and dp-accounting; the ledger; the mechanisms."""

import json

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant

from edgekit.algorithms.split.mechanisms import SplitByDevices, SplitByServer
from edgekit.errors import PrivacyError
from edgekit.privacy import Charge, Ledger, Schedule, epsilon, gaussian, mechanisms, solve_noise_multiplier
from edgekit.privacy.events import dp_event as as_dp_event
from edgekit.privacy.events import tree
from edgekit.privacy.settings import Privacy
from edgekit.privacy.statement import covered, not_covered

CASES = [(1.0, 0.01, 2000), (2.4, 0.3, 150), (5.0, 1.0, 100), (0.8, 0.05, 20)]


@pytest.mark.parametrize(("noise", "rate", "steps"), CASES)
def test_our_default_accountant_agrees_with_opacus_and_is_below_rdp(noise, rate, steps):
    history = [(noise, rate, steps)]
    prv, rdp = PRVAccountant(), RDPAccountant()
    prv.history, rdp.history = list(history), list(history)
    ours = epsilon(history, 1e-5)
    assert ours == pytest.approx(prv.get_epsilon(1e-5), rel=0.01)
    assert ours < rdp.get_epsilon(1e-5)
    assert epsilon(history, 1e-5, "prv") == pytest.approx(prv.get_epsilon(1e-5))
    assert epsilon(history, 1e-5, "rdp") == pytest.approx(rdp.get_epsilon(1e-5))


def test_stretches_of_different_noise_compose_as_opacus_composes_them():
    history = [(1.5, 0.1, 50), (2.5, 0.2, 30)]
    prv = PRVAccountant()
    prv.history = list(history)
    assert epsilon(history, 1e-5) == pytest.approx(prv.get_epsilon(1e-5), rel=0.01)
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(("target", "rate", "steps"), [(8.0, 1.0, 50), (3.0, 0.1, 200), (0.5, 0.02, 100)])
def test_the_solved_noise_meets_the_target_and_no_more(accountant, target, rate, steps):
    noise = solve_noise_multiplier(target, 1e-5, rate, steps, accountant)
    spent = epsilon([(noise, rate, steps)], 1e-5, accountant)
    assert 0.98 * target < spent <= target
    # An accountant of another house, which is looser, still agrees on the order.
    other = RdpAccountant()
    other.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), steps)
    assert spent <= other.get_epsilon(1e-5) * 1.001


def test_an_unreachable_epsilon_says_what_would_help():
    with pytest.raises(PrivacyError, match="raise epsilon, or take fewer rounds or a smaller sample rate"):
        solve_noise_multiplier(1e-6, 1e-12, 1.0, 100_000)


@pytest.mark.parametrize(
    ("unit", "noise", "rate", "steps", "sensitivity"),
    [
        ("example", "server", 0.2, 1, 1.0),
        ("example", "client", 0.2, 15, 1.0),  # 3 epochs at rate 0.2
        ("client", "server", 0.1, 1, 1.0),
        ("client", "client", 1.0, 1, 2.0),
    ],
)
def test_the_plan_counts_only_the_sampling_that_is_proved(unit, noise, rate, steps, sensitivity):
    settings = Privacy(unit=unit, noise=noise, sample_rate=0.2, epsilon=10.0)
    plan = mechanisms.make(settings).plan(Schedule(20, 0.1, 3, ("weights",)))
    assert (plan.sample_rate, plan.steps, plan.sensitivity) == (rate, steps, sensitivity)
    assert 9.8 < plan.epsilon <= 10.0
    assert plan.epsilon == pytest.approx(epsilon([(plan.noise_multiplier, rate, 20 * steps)], 1e-5))


def _charge(number, clients=None, draw="seed 0", steps=1):
    return Charge(number, "example", "server", 2.0, 0.3, steps, clients, draw)


def test_the_ledger_is_on_the_disk_before_it_counts(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    for number in (1, 2, 3):
        ledger.charge(_charge(number))
    lines = [json.loads(line) for line in (tmp_path / "privacy.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert ledger.epsilon(1e-5, "pld") == pytest.approx(epsilon([(2.0, 0.3, 3)], 1e-5))


def test_a_ledger_read_back_goes_on_counting(tmp_path):
    path = tmp_path / "privacy.jsonl"
    Ledger(path).charge(_charge(1))
    again = Ledger(path)
    again.charge(_charge(2))
    assert again.epsilon(1e-5, "pld") == pytest.approx(epsilon([(2.0, 0.3, 2)], 1e-5))


def test_a_round_repeated_with_the_same_numbers_is_charged_once_and_with_fresh_ones_twice(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    ledger.charge(_charge(1))
    ledger.charge(_charge(1))
    once = ledger.epsilon(1e-5, "pld")
    ledger.charge(_charge(1, draw="fresh"))
    assert once == pytest.approx(epsilon([(2.0, 0.3, 1)], 1e-5))
    assert ledger.epsilon(1e-5, "pld") == pytest.approx(epsilon([(2.0, 0.3, 2)], 1e-5))


def test_a_round_charged_with_other_settings_is_refused(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    ledger.charge(_charge(1))
    with pytest.raises(PrivacyError, match="cannot be changed; start a new run"):
        ledger.charge(_charge(1, steps=2))


def test_a_ledger_cut_short_by_a_crash_goes_on(tmp_path):
    path = tmp_path / "privacy.jsonl"
    Ledger(path).charge(_charge(1))
    path.write_text(path.read_text() + '{"round": 2, "uni')
    Ledger(path).charge(_charge(2))
    assert Ledger(path).rounds == 2


def test_what_a_charge_would_cost_is_known_before_it_is_made(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    ledger.charge(_charge(1, (0, 1)))
    ahead = ledger.epsilon_with([_charge(2, (1, 2))], 1e-5, "pld")
    ledger.charge(_charge(2, (1, 2)))
    assert ahead == ledger.epsilon(1e-5, "pld") == ledger.epsilon_with([_charge(2, (1, 2))], 1e-5, "pld")


def test_epsilon_is_the_most_charged_clients(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    ledger.charge(_charge(1, (0, 1)))
    ledger.charge(_charge(2, (1, 2)))
    ledger.charge(_charge(3))
    assert ledger.epsilon(1e-5, "pld") == pytest.approx(epsilon([(2.0, 0.3, 3)], 1e-5))


def test_of_many_clients_only_those_are_composed_that_may_have_spent_most(tmp_path, monkeypatch):
    from edgekit.privacy import ledger as ledgers

    ledger, composed = Ledger(tmp_path / "privacy.jsonl"), []
    rng, steps = np.random.default_rng(0), {}
    for number in range(12):
        drawn = tuple(sorted(rng.choice(9, 4, replace=False).tolist()))
        noise = 2.0 if number % 3 else 5.0
        ledger.charge(Charge(number, "client", "server", noise, 0.3, 1, drawn, f"d{number}"))
        for client in drawn:
            steps.setdefault(client, {}).setdefault(noise, 0)
            steps[client][noise] += 1
    all_kinds = [tuple((noise, 0.3, n) for noise, n in sorted(own.items())) for own in steps.values()]
    monkeypatch.setattr(ledgers, "epsilon", lambda history, *rest: composed.append(history) or epsilon(history, *rest))
    most = max(epsilon(history, 1e-5, "rdp") for history in all_kinds)
    assert ledger.epsilon(1e-5, "rdp") == most
    assert len(composed) < len(set(all_kinds))
    many = Ledger(tmp_path / "prv.jsonl")  # whose figures fall at times: 3 steps of these are less than 2
    for number, drawn in enumerate(((0, 1), (0, 1), (1,))):
        many.charge(Charge(number, "client", "server", 20.0, 0.01, 1, drawn, f"p{number}"))
    assert many.epsilon(1e-5, "prv") == max(epsilon([(20.0, 0.01, steps)], 1e-5, "prv") for steps in (2, 3))


def test_a_ledger_that_cannot_be_read_is_never_guessed(tmp_path):
    (tmp_path / "privacy.jsonl").write_text('{"round": 1}\n')
    with pytest.raises(PrivacyError, match="not a charge"):
        Ledger(tmp_path / "privacy.jsonl")


def test_clipping_bounds_the_joint_norm_and_leaves_short_updates_alone():
    arrays = {"a": np.full((3, 2), 3.0, np.float32), "b": np.full(4, -2.0, np.float32)}
    clipped = gaussian.clip(arrays, 0.5)
    assert np.sqrt(sum((a.astype(float) ** 2).sum() for a in clipped.values())) == pytest.approx(0.5)
    assert all(np.array_equal(a, b) for a, b in zip(gaussian.clip(arrays, 100).values(), arrays.values(), strict=True))
    zero = {"a": np.zeros(3, np.float32)}
    assert np.array_equal(gaussian.clip(zero, 1.0)["a"], zero["a"])


def test_the_statement_says_that_seeded_noise_can_be_removed():
    made = mechanisms.make(Privacy(unit="example"))
    plan = made.plan(Schedule(5, 1.0, 1, ("weights",)))
    assert any("seed" in line for line in not_covered(made.statement(), plan, "seed"))
    assert not any("seed can take" in line for line in not_covered(made.statement(), plan, "system"))


@pytest.mark.parametrize(
    "history", [[(1.3, 0.2, 50)], [(4.2, 1.0, 50)], [(1.3, 0.2, 50), (2.0, 1.0, 3), (0.9, 0.01, 400)]]
)
def test_from_a_runs_events_an_outsider_computes_epsilon_again(history):
    """With dp-accounting's own accountant, which knows nothing of edgekit."""
    from dp_accounting.pld import PLDAccountant

    told = json.loads(json.dumps(tree(history)))
    accountant = PLDAccountant()
    accountant.compose(as_dp_event(told))
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon(history, 1e-5), rel=2e-3)


@pytest.mark.parametrize(
    ("made", "adjacency"),
    [
        (mechanisms.make(Privacy(unit="example", noise="server")), "replace-by-zero"),
        (mechanisms.make(Privacy(unit="example", noise="client")), "replace-by-zero"),
        (mechanisms.make(Privacy(unit="example", noise="server", expected_examples=30)), "add-or-remove-one"),
        (mechanisms.make(Privacy(unit="example", noise="client", expected_examples=30)), "add-or-remove-one"),
        (mechanisms.make(Privacy(unit="client", noise="server")), "add-or-remove-one"),
        (mechanisms.make(Privacy(unit="client", noise="client")), "replace-one"),
        (SplitByServer(Privacy(unit="example")), "replace-by-zero"),
        (SplitByDevices(Privacy(unit="example", noise="client"), 2, 1.0, 1e9), "replace-one"),
    ],
)
def test_a_guarantee_says_which_data_sets_are_neighbours_as_its_words_do(made, adjacency):
    plan = made.plan(Schedule(3, 0.5, 1, ("weights",)))
    assert plan.adjacency == adjacency
    (first, *_) = covered(made.statement(), plan, 1.0)
    assert first.startswith("Adding or removing" if adjacency == "add-or-remove-one" else "Replacing")
    assert ("blank" in first) == (adjacency == "replace-by-zero")
    told = " ".join(not_covered(made.statement(), plan, "system"))
    public = adjacency == "replace-by-zero"
    assert ("how many examples each client has, is taken as public" in told) >= public
    for what in ("adds up", "Statistics of inputs", "Which clients failed", "how long it took", "Mironov 2012"):
        assert what in told


def _lines(path):
    return path.read_text().splitlines(keepends=True)


def _unchained(line):
    return json.dumps({key: value for key, value in json.loads(line).items() if key != "chain"}) + "\n"


@pytest.mark.parametrize("harm", ["changed", "missing", "moved", "twice", "unchained", "foreign"])
def test_a_ledger_whose_lines_do_not_follow_is_refused(tmp_path, harm):
    path = tmp_path / "privacy.jsonl"
    ledger = Ledger(path)
    for number in (1, 2, 3):
        ledger.charge(_charge(number))
    assert Ledger(path).head == ledger.head
    first, second, third = _lines(path)
    if harm == "foreign":
        other = Ledger(tmp_path / "other.jsonl")
        other.charge(_charge(7))
        other.charge(_charge(8))
        lines = [first, _lines(other.path)[1], third]
    else:
        lines = {
            "changed": [first, second.replace('"noise_multiplier": 2.0', '"noise_multiplier": 9.0'), third],
            "missing": [first, third],
            "moved": [second, first, third],
            "twice": [first, second, second, third],
            "unchained": [
                first,
                json.dumps({k: v for k, v in json.loads(second).items() if k != "chain"}) + "\n",
                third,
            ],
        }[harm]
    assert lines != [first, second, third]
    path.write_text("".join(lines))
    with pytest.raises(PrivacyError, match="does not follow from those before"):
        Ledger(path)


def test_a_cut_tail_shows_where_the_head_was_kept(tmp_path):
    path = tmp_path / "privacy.jsonl"
    ledger = Ledger(path)
    for number in (1, 2, 3):
        ledger.charge(_charge(number))
    path.write_text("".join(_lines(path)[:2]))
    cut = Ledger(path)
    assert not cut.holds(ledger.head)
    assert ledger.holds(cut.head)
    assert Ledger(tmp_path / "none.jsonl").holds("")


def test_ledgers_from_before_the_chain_go_on(tmp_path):
    path = tmp_path / "privacy.jsonl"
    Ledger(path).charge(_charge(1))
    old = json.loads(path.read_text())
    del old["chain"]
    path.write_text(json.dumps(old) + "\n")
    again = Ledger(path)
    again.charge(_charge(2))
    assert Ledger(path).rounds == 2


@pytest.mark.parametrize("noise", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_charge_without_noise_is_none(noise):
    with pytest.raises(PrivacyError, match="not a charge that can be counted"):
        Charge(1, "example", "server", noise, 0.3, 1, None, "seed 0")
