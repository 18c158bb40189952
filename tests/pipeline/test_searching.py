"""Searches: what varies, what it may cost, and that one that was stopped goes on as if it had not been."""

import json
import shlex
import signal
import subprocess
import sys

import pytest

from edgekit import experiment as experiments
from edgekit.clients.torch_trainer import state
from edgekit.errors import EdgekitError, RunFolderError, UsageError
from edgekit.pipeline.search import asking, folder, measuring, results, running, supernet
from edgekit.pipeline.search.folder import COMPLETE, OVER, PRUNED, Budget, Cost, Search, Trial
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.server.loop.evaluation import measured

SPACE = {"model.width": ("0.1", "0.25", "0.5", "1.0"), "model.norm": ("none",)}
QUICK = (
    "data.clients=4", "training.epochs=1", "model.name=mlp", "model.norm=none", "model.arguments={}",
    "privacy.unit=none",
)  # fmt: skip


def _search(path, **more):
    chosen = {"space": SPACE, "budget": Budget(flash=16 << 10), "device": "", "preset": "int8", "rounds": 9, "seed": 0}
    return Search(path, **{**chosen, **more})


def _trial(number, state=COMPLETE, score=0.5, latency=10.0, flash=1000):
    return Trial(number, {"model.width": str(number)}, state, Cost(latency, flash, 500, 10, 20), {3: score})


def _begun(path, **more):
    search = _search(path, **more)
    return folder.begin(experiments.load(None, list(QUICK)), search)


def test_the_worst_part_of_a_budget_counts():
    cost = Cost(30.0, 2000, 500, 1, 1)
    assert Budget(20.0, 4000, 0).excess(cost) == pytest.approx(0.5)
    assert Budget(60.0, 4000, 1000).excess(cost) == pytest.approx(-0.5)
    assert Budget().excess(cost) == 0


@pytest.mark.parametrize(
    ("rounds", "rungs"), [(18, [2, 6, 18]), (9, [1, 3, 9]), (2, [1, 2]), (1, [1]), (20, [2, 6, 20])]
)
def test_each_rung_is_three_times_as_long(tmp_path, rounds, rungs):
    assert _search(tmp_path, rounds=rounds).rungs == rungs


def test_the_best_is_within_the_budget_and_the_front_is_beaten_by_none(tmp_path):
    search = _search(tmp_path, budget=Budget(latency_us=12))
    found = [_trial(0, score=0.9, latency=30), _trial(1, score=0.6), _trial(2, score=0.7, latency=11),
             _trial(3, PRUNED, 0.99), _trial(4, score=0.5, latency=20), _trial(5, OVER, latency=99)]  # fmt: skip
    assert results.best(search, found).number == 2
    assert [one.number for one in results.pareto(search, found)] == [1, 2]
    page = results.write_page(search, found).read_text()
    assert "(winner)" in page
    assert "<svg" in page


def test_a_latency_may_be_a_share_of_the_experiments_own(tmp_path):
    search = _search(tmp_path, budget=Budget(), share=0.5)
    found = [_trial(0, score=0.9, latency=30), _trial(1, score=0.6, latency=15), _trial(2, score=0.7, latency=16)]
    assert search.beside([]) == search
    bound = search.beside(found)
    assert bound.budget == Budget(latency_us=15)
    assert results.best(bound, found).number == 1
    assert "0.5 of the experiment's own latency" in asking.notes(bound)[1]


def test_the_nearest_is_named_where_nothing_fits(tmp_path):
    search = _search(tmp_path, budget=Budget(latency_us=5))
    told = results.nearest_miss(search, [_trial(0, OVER, latency=30), _trial(1, OVER, latency=7.5)])
    assert told == "nearest is model.width=1: begin another search with --latency-ms 0.01"
    assert "give more --trials" in results.nearest_miss(search, [_trial(2, PRUNED, latency=4)])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("", 0, 0, 0, ""), "nothing is bounded"),
        (("cortex-m4-256", 5, 0, 0, ""), "cannot be measured on this machine"),
        (("nowhere", 0, 0, 0, ""), "no device profile 'nowhere'"),
        (("", 5, 0, 0, "int9"), "--preset int9"),
        (("", float("nan"), 0, 0, ""), "--latency-ms nan: give a number"),
        (("", 5, 0, 0, "", 0.5), "bound the same: leave one out"),
        (("cortex-m7", 0, 0, 0, "", 0.5), "cannot be measured on this machine"),
        (("", 0, float("inf"), 0, ""), "--flash-kb inf: give a number"),
    ],
)
def test_a_budget_that_cannot_be_is_one_line(asked, told):
    with pytest.raises(UsageError, match=told) as error:
        asking.budget_of(*asked)
    assert "\n" not in str(error.value)


