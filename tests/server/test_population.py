"""Simulated devices by themselves: how long they take, when they are there, what their batteries do."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.devices import profile as profiles
from edgekit.devices.population import traces
from edgekit.devices.population.availability import HOUR, Always, Day, Presence
from edgekit.devices.population.clock import VirtualClock, read_played
from edgekit.devices.population.kinds import Work, population_of
from edgekit.errors import ExperimentError, TrainingError, UsageError

PHONE = """
name = "own-phone"
description = "made for a test"
evidence = "published"
source = "a test"
[cpu]
model = "any"
architecture = "aarch64"
cores = 4
training_gflops = 2.0
step_ms = 10.0
round_ms = 50.0
[link]
kind = "wifi"
mbit_up = 8.0
mbit_down = 16.0
latency_ms = 100.0
[power]
idle_watts = 0.5
busy_watts = 4.5
radio_watts = 1.5
battery_watt_hours = 10.0
heat_seconds = 3.0
sustained = 0.5
"""
ALONE = np.array([0])


@pytest.fixture
def phone(tmp_path):
    """A path to a profile of which all is known."""
    path = tmp_path / "own-phone.toml"
    path.write_text(PHONE)
    return str(path)


def _work(count=1, *, down=2e6, examples=100.0, steps=10.0, up=1e6, operations=1e8):
    return Work(*(np.full(count, value, float) for value in (down, examples, steps, up, operations)))


def test_a_devices_round_takes_what_its_profile_says(phone):
    """Latency and bytes over the link; steps, and operations over the rate, which halves when the processor is hot."""
    people = population_of({phone: 1}, 1, 0, spread=0.0)
    assert people.assumed == ()
    download, compute, upload = people.seconds(ALONE, _work())
    assert download == pytest.approx(0.1 + 2e6 * 8 / 16e6)
    assert upload == pytest.approx(0.1 + 1e6 * 8 / 8e6)
    cold = 0.050 + 10 * 0.010 + 100 * 1e8 / 2e9
    assert compute == pytest.approx(3 + (cold - 3) / 0.5)
    short = people.seconds(ALONE, _work(examples=10.0))[1]
    assert short == pytest.approx(0.050 + 10 * 0.010 + 10 * 1e8 / 2e9)
    assert people.joules(ALONE, compute, download + upload) == pytest.approx(compute * 4.0 + (download + upload) * 1.5)


def test_what_profiles_do_not_say_is_assumed_aloud():
    people = population_of({"raspberry-pi-4": 3, "pixel-7": 2}, 5, 1, spread=0.0)
    assert sorted(people.kind) == [0, 0, 0, 1, 1]
    assert any(
        line.startswith("raspberry-pi-4: 2.88 GFLOP/s in training, from its processor's peak")
        for line in people.assumed
    )
    assert list(people.on_battery) == list(people.kind == 1)
    spread = population_of({"raspberry-pi-4": 400}, 400, 1, spread=0.25)
    assert np.log(spread.rate / people.rate[people.kind == 0][0]).std() == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize(
    ("names", "clients", "message"),
    [
        ({"raspberry-pi-4": 3}, 4, "has 3 devices for 4 clients"),
        ({"raspberry-pi-9": 4}, 4, "no device profile 'raspberry-pi-9'"),
        ({"cortex-m7": 4}, 4, "cortex-m7 is a microcontroller: it does not train"),
        ({"gone.toml": 4}, 4, "gone.toml cannot be read"),
    ],
)
def test_devices_that_cannot_be_are_named(names, clients, message):
    with pytest.raises((ExperimentError, UsageError), match=message):
        population_of(names, clients, 0, 0.25)


def test_every_profile_that_trains_has_a_speed():
    for name in profiles.names():
        if not profiles.load(name).micro:
            assert population_of({name: 1}, 1, 0, 0.0).rate[0] > 0


def test_phones_are_free_at_night_and_in_hands_by_day():
    """Bonawitz et al. 2019 (section 9) saw four times as many devices at night as by day."""
    phones = np.arange(2000) < 1800
    day = Day(phones, 3)
    night, noon = day.at(3 * HOUR), day.at(12.5 * HOUR)

    def eligible(now):
        return (now.free & now.charging & ~now.metered)[phones].mean()

    assert eligible(night) > 0.9
    assert 4 < eligible(night) / eligible(noon) < 60
    assert night.free[phones].mean() / (noon.free & ~noon.metered)[phones].mean() == pytest.approx(5, rel=0.3)
    assert noon.free[~phones].all()
    again = Day(phones, 3).at(12.5 * HOUR + 60)
    assert (again.free == noon.free).all()
    assert (day.at(13.1 * HOUR).free != noon.free).any()
    assert day.changes(12.5 * HOUR) == 13 * HOUR


def test_batteries_empty_in_use_and_fill_on_chargers(phone):
    people = population_of({phone: 2}, 2, 0, spread=0.0)

    class Now:
        def at(self, time):
            no = np.zeros(2, bool)
            return Presence(~no, np.array([True, False]), no, np.array([0.0, 1.5]))

        def changes(self, time):
            return (time // 60 + 1) * 60

    clock = VirtualClock(people, Now(), 0)
    clock.level = np.array([0.5, 0.5])
    clock.advance(HOUR / 2)
    # A charger fills 10 Wh in 2 hours; idling draws 0.5 W, the owner 1.5 W.
    assert clock.level == pytest.approx([0.5 + (5.0 - 0.5) * 0.5 / 10, 0.5 - 2.0 * 0.5 / 10])
    clock.advance(10 * HOUR)
    assert list(clock.level) == [1.0, 0.0]
    assert list(clock.there()) == [0]


def test_a_round_ends_with_the_last_update_that_is_waited_for(phone):
    people = population_of({phone: 5}, 5, 0, spread=0.0)
    clock = VirtualClock(people, Always(5), 0)
    work = _work(5)
    work.examples[:] = [10, 60, 20, 40, 50]
    each = sum(people.seconds(np.arange(5), work))
    played = clock.play(np.arange(5), work, wanted=3, deadline=0)
    assert played.ends == ["done", "surplus", "done", "done", "surplus"]
    assert played.done == [0, 2, 3]
    assert clock.time == played.over == pytest.approx(each[3])
    assert list(clock.rounds) == [1, 0, 1, 1, 0]
    # Who is not needed any more stops there, and has drawn until then.
    full = people.joules(np.arange(5), *(lambda d, c, u: (c, d + u))(*people.seconds(np.arange(5), work)))
    assert played.joules[0] == pytest.approx(full[0])
    assert played.joules[1] < full[1]
    late = clock.play(np.arange(5), work, wanted=5, deadline=float(each[2]) + 1e-6)
    assert late.ends == ["done", "late", "done", "late", "late"]
    assert late.over - late.starts == pytest.approx(each[2])
    assert clock.play(np.array([], int), _work(0), wanted=0, deadline=0).done == []


def test_of_those_cut_off_nobody_was_late(phone):
    """The round was over before: whatever would have become of them, they were not needed any more."""
    people = population_of({phone: 2}, 2, 0, spread=0.0)
    work = _work(2)
    work.examples[:] = [1.0, 1e4]
    played = VirtualClock(people, Always(2), 0).play(np.arange(2), work, wanted=1, deadline=100)
    assert played.ends == ["done", "surplus"]


def test_a_phone_on_a_charger_is_full_after_a_long_round(phone):
    people = population_of({phone: 1}, 1, 0, spread=0.0)
    clock = VirtualClock(people, Always(1), 0)
    clock.level = np.array([0.9])
    clock.play(ALONE, _work(examples=7e4), wanted=1, deadline=0)  # 4.5 W, of a charger's 5
    assert 0.9 < clock.level[0] <= 1.0
    off = VirtualClock(people, Day(np.array([True]), 0), 0)
    off.level, off.time = np.array([0.9]), 13 * HOUR
    before, loads = off.level[0], [off.presence().charging[0]]
    assert loads == [False]
    done = off.play(ALONE, _work(examples=100.0), wanted=1, deadline=0)
    drawn = done.joules[0] + (0.5 + off.presence().used[0]) * (done.over - done.starts)
    assert off.level[0] == pytest.approx(before - drawn / 36000, abs=1e-9)


def test_a_round_that_would_never_end_is_refused(tmp_path, phone):
    (tmp_path / "snail.toml").write_text(PHONE.replace("= 2.0\nstep", "= 1e-300\nstep"))
    people = population_of({str(tmp_path / "snail.toml"): 1}, 1, 0, spread=0.0)
    with pytest.raises(TrainingError, match=r"a round would take a own-phone .* days"):
        VirtualClock(people, Always(1), 0).play(ALONE, _work(), wanted=1, deadline=0)
    clock = VirtualClock(population_of({phone: 1}, 1, 0, spread=0.0), Always(1), 0)
    for name, value in (("time", 1e17), ("time", np.nan), ("level", 2.0), ("joules", -1.0), ("rounds", np.inf)):
        with pytest.raises(TrainingError, match="it is damaged"):
            clock.go_on({**clock.state(), name: np.array([value])})
    with pytest.raises(TrainingError, match="of other devices"):
        clock.go_on({**clock.state(), "level": np.ones(2)})


def test_lines_that_are_no_rounds_are_left_out(tmp_path):
    path = tmp_path / "devices.jsonl"
    whole = {"round": 1, "clock": 5.0, "seconds": 5.0, "devices": [[0, 0.0, 1.0, 2.0, 2.0, 9.0, "done"]]}
    bad = [[1], {"round": 1}, {**whole, "devices": [[0]]}, {**whole, "clock": "x"}, {**whole, "devices": [whole]}]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*bad, whole]))
    assert read_played(path) == [whole]
    assert read_played(tmp_path / "gone.jsonl") == []


def test_who_is_taken_or_runs_dry_is_not_done(phone):
    people = population_of({phone: 3}, 3, 0, spread=0.0)

    class Leaving:
        def at(self, time):
            no = np.zeros(3, bool)
            return Presence(np.array([True, time < 2.0, True]), no, no, np.zeros(3))

        def changes(self, time):
            return 2.0 if time < 2.0 else np.inf

    clock = VirtualClock(people, Leaving(), 0)
    clock.level = np.array([0.9, 0.9, 1e-4])  # 3.6 J of the last
    played = clock.play(np.arange(3), _work(3), wanted=3, deadline=0)
    assert played.ends == ["done", "left", "empty"]
    computing = (3.6 - 1.1 * 2.0) / 4.5  # it downloads for 1.1 s at 1.5 W, beside the 0.5 W of idling
    assert played.joules[2] == pytest.approx(1.1 * 1.5 + computing * 4.0)
    assert played.joules[1] < played.joules[0]
    assert clock.level[2] == 0


def test_nobody_is_waited_for_for_ever(phone):
    people = population_of({phone: 2}, 2, 0, spread=0.0)

    class Never:
        def at(self, time):
            no = np.zeros(2, bool)
            return Presence(no, ~no, no, np.zeros(2))

        def changes(self, time):
            return time + HOUR

    with pytest.raises(TrainingError, match="no device is there in"):
        VirtualClock(people, Never(), 0).wait(1, 60)


def test_a_whole_cohort_is_waited_for_and_then_who_is_there(tmp_path):
    (tmp_path / "trace.csv").write_text("device,start,end\na,1,20\nb,3,20\n")
    people = population_of({"raspberry-pi-4": 2}, 2, 0, spread=0.0)
    made = VirtualClock(people, traces.read(tmp_path / "trace.csv", 2), 0)
    assert list(made.wait(1, 60)) == [0]
    assert made.time == HOUR
    assert list(made.wait(2, 600)) == [0]
    assert made.time == HOUR + 600
    assert list(made.wait(2, 10 * HOUR)) == [0, 1]
    assert made.time == 3 * HOUR


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_traces_say_who_is_there_over_and_over(kind, tmp_path):
    path = tmp_path / f"trace.{kind}"
    if kind == "csv":
        path.write_text("\ufeffdevice, start,end,charging,metered\na,1,2,yes,no\na,5,6,no,yes\nb,0,24,1,0\n")
    else:
        hours = {"a": ([1, 5], [2, 6]), "b": ([0], [24])}
        told = {
            name: {
                "active": [h * 3600 for h in on],
                "inactive": [h * 3600 for h in off],
                "finish_time": 86400,
                "duration": 1,
            }
            for name, (on, off) in hours.items()
        }
        path.write_text(json.dumps(told))
    trace = traces.read(path, 3)  # the third device is as the first
    there = [list(trace.at(hour * HOUR).free) for hour in (0.5, 1, 1.99, 2, 5.5, 24 + 1.5, 48 + 2.5)]
    yes, no = [True, True, True], [False, True, False]
    assert there == [no, yes, yes, no, yes, yes, no]
    if kind == "csv":
        assert list(trace.at(5.5 * HOUR).charging) == [False, True, False]
        assert list(trace.at(5.5 * HOUR).metered) == [True, False, True]
    assert [trace.changes(hour * HOUR) / HOUR for hour in (0, 1, 6, 24, 30)] == [1, 2, 24, 25, 48]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line must name device, start, end"),
        ("device,start,end\n", "no device is ever there"),
        ("device,start,end\na,1\n", "line 2 has a gap"),
        ("device,start,end\na,1,\n", "line 2 has a gap"),
        ("device,start,end\na,1,nan\n", "line 2 tells 'nan', where a time is due"),
        ("device,start,end\na,2,1\n", "intervals must follow each other"),
        ("device,start,end\na,1,3\na,2,4\n", "intervals must follow each other"),
        ("device,start,end,charging\na,1,3,maybe\n", "line 2 tells 'maybe', where yes or no is due"),
        ("device,start,end\na,1,3,4,5\n", "line 2 has a gap"),
        ('{"a": {"active": [0], "inactive": [1e-6], "finish_time": 90}}', "each longer than 1 s"),
        ('{"a": {"active": [0], "inactive": [9], "finish_time": 0}}', "end after 9 s"),
        ("[]", "must be a table of devices"),
        ('{"a": 1}', "needs the lists active and inactive"),
        ('{"a": {"active": [1, 5], "inactive": [2]}}', "has a gap: 2 times active, 1 inactive"),
        ('{"a": {"active": ["x"], "inactive": [2]}}', "where a time is due"),
        ("{", "it is no JSON"),
    ],
)
def test_traces_with_gaps_are_named(text, message, tmp_path):
    path = tmp_path / ("trace.json" if text[:1] in ("[", "{") else "trace.csv")
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        traces.read(path, 2)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("device,start\n1.5-e\"'", max_size=80)), st.booleans(), st.booleans())
def test_any_file_is_traces_or_refused(tmp_path_factory, text, as_json, headed):
    path = tmp_path_factory.mktemp("traces") / ("t.json" if as_json else "t.csv")
    path.write_text(("device,start,end\n" if headed else "") + text, "utf-8")
    try:
        found = traces.read(path, 2)
    except UsageError:
        return
    assert found.changes(0.0) > 0
