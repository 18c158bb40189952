"""Transforms: what happens to updates on their way, with state on both sides, and what privacy lets them see."""

import numpy as np
import pytest
from torch import nn

from edgekit.asks import Aggregate, State, Update, mean_of
from edgekit.clients.torch_trainer import state
from edgekit.data import load
from edgekit.errors import ExperimentError, TrainingError
from edgekit.privacy import epsilon
from edgekit.privacy.mechanisms.client_by_server import ClientByServer
from edgekit.runfolder import RunFolder, read_lines
from edgekit.section import Section
from edgekit.server.loop.sync import Coordinator
from edgekit.transforms.base import Transform

QUICK = ["federation.rounds=4", "training.epochs=1", "training.batch_size=16", "training.learning_rate=0.2"]
HERE = "tests.transforms.test_transforms"


class Share(Section):
    share: float = 0.25


class TopK(Transform):
    """The largest changes alone travel; clients remember the rest for later (Stich et al. 2018, algorithm 1)."""

    Settings = Share
    keeps = True

    def on_update(self, update, ask, client, rng):
        start, sent, rest = ask.bundles["weights"], {}, {}
        before = client.state.get("rest", {name: np.zeros_like(w) for name, w in start.items()})
        for name, array in update.bundles["weights"].items():
            change = array - start[name] + before[name]
            kept = np.where(abs(change) >= np.quantile(abs(change), 1 - self.settings.share), change, 0)
            sent[name], rest[name] = start[name] + kept.astype(array.dtype), (change - kept).astype(array.dtype)
        client.state["rest"] = rest
        return Update({"weights": sent}, update.weight, update.facts)


class Rolling(Transform):
    """Momentum at the server, which remembers the velocity."""

    def begin(self, like):
        return State({"velocity": {name: np.zeros_like(array) for name, array in like["weights"].items()}})

    def on_aggregate(self, got, state, round_, rng):
        velocity = {
            name: np.asarray(0.5 * old + got.bundles["weights"][name] - round_.weights[name], old.dtype)
            for name, old in state.bundles["velocity"].items()
        }
        moved = {name: round_.weights[name] + velocity[name] for name in velocity}
        return Aggregate({"weights": moved}, got.facts, got.count, got.clients), State({"velocity": velocity})


class Median(Transform):
    """Looks at single updates."""

    needs = "each"

    def on_aggregate(self, got, state, round_, rng):
        each = [update.bundles["weights"] for update in got.updates.values()]
        middle = {name: np.median([one[name] for one in each], 0).astype(np.float32) for name in each[0]}
        return Aggregate({"weights": middle}, got.facts, got.count, got.clients), state


class Odd(Transform):
    def on_update(self, update, ask, client, rng):
        return Update({"weights": {name: array[:1] for name, array in update.bundles["weights"].items()}})


class Meddling(Transform):
    def prepare(self, ask, state):
        from dataclasses import replace

        return replace(ask, settings=replace(ask.settings, learning_rate=9.0))


@pytest.fixture
def made(tmp_path, make_experiment, monkeypatch):
    """A coordinator of digits, with transforms of this file."""
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])

    def make(*overrides, transforms=(), name="run", **heard):
        chosen = ", ".join(f'"{HERE}:{one}"' if one.isalnum() else one for one in transforms)
        experiment = make_experiment(*QUICK, "data.clients=5", f"federation.transforms=[{chosen}]", *overrides)
        dataset = load(experiment.data, 0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        import torch

        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.01)
        (tmp_path / name).mkdir(exist_ok=True)
        return Coordinator(experiment, dataset, model, RunFolder(tmp_path / name), **heard)

    return make


def test_clients_and_server_remember_what_plain_numpy_says(made):
    coordinator = made(transforms=["TopK", "Rolling"])
    w, engine = state(coordinator.model), coordinator.engine
    w = {name: array.copy() for name, array in w.items()}
    rest = {client: {k: np.zeros_like(v) for k, v in w.items()} for client in range(5)}
    velocity = {k: np.zeros_like(v) for k, v in w.items()}
    plain = made(name="plain").engine
    assert plain is not engine
    for number in range(1, 5):
        ask = coordinator.merging.asks(State({"weights": w}), range(5), number)
        replies = plain.exchange(coordinator._prepared(ask, number, [], {})).replies
        updates = []
        for reply in replies:
            sent = {}
            for k, array in reply.update.bundles["weights"].items():
                change = array - w[k] + rest[reply.client][k]
                kept = np.where(abs(change) >= np.quantile(abs(change), 0.75), change, 0)
                sent[k], rest[reply.client][k] = w[k] + kept.astype(np.float32), (change - kept).astype(np.float32)
            updates.append(Update({"weights": sent}, reply.update.weight))
        mean, _ = mean_of(updates)
        velocity = {k: (0.5 * v + mean["weights"][k] - w[k]).astype(np.float32) for k, v in velocity.items()}
        w = {k: w[k] + velocity[k] for k in w}
    found = coordinator.run().weights
    assert all(np.allclose(found[k], w[k], atol=1e-6) for k in w)


def test_a_resumed_run_ends_with_the_same_bits(made):
    whole = made(transforms=["TopK", "Rolling"]).run().weights

    def stop(line):
        if line.round == 2:
            raise KeyboardInterrupt

    assert made(transforms=["TopK", "Rolling"], name="cut", on_round=stop).run().interrupted
    resumed = made(transforms=["TopK", "Rolling"], name="cut").run().weights
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(TrainingError, match="was begun with the method fedavg through"):
        made(transforms=["Rolling"], name="cut").run()


