"""Simulated devices in the loop: who counts, what is told, that runs can be resumed; and selectors that look."""

import json

import numpy as np
import pytest

from edgekit import experiment as experiments
from edgekit.asks import Update
from edgekit.errors import EdgekitError, ExperimentError, TrainingError
from edgekit.server.engines.base import Conditions
from edgekit.server.loop import checkpoint
from edgekit.server.loop.candidates import Candidates, History
from edgekit.server.loop.selectors import oort
from edgekit.server.loop.selectors.battery_aware import BatteryAware
from edgekit.server.loop.selectors.fair import Fair
from edgekit.server.loop.selectors.oort import Oort
from edgekit.server.loop.selectors.power_of_choice import PowerOfChoice

SMALL = ("model.name=mlp", "data.clients=12", "federation.rounds=4", "federation.cohort=4", "training.epochs=2")
PHONES = 'devices.population={"pixel-7" = 8, "raspberry-pi-4" = 4}'


def _lines(coordinator, name="metrics"):
    path = getattr(coordinator.run_folder, name)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_on_devices_tells_their_time_and_energy(coordinate, make_experiment):
    made = coordinate(make_experiment(*SMALL, PHONES, "devices.every_seconds=600", "devices.start_hour=3"))
    outcome = made.run()
    rounds, played = _lines(made), _lines(made, "devices")
    assert [line["devices"]["done"] for line in rounds] == [4] * 4
    clocks = [line["devices"]["clock"] - line["devices"]["seconds"] for line in rounds]
    assert clocks == pytest.approx([3 * 3600 + 600 * k for k in range(4)], abs=0.01)
    for line, devices in zip(rounds, played, strict=True):
        assert len(devices["devices"]) == 4
        assert devices["seconds"] == pytest.approx(max(sum(row[2:5]) for row in devices["devices"]), abs=0.01)
        assert line["devices"]["joules"] == pytest.approx(sum(row[5] for row in devices["devices"]), abs=0.01)
    facts = made.devices.facts()
    assert facts["joules"] == pytest.approx(sum(line["devices"]["joules"] for line in rounds), abs=0.1)
    assert facts["hours"] == pytest.approx(4 * 600 / 3600, abs=1e-3)
    plain = coordinate(make_experiment(*SMALL), "plain")
    if all(line["devices"]["online"] == 12 for line in rounds):  # then devices change nothing of what is learnt
        assert all((outcome.weights[name] == array).all() for name, array in plain.run().weights.items())


@pytest.mark.parametrize("more", [(), ("federation.selector=oort",), ("federation.algorithm=scaffold",)])
def test_a_resumed_run_plays_the_same_day(more, coordinate, make_experiment, interrupted):
    chosen = [*SMALL, PHONES, "devices.every_seconds=1800", "devices.over_selection=1.5", *more]
    whole = coordinate(make_experiment(*chosen), "whole")
    expected = whole.run().weights
    interrupted(coordinate(make_experiment(*chosen), "parts"), 2)
    second = coordinate(make_experiment(*chosen), "parts")
    found = second.run().weights
    assert all((found[name] == array).all() for name, array in expected.items())
    assert _lines(second, "devices") == _lines(whole, "devices")
    assert [line["devices"] for line in _lines(second)] == [line["devices"] for line in _lines(whole)]
    assert (second.devices.clock.level == whole.devices.clock.level).all()


def test_of_more_than_are_wanted_the_first_ones_count(coordinate, make_experiment):
    made = coordinate(make_experiment(*SMALL, PHONES, "devices.over_selection=2", "devices.availability=always"))
    made.run()
    for line, played in zip(_lines(made), _lines(made, "devices"), strict=True):
        assert (line["cohort"], line["replies"], line["failures"]) == (8, 4, 0)
        seconds = {row[-1]: [] for row in played["devices"]}
        for row in played["devices"]:
            seconds[row[-1]].append(sum(row[2:5]))
        assert max(seconds["done"]) <= min(seconds["surplus"])
        assert (len(seconds["done"]), len(seconds["surplus"])) == (4, 4)