def test_a_microcontroller_bounds_flash_and_memory():
    assert asking.budget_of("cortex-m4-256", 0, 0, 0, "") == (Budget(0, 1024 << 10, 256 << 10), "int8-full")
    assert asking.budget_of("cortex-m4-256", 0, 100, 0, "int8") == (Budget(0, 100 << 10, 256 << 10), "int8")


def test_what_varies_is_what_was_asked_for_or_the_familys():
    experiment = experiments.load(None, list(QUICK))
    assert asking.space_of(experiment, SPACE) == SPACE
    assert "model.width" in asking.space_of(experiment, {})
    dscnn = experiments.load(None, [])
    assert "model.arguments.channels" in asking.space_of(dscnn, {})
    with pytest.raises(Exception, match="wdth"):
        asking.space_of(experiment, {"model.wdth": ("1", "2")})


@pytest.mark.parametrize(
    ("overrides", "space", "told"),
    [
        ((), {"training.epochs": ("1", "2")}, r"training.epochs is none of \[model\]"),
        (("privacy.unit=example",), SPACE, "privacy does not plan for"),
        (("federation.algorithm=scaffold",), SPACE, "a method of its own"),
    ],
)
def test_what_a_supernet_cannot_share_is_one_line(overrides, space, told):
    with pytest.raises(UsageError, match=told):
        asking.check_supernet(experiments.load(None, [*QUICK, *overrides]), space)


def test_candidates_begin_with_their_part_of_the_supernet(tmp_path):
    search = _begun(tmp_path / "s", supernet=6)
    heard = []
    supernet.train(search, lambda metrics: heard.append(metrics.round), heard.append)
    assert heard == [1, 2, 3, 4, 5, 6]
    held = (tmp_path / "s" / supernet.FILE).read_bytes()
    supernet.train(search, heard.append, heard.append)  # once
    assert (tmp_path / "s" / supernet.FILE).read_bytes() == held
    assert len(heard) == 6
    experiment = experiments.load(tmp_path / "s" / folder.BASE, ["model.width=0.25"])
    dataset = load_dataset(experiment)
    first, model = (build_network(experiment, dataset, dataset.calibration.x) for _ in range(2))
    assert supernet.taught(search, model) == 1.0
    before, after = (measured(one, state(one), dataset.test).score for one in (first, model))
    assert after > before + 0.1
    (tmp_path / "s" / supernet.FILE).write_bytes(b"x")
    with pytest.raises(RunFolderError, match="damaged"):
        supernet.taught(search, model)


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("12.5", 12.5),
        ('{"check": {"ai-edge-litert": {"accuracy": 1, "latency_us": {"median": 9, "min": 7.5}}}}', 7.5),
        ('{"latency_us": 3}', 3.0),
        ('{"latency_us": true}', None),
        ('{"latency_us": {"max": 3}}', None),
        ("-1", None),
        ("NaN", None),
        ("[1]", None),
        ("fast", None),
    ],
)
def test_what_a_command_prints_is_a_latency_or_nothing(printed, found):
    assert measuring.told_in(printed) == found


def test_a_command_runs_the_file_itself():
    size = f"{shlex.quote(sys.executable)} -c 'import sys, os; print(os.path.getsize(sys.argv[1]))' {{file}}"
    assert measuring.latency_us(size, b"x" * 17) == 17
    for command, told in (
        ("echo fast {file}", "it printed 'fast"),
        ("echo bad >&2; false {file}", "ended with 1: bad"),
    ):
        with pytest.raises(EdgekitError, match=told):
            measuring.latency_us(command, b"x")