def test_a_transform_takes_its_own_arguments(made):
    whole = made().run().weights
    everything = f'{{name = "{HERE}:TopK", arguments = {{share = 1.0}}}}'
    kept = made(transforms=[everything], name="all").run().weights
    assert all(np.allclose(whole[name], kept[name], atol=1e-6) for name in whole)
    with pytest.raises(ExperimentError, match="arguments of .*TopK do not fit: part"):
        made(transforms=[f'{{name = "{HERE}:TopK", arguments = {{part = 1.0}}}}'])


def test_what_looks_at_single_updates_is_not_let_behind_their_mean(made):
    made(transforms=["Median"]).run()
    made("privacy.unit=client", "privacy.noise=client", transforms=["Median"], name="local").run()
    with pytest.raises(ExperimentError, match="Median looks at single clients' updates, of which it gets the mean"):
        made("privacy.unit=client", "federation.cohort=2", transforms=["Median"])
    with pytest.raises(ExperimentError, match="Median looks at single"):
        made(transforms=["Median", "Rolling"])
    with pytest.raises(ExperimentError, match=r"FedMedian looks at single"):
        made("federation.strategy=FedMedian", transforms=["Rolling"])
    made("federation.strategy=FedAvg", "federation.rounds=1", transforms=["Rolling"], name="flower").run()


def test_a_transform_comes_before_privacys_bound_on_clients_and_behind_its_noise_at_the_server(made):
    """However much a transform enlarges updates, no client moves the released mean by more than the clip."""
    moved = []
    for transforms in ([], ["Louder"]):
        coordinator = made(
            "privacy.unit=client", "privacy.clip=0.01", "federation.rounds=1", "federation.cohort=4",
            transforms=transforms, name=f"loud{len(transforms)}",
        )  # fmt: skip
        before = {k: v.copy() for k, v in state(coordinator.model).items()}
        after = coordinator.run().weights
        moved.append({k: after[k] - before[k] for k in before})
    # Both are clipped to the same length, and the noise is the same: the difference is at most two clips a client.
    apart = sum(float(((moved[0][k] - moved[1][k]) ** 2).sum()) for k in moved[0]) ** 0.5
    assert apart <= 2 * 0.01 * 1.001


class Louder(Transform):
    def on_update(self, update, ask, client, rng):
        start = ask.bundles["weights"]
        loud = {name: start[name] + 100 * (a - start[name]) for name, a in update.bundles["weights"].items()}
        return Update({"weights": loud})


def test_a_round_of_one_gradient_step_leaves_no_room_on_clients(made):
    with pytest.raises(ExperimentError, match="a transform has a client half of its own, but with unit example"):
        made("privacy.unit=example", transforms=["TopK"])
    made("privacy.unit=example", "federation.rounds=1", transforms=["Rolling"]).run()


def test_what_gives_another_form_costs_the_update_and_what_meddles_ends_the_run(made):
    with pytest.raises(TrainingError, match="the transform Odd cannot be sent: .*shape"):
        made(transforms=["Odd"]).run()
    with pytest.raises(TrainingError, match="Meddling gives no Ask with the round's own settings"):
        made(transforms=["Meddling"], name="meddling").run()
    with pytest.raises(ExperimentError, match=r"'.*:Share' is not an edgekit.transforms.base.Transform"):
        made(transforms=["Share"])
    with pytest.raises(ExperimentError, match="federation.transforms 'topk' is unknown"):
        made('federation.transforms=["topk"]')


class OneDraw(ClientByServer):
    """A mechanism whose noise is drawn for the whole run together."""

    def charges(self, number, clients, draw):
        (charge,) = super().charges(1, clients, draw)
        return [charge]


def test_a_mechanism_may_charge_once_for_a_whole_run(made, monkeypatch, tmp_path):
    monkeypatch.setattr("edgekit.privacy.mechanisms.KINDS", {("client", "server"): OneDraw})
    coordinator = made("privacy.unit=client", "federation.cohort=3")
    coordinator.run()
    (line,) = read_lines(tmp_path / "run" / "privacy.jsonl")
    plan = coordinator.plan
    spent = epsilon([(plan.noise_multiplier, plan.sample_rate, 1)], plan.delta)
    assert coordinator.charging.epsilon == pytest.approx(spent, abs=1e-4)
    assert line["round"] == 1


class Nobody(Transform):
    """A filter that takes no update."""

    needs = gives = "each"

    def on_aggregate(self, got, state, round_, rng):
        return Aggregate({}, {}, 0, got.clients, {}), state


class Liar(Transform):
    gives = "each"

    def on_aggregate(self, got, state, round_, rng):
        return got, state


class Forgetting(Transform):
    keeps = True

    def on_update(self, update, ask, client, rng):
        seen = sorted(client.state)
        client.state.pop("first", None)
        client.state["first" if ask.round == 1 else "later"] = {"n": np.ones(1, np.float32)}
        return Update(update.bundles, update.weight, {"first": float("first" in seen), **update.facts})


def test_a_round_of_which_a_transform_takes_no_update_leaves_the_model(made):
    coordinator = made(transforms=["Nobody"])
    first = {k: v.copy() for k, v in state(coordinator.model).items()}
    found = coordinator.run().weights
    assert all(np.array_equal(first[k], found[k]) for k in first)
    with pytest.raises(TrainingError, match="Liar says that it gives single updates, and does not"):
        made(transforms=["Liar"], name="liar").run()


def test_what_a_transform_forgets_on_a_client_is_gone(made, tmp_path):
    made(transforms=["Forgetting"]).run()
    told = [line["metrics"]["first"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert told == [0, 1, 0, 0]


def test_an_unknown_key_of_a_transform_is_named_with_those_that_are_known():
    from edgekit import experiment as experiments

    with pytest.raises(ExperimentError, match="foo'; known keys here: name, arguments"):
        experiments.load(None, ['federation.transforms=[{name="mine:One", foo=1}]'])