def test_who_is_late_does_not_count_and_fewer_steps_are_in_time(coordinate, make_experiment):
    chosen = [*SMALL, PHONES, "devices.availability=always", "training.batch_size=2", "federation.cohort=12"]
    free = coordinate(make_experiment(*chosen, "federation.rounds=1"), "free")
    free.run()
    takes = sorted(sum(row[2:5]) for row in _lines(free, "devices")[0]["devices"])
    deadline = f"devices.deadline_seconds={(takes[5] + takes[6]) / 2}"
    late = coordinate(make_experiment(*chosen, deadline), "late")
    late.run()
    assert [(line["replies"], line["failures"]) for line in _lines(late)] == [(6, 6)] * 4
    assert {line["devices"]["late"] for line in _lines(late)} == {6}
    fitted = coordinate(
        make_experiment(*chosen, deadline, "devices.fit_work=true", "federation.algorithm=fednova"), "fitted"
    )
    fitted.run()
    rounds = _lines(fitted)
    assert [line["replies"] for line in rounds] == [12] * 4
    limit = (takes[5] + takes[6]) / 2
    assert all(sum(row[2:5]) <= limit + 0.002 for line in _lines(fitted, "devices") for row in line["devices"])


def test_time_goes_by_what_a_method_trains(coordinate, make_experiment):
    chosen = [*SMALL, PHONES, "devices.availability=always", "federation.rounds=1", "devices.spread=0"]
    takes = {}
    for name, more in {
        "fedavg": (),
        "ditto": ("federation.algorithm=ditto",),
        "short": ("federation.algorithm=perfedavg", "federation.arguments.steps=5", "training.epochs=9"),
        "long": ("federation.algorithm=perfedavg", "federation.arguments.steps=50"),
    }.items():
        made = coordinate(make_experiment(*chosen, *more), name)
        made.run()
        takes[name] = np.array([row[3] for row in _lines(made, "devices")[0]["devices"]])
    assert takes["ditto"] == pytest.approx(2 * takes["fedavg"], rel=0.05)
    assert takes["long"] == pytest.approx(10 * takes["short"], rel=0.05)
    tight = ("devices.fit_work=true", f"devices.deadline_seconds={takes['long'].max() / 2}")
    fitted = coordinate(make_experiment(*chosen, *more, *tight), "fitted")
    fitted.run()
    assert _lines(fitted)[0]["replies"] == 4
    assert (np.array([row[3] for row in _lines(fitted, "devices")[0]["devices"]]) < takes["long"]).any()


def test_a_run_in_which_all_are_late_says_so(coordinate, make_experiment):
    made = coordinate(make_experiment(*SMALL, PHONES, "devices.deadline_seconds=0.001"))
    with pytest.raises(TrainingError, match=r"every client failed .* was not done by the deadline"):
        made.run()


