"""FedBuff on simulated devices: against plain numpy, resumed, and what it gains of stragglers."""

import json

import numpy as np
import pytest
import torch

from edgekit.errors import EdgekitError

from .reference import descend, mean, same

PROFILE = """
name = "slow"
description = "made for a test"
evidence = "published"
source = "a test"
[cpu]
model = "any"
architecture = "aarch64"
cores = 4
training_gflops = 2.0
step_ms = 4000.0
"""


@pytest.fixture
def buffered(run, tmp_path):
    """Train by FedBuff with ten clients on slow devices; return as of `run`, and the lines of devices.jsonl."""
    (tmp_path / "slow.toml").write_text(PROFILE)
    population = f'devices.population={{"{tmp_path / "slow.toml"}" = 10}}'

    def train(*overrides, algorithm="fedbuff", name="run"):
        torch.manual_seed(0)  # for the first weights
        chosen = (f"federation.algorithm={algorithm}", "data.clients=10", "federation.cohort=6", population)
        made, first, found, folder = run(*chosen, "devices.spread=1.0", *overrides, name=name)
        return made, first, found, [json.loads(line) for line in folder.devices.read_text().splitlines()]

    return train


def test_fedbuff(buffered):
    """Nguyen et al. 2022, algorithm 1: each change from the model of its begin, by 1 / sqrt(1 + staleness)."""
    chosen = ("federation.arguments={buffer = 3, server_learning_rate = 0.8}", "federation.rounds=6")
    made, first, found, lines = buffered(*chosen)
    models = [{name: w.astype(np.float64) for name, w in first.items()}]
    stale = []
    for number, line in enumerate(lines, 1):
        changes = []
        assert len(line["devices"]) == 3
        for client, began, *_, end in line["devices"]:
            assert end == "done"
            version = sum(before["clock"] <= began for before in lines[: number - 1])
            stale.append(number - 1 - version)
            after = descend(made, version + 1, client, models[version])[0]
            changes.append({name: (w - models[version][name]) / (1 + stale[-1]) ** 0.5 for name, w in after.items()})
        moved = mean(changes, [1] * 3)
        models.append({name: w + 0.8 * moved[name] for name, w in models[-1].items()})
    assert 0 in stale
    assert max(stale) > 0
    same(found, models[-1])
    told = [json.loads(line)["metrics"]["staleness"] for line in made.run_folder.metrics.read_text().splitlines()]
    assert told == pytest.approx([np.mean(stale[3 * k : 3 * k + 3]) for k in range(6)], abs=1e-6)
    busy = [(row[1], row[1] + sum(row[2:5])) for line in lines for row in line["devices"]]
    assert max(sum(start <= time < end for start, end in busy) for time, _ in busy) <= 6


def test_who_is_too_stale_is_left_out(buffered):
    made, _, _, lines = buffered(
        "federation.arguments={buffer = 1, most_stale = 1}", "federation.rounds=30", "devices.spread=2.0"
    )
    ends = [row[-1] for line in lines for row in line["devices"]]
    assert "stale" in ends
    metrics = [json.loads(line) for line in made.run_folder.metrics.read_text().splitlines()]
    assert all(line["replies"] == 1 for line in metrics)
    assert sum(line["failures"] for line in metrics) == ends.count("stale")
    assert max(line["metrics"]["staleness"] for line in metrics) <= 1


@pytest.mark.parametrize("transforms", ["[]", '[{name = "top-k", arguments = {share = 0.2}}]'])
def test_a_resumed_run_goes_on_with_those_who_train(transforms, buffered, monkeypatch):
    chosen = (
        "federation.arguments={buffer = 2}",
        f"federation.transforms={transforms}",
        "federation.rounds=6",
        "devices.availability=always",
    )
    *_, expected, lines = buffered(*chosen, name="whole")

    from edgekit.server.loop.sync import Coordinator

    once = Coordinator.run

    def twice(self):
        def stop(line):
            if line.round == 3:
                raise KeyboardInterrupt

        self.on_round = stop
        assert once(self).interrupted
        again = Coordinator(self.experiment, self.dataset, self.model, self.run_folder)
        return once(again)

    monkeypatch.setattr(Coordinator, "run", twice)
    *_, found, resumed = buffered(*chosen, name="parts")
    assert resumed == lines
    assert all((found[name] == array).all() for name, array in expected.items())


def test_steps_come_faster_than_rounds_that_wait_for_stragglers(buffered):
    *_, waited = buffered("federation.rounds=8", algorithm="fedavg", name="waited")
    *_, own = buffered("federation.rounds=8", "federation.arguments.buffer=3", name="own")
    assert own[-1]["clock"] < 0.5 * waited[-1]["clock"]


def test_clients_noise_their_own_changes(buffered):
    private = ("privacy.unit=client", "privacy.noise=client", "privacy.epsilon=100")
    made, *_ = buffered(*private, "federation.arguments.buffer=3")
    assert made.plan.noise == "client"
    assert made.statement.holds


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["federation.arguments.buffer=7"], "federation.arguments.buffer is 7, but only 6 clients train at once"),
        (["federation.arguments.most_stale=0"], "most_stale"),
        (["federation.arguments.most_stale=100000"], "most_stale"),
        (["devices.over_selection=1.5", "federation.arguments.buffer=3"], "devices.over_selection is of rounds"),
        (["devices.population={}"], "simulated devices have: give them some"),
        (
            ["federation.arguments.buffer=3", "privacy.unit=client", "federation.cohort=5"],
            "nobody is drawn as privacy counts on",
        ),
    ],
)
def test_what_cannot_be_is_told_before_training(chosen, message, buffered):
    with pytest.raises(EdgekitError, match=message):
        buffered(*chosen)