def test_damage_and_another_search_are_told_in_a_line(tmp_path):
    search = _begun(tmp_path / "s")
    assert folder.open_search(tmp_path / "s") == search
    with pytest.raises(UsageError, match="holds another search"):
        _begun(tmp_path / "s", rounds=5)
    good = _trial(1).line()
    good["settings"] = {"model.width": "0.5", "model.norm": "none"}
    lines = [{"number": 0}, {**good, "state": "funny"}, {**good, "number": "x"}, {**good, "judged": "x"},
             {**good, "settings": 5}, {**good, "settings": {"model.width": "9", "model.norm": "none"}},
             {**good, "cost": {**good["cost"], "latency_us": "a"}},
             {**good, "scores": {"3": float("nan")}}]  # fmt: skip
    for line in lines:
        (tmp_path / "s/trials.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(RunFolderError, match="damaged") as error:
            print(search.trials)
        assert "\n" not in str(error.value)
    (tmp_path / "s/trials.jsonl").write_text(2 * (json.dumps(good) + "\n"))
    with pytest.raises(RunFolderError, match="trial 1 is none of this search"):
        print(search.trials)
    plan = json.loads((tmp_path / "s/search.json").read_text())
    for wrong in ({"rounds": "x"}, {"budget": {"latency_us": "a"}}, {"preset": "zz"}, {"space": {}}):
        (tmp_path / "s/search.json").write_text(json.dumps({**plan, **wrong}))
        with pytest.raises(RunFolderError, match="damaged"):
            folder.open_search(tmp_path / "s")
    (tmp_path / "s/search.json").write_text(json.dumps(plan))
    (tmp_path / "s/search.toml").write_text("")
    with pytest.raises(RunFolderError, match="not the experiment that the search began with"):
        folder.open_search(tmp_path / "s")
    (tmp_path / "s/search.json").write_text("[]")
    with pytest.raises(RunFolderError, match="damaged"):
        folder.open_search(tmp_path / "s")
    with pytest.raises(UsageError, match="not a search's folder"):
        folder.open_search(tmp_path)


@pytest.mark.long
def test_a_stopped_search_goes_on_as_if_it_had_not_been(tmp_path):
    """Real candidates, in processes of their own; without a bound on latency, so that no clock chooses."""
    heard = []
    whole = running.run(_begun(tmp_path / "whole", rounds=3), 4, 0, 1, heard.append)
    assert [one.number for one in heard] == [0, 1, 2, 3]
    first = _begun(tmp_path / "parts", rounds=3)
    running.run(first, 2, 0, 1, heard.append)
    parts = running.run(folder.open_search(tmp_path / "parts"), 4, 0, 1, heard.append)
    assert [(one.settings, one.state, one.scores, one.judged) for one in parts] == [
        (one.settings, one.state, one.scores, one.judged) for one in whole
    ]
    assert whole[0].settings == {}
    assert whole[0].state == COMPLETE
    assert len({tuple(one.settings.values()) for one in whole}) == 4
    for one in whole:
        assert one.cost.latency_us > 0
        assert (one.state == OVER) == (one.cost.flash > 16 << 10 and one.number > 0)
    winner = results.best(first, parts)
    if winner is not None:
        made = experiments.load(results.write_winner(first, winner), [])
        assert made.model.width == float(winner.settings.get("model.width", 1))
    lines = [json.loads(line) for line in (tmp_path / "parts/trials.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2, 3]
    again = running.run(first, 9, 0, 2, heard.append)
    assert len(again) == 4  # width 1 is the experiment as it is: three others are left


@pytest.mark.long
def test_ctrl_c_ends_a_search_and_a_gap_is_filled(tmp_path, edgekit):
    search = _begun(tmp_path / "s", rounds=3)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "edgekit.cli", "search", str(search.path), "--trials", "4", "--workers", "2"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in child.stdout:
        if "1/4" in line:
            break
    child.send_signal(signal.SIGINT)  # to it alone, as a service manager would
    assert child.wait(30) != 0
    many = len(search.trials)
    assert 1 <= many < 4
    assert not (search.path / "lock").exists()
    done = edgekit("search", str(search.path), "--trials", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(one.number for one in search.trials) == [0, 1, 2, 3]