def test_where_the_draw_is_secret_nobody_learns_who_took_part(coordinate, make_experiment):
    private = ("privacy.unit=client", "privacy.epsilon=50", "federation.cohort=4", "federation.rounds=2")
    made = coordinate(make_experiment(*SMALL, PHONES, *private, "devices.deadline_seconds=60"))
    made.run()
    assert made.charging.hides_cohort
    assert not made.run_folder.devices.exists()
    lines = _lines(made)
    other = coordinate(make_experiment(*SMALL, PHONES, *private, "devices.deadline_seconds=60"), "other")
    other.charging.seed += 1  # other draws
    other.run()
    assert [line["cohort"] for line in _lines(other)] != [line["cohort"] for line in lines]
    # All that is told of devices, and kept of them, is the same whoever took part.
    assert [line["devices"] for line in _lines(other)] == [line["devices"] for line in lines]
    assert other.devices.facts() == made.devices.facts()
    assert made.devices.facts()["joules"] > 0
    assert "took_part" not in made.devices.facts()
    # Who can be done in time is known of each: how many were would tell who was drawn.
    tight = ("devices.deadline_seconds=0.04", "devices.spread=1.5", "devices.availability=always")
    few = coordinate(make_experiment(*SMALL, PHONES, *private, *tight), "few")
    few.run()
    for line in _lines(few):
        assert (line["replies"], line["failures"]) == (line["cohort"], 0)
        assert line["bytes_up"] * 1 == line["bytes_down"]
    kept = [checkpoint.latest(one.run_folder.checkpoint).devices for one in (made, other)]
    assert all((kept[0][name] == kept[1][name]).all() for name in kept[0])
    # What one client owns changes no time but by its own update: all are reckoned with as many examples.
    assert {made.devices._examples(client) for client in range(12)} == {made.dataset.examples_a_client}
    uniform = coordinate(make_experiment(*SMALL, PHONES, *private, "federation.selector=uniform"), "uniform")
    assert uniform.plan.adjacency == "replace-by-zero"
    assert uniform.statement.neighbours.startswith("Replacing all data of any single client by a blank")
    with_devices = coordinate(make_experiment(*SMALL, PHONES, *private, "federation.cohort=0"), "devices")
    assert with_devices.plan.adjacency == "replace-by-zero"  # time depends on who takes part, and who is there on time
    everybody = coordinate(
        make_experiment(*SMALL, *private, "federation.selector=uniform", "federation.cohort=0"), "everybody"
    )
    assert everybody.plan.adjacency == "add-or-remove-one"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (['devices.population={"pixel-7" = 11}'], "has 11 devices for 12 clients"),
        ([PHONES, "devices.fit_work=true"], "devices.fit_work goes by a deadline"),
        ([PHONES, "devices.availability=gone.csv"], "gone.csv cannot be read"),
        (["federation.selector=battery-aware"], "goes by devices: give the clients some"),
        (
            ["federation.selector=oort", "privacy.unit=client", "federation.cohort=4"],
            "'oort' goes by the clients' losses, so that one client's data would change who else takes part",
        ),
        (
            [PHONES, "privacy.unit=client", "privacy.noise=client", "devices.over_selection=1.5"],
            "devices.over_selection keeps those who are first",
        ),
        (
            [PHONES, "privacy.unit=example", "devices.fit_work=true", "devices.deadline_seconds=9"],
            "devices.fit_work changes steps that privacy has counted",
        ),
        ([PHONES, "privacy.unit=client"], "a round's length would tell: set devices.deadline_seconds"),
        ([PHONES, "split.cut=layers.1"], "is of clients that train by themselves"),
    ],
)
def test_what_does_not_fit_is_told_before_training(chosen, message, coordinate, make_experiment):
    with pytest.raises(EdgekitError, match=message):
        coordinate(make_experiment(*SMALL, *chosen))


def test_unknown_keys_and_figures_out_of_range_are_named():
    for line, message in (
        ("devices.over_selection=0.5", "devices.over_selection"),
        ('devices.population={"pixel-7" = 0}', "devices.population.pixel-7"),
        ("devices.start_hour=24", "devices.start_hour"),
        ("devices.deadline=5", "unknown key 'devices.deadline'"),
    ):
        with pytest.raises(EdgekitError, match=message):
            experiments.load(None, [line])


def _candidates(clients, **known):
    nothing = np.full(clients, np.nan)
    given = {"asked": np.zeros(clients), "last": np.zeros(clients), "losses": nothing, "weights": nothing}
    return Candidates(**{**given, **known.pop("told", {})}, conditions=known.pop("conditions", None))


def _conditions(clients, **known):
    given = {
        "battery": np.ones(clients),
        "charging": np.zeros(clients, bool),
        "metered": np.zeros(clients, bool),
        "seconds": np.ones(clients),
        "joules": np.ones(clients),
        "battery_joules": np.full(clients, 10.0),
    }
    return Conditions(**{**given, **known})


def test_with_fair_selection_nobody_starves():
    history, rng = History(), np.random.default_rng(0)
    for number in range(1, 31):
        there = sorted(rng.choice(20, 12, replace=False))  # not everybody is there
        places = Fair().choose(4, 12, number, rng, history.of(there, None))
        update = Update({}, 1.0)
        cohort = [int(there[place]) for place in places]
        history.note(number, cohort, {client: update for client in cohort if client})  # one never answers
    rounds = history.of(range(20), None).asked
    assert rounds.sum() == 120
    assert rounds.max() - rounds.min() <= 2


def test_power_of_choice_takes_the_worst_off_of_those_drawn():
    losses = np.linspace(0.1, 2.0, 40)
    about = _candidates(40, told={"losses": losses, "weights": np.ones(40)})
    drawn = [PowerOfChoice().choose(5, 40, 1, np.random.default_rng(seed), about) for seed in range(400)]
    assert all(len(set(one)) == 5 for one in drawn)
    # The chance of each rank by counting: the best of all is taken if it is among the ten drawn, 10 of 40.
    taken = np.bincount(np.concatenate(drawn), minlength=40) / 400
    assert taken[-1] == pytest.approx(0.25, abs=0.07)
    assert taken[:5].sum() < 0.02
    unknown = _candidates(40, told={"losses": np.where(np.arange(40) == 3, np.nan, losses), "weights": np.ones(40)})
    empty = _candidates(5, told={"weights": np.array([0, 0, 0, 0, 1.0])})
    assert len(PowerOfChoice().choose(2, 5, 1, np.random.default_rng(0), empty)) == 2
    first = [3 in PowerOfChoice().choose(5, 40, 1, np.random.default_rng(seed), unknown) for seed in range(200)]
    assert np.mean(first) == pytest.approx(0.25, abs=0.1)  # whenever it is drawn


def test_a_battery_that_would_be_low_is_spared():
    battery = np.where(np.arange(20) < 10, 0.25, 0.9)
    now = _conditions(20, battery=battery, charging=np.arange(20) == 0, metered=np.arange(20) == 15)
    rng = np.random.default_rng(0)
    chosen = {one for _ in range(50) for one in BatteryAware().choose(4, 20, 1, rng, _candidates(20, conditions=now))}
    assert chosen == {0, *range(10, 20)} - {15}
    all_of_them = BatteryAware().choose(12, 20, 1, rng, _candidates(20, conditions=now))
    assert set(all_of_them) >= {0, *range(10, 20)}  # the metered one before those with a low battery
    small = [BatteryAware().choose(2, 20, 1, rng, _candidates(20, conditions=_conditions(20, seconds=np.arange(20.0))))]
    small += [BatteryAware().choose(2, 20, 1, rng, _candidates(20, conditions=now)) for _ in range(3)]
    assert all(len(one) == 2 for one in small)
    slow = _conditions(20, seconds=np.arange(1.0, 21.0), deadline=15.0)
    drawn = [BatteryAware().choose(5, 20, 1, rng, _candidates(20, conditions=slow)) for _ in range(200)]
    counts = np.bincount(np.concatenate(drawn), minlength=20)
    assert counts[15:].sum() == 0
    assert counts[:10].sum() > counts[10:15].sum() > 0


def test_oort_exploits_those_whose_utility_is_near_the_best():
    """Algorithm 1 in plain numpy: utility, the bonus for staleness, the penalty for slowness, the cut-off."""
    rng = np.random.default_rng(1)
    clients, size, number = 50, 10, 400  # so late that a fifth is explored
    losses = np.where(np.arange(clients) < 40, rng.uniform(0.1, 3, clients), np.nan)
    weights, seconds = rng.integers(10, 90, clients).astype(float), rng.uniform(1, 9, clients)
    last = rng.integers(1, number, clients).astype(float)
    told = {"losses": losses, "weights": np.where(np.isnan(losses), np.nan, weights), "last": last}
    about = _candidates(clients, told=told, conditions=_conditions(clients, seconds=seconds))
    utility = np.minimum(weights * losses, np.quantile((weights * losses)[:40], 0.95))[:40]
    utility += np.sqrt(0.1 * np.log(number) / last[:40]) * utility.max()
    preferred = np.quantile(seconds[:40], oort.PREFERRED)
    utility *= np.where(seconds[:40] > preferred, (preferred / seconds[:40]) ** 2, 1.0)
    least = 0.95 * np.sort(utility)[-8]
    for seed in range(40):
        chosen = Oort().choose(size, clients, number, np.random.default_rng(seed), about)
        known = [one for one in chosen if one < 40]
        assert (len(known), len(set(chosen))) == (8, 10)
        assert all(utility[one] >= least for one in known)
    first = Oort().choose(size, clients, 1, np.random.default_rng(0), _candidates(clients))
    assert len(set(first)) == size


def test_a_selector_that_looks_is_told_what_clients_told(coordinate, make_experiment):
    made = coordinate(make_experiment(*SMALL, "federation.selector=power-of-choice"))
    made.run()
    about = made.cohorts.history.of(range(12), None)
    assert about.asked.sum() == 16
    assert np.isfinite(about.losses[about.asked > 0]).all()
    assert (about.weights[about.asked > 0] > 1).all()


class Peeping:
    """Somebody's own, which says wrongly at what it looks."""

    reads = ("batteries",)

    def sampling(self, cohort, clients):
        raise AssertionError

    choose = sampling


def test_a_selector_says_at_what_it_looks(make_experiment, coordinate, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peeping", sys.modules[__name__])
    with pytest.raises(ExperimentError, match="reads may name rounds, losses, devices"):
        coordinate(make_experiment(*SMALL, "federation.selector=peeping:Peeping"))
