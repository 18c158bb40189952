"""A node's side of the conversation: what it trains, what it refuses, what it takes into use, what survives."""

import json
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from edgekit import wire
from edgekit.algorithms.base import Algorithm, Client
from edgekit.algorithms.scaffold import Scaffold
from edgekit.arrays import to_bytes
from edgekit.asks import Aggregate, Ask, Train, Update
from edgekit.clients import LocalSettings, LocalTask
from edgekit.clients.budget import Budget, PlannedRun
from edgekit.clients.halves import run_halves
from edgekit.clients.node import conditions, delivery, resident, statistics
from edgekit.clients.node.agreement import words
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.node.folder import NodeFolder
from edgekit.clients.node.handler import Handler, without_paths
from edgekit.clients.node.task import Task, name_of
from edgekit.clients.node.task_facts import MethodFacts, Planned
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import load
from edgekit.data.settings import Data
from edgekit.devices import sensors
from edgekit.errors import JoinError, PrivacyError, RefusedError, StoppedError
from edgekit.export.convert import to_float32
from edgekit.export.verify import run_examples
from edgekit.flower import CLIENT_DECLINED, NODE_LACKS_TASK
from edgekit.flower.parcel import Parcel
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.privacy import Charge, Ledger
from edgekit.privacy.accounting import epsilon

PRIVATE = LocalSettings("dp-sgd", steps=2, sample_rate=0.5, clip=1.0, noise_multiplier=2.0)
PLANNED = Planned(noise_multiplier=2.0, sample_rate=0.5, steps=4, reports=0, reports_noise=8.0, delta=1e-5)


def ask(handler, facts, content=b"", kind="query"):
    return handler.answer(Message(wire.Message(facts, content).record(), 7, kind))


def install(handler, task, signer, **changed):
    content = task.to_bytes()
    told = wire.read(ask(handler, {"action": "install", "signature": signer.sign(content), **changed}, content)).facts
    return told, name_of(content)


def train(handler, task, weights, settings=PRIVATE, number=1):
    facts = {"task": task, "round": number, "local-settings": settings.to_json(), "proximal-mu": 0.0}
    return ask(handler, facts, to_bytes(weights), "train")


def as_parcel(message):
    message.metadata.__dict__["_message_id"] = message.object_id
    return Parcel(message.object_id, {name: one.deflate() for name, one in get_all_nested_objects(message).items()})


def test_a_task_comes_back_as_it_was_sent(make_task):
    task = replace(make_task(), training=b"graph")
    again = Task.from_bytes(task.to_bytes())
    assert again == task
    with pytest.raises(RefusedError, match="install the coordinator's version"):
        Task.from_bytes(to_bytes({}, {"run": "x", "novelty": 1}))


def test_a_node_trains_what_the_coordinator_signed_and_nothing_else(folder, make_task, signer, model):
    handler = Handler(folder)
    assert train(handler, "0" * 32, state(model)).error.code == NODE_LACKS_TASK
    told, name = install(handler, make_task(), signer)
    assert (told["kind"], told["holds"], told["problem"], told["examples"]) == ("torch", True, "", -1)
    reply = train(handler, name, state(model))
    letter = wire.read(reply)
    assert letter.facts["num-examples"] == 1  # protected updates say nothing of the client's size
    assert {k: v.shape for k, v in letter.weights().items()} == {k: v.shape for k, v in state(model).items()}
    stranger = Ed25519PrivateKey.generate()
    content = make_task(run="other").to_bytes()
    for signature in (stranger.sign(content), b"", None, "text"):
        refused = ask(handler, {"action": "install", "signature": signature}, content)
        assert "not signed by the coordinator's key" in refused.error.reason


def test_work_repeated_after_a_crash_gives_the_same_bits_and_costs_nothing_more(folder, make_task, signer, model):
    _, name = install(Handler(folder), make_task(), signer)
    first = wire.read(train(Handler(folder), name, state(model))).content
    spent = Ledger(folder.ledger).epsilon(1e-5, "pld-numpy")
    assert wire.read(train(Handler(folder), name, state(model))).content == first
    assert Ledger(folder.ledger).epsilon(1e-5, "pld-numpy") == spent
    # Anything else, by one bit, is other work with other noise: two answers cannot be subtracted.
    nudged = {k: v.copy() for k, v in state(model).items()}
    next(iter(nudged.values())).flat[0] = np.nextafter(next(iter(nudged.values())).flat[0], np.float32(9))
    other = wire.read(train(Handler(folder), name, nudged))
    pairs = zip(wire.Message({}, first).weights().values(), other.weights().values(), strict=True)
    difference = np.concatenate([(a - b).ravel() for a, b in pairs])
    assert difference.std() > 1e-3  # the noise's, where rounding alone would leave 1e-7
    assert Ledger(folder.ledger).epsilon(1e-5, "pld-numpy") > spent


def test_other_examples_get_other_noise_and_are_charged(folder, make_task, signer, model, digits, tmp_path):
    """An owner who adds a picture: the same round again must not give its contribution away by subtraction."""
    own = digits.client(0)
    names = np.array(digits.classes)
    folder.keep_node_settings(folder.node_settings().model_copy(update={"client": -1, "data": f"npz:{tmp_path}/x.npz"}))
    drawn = []
    for count in (len(own) - 1, len(own)):
        np.savez(tmp_path / "x.npz", x=own.x[:count], y=names[own.y[:count]])
        handler = Handler(folder)
        _, name = install(handler, make_task(), signer)
        assert not train(handler, name, state(model)).has_error()
        drawn.append(handler.held.digest("train", state(model), ""))
    assert drawn[0] != drawn[1]
    assert Ledger(folder.ledger).rounds == 2


def test_a_node_keeps_to_the_plan_or_to_its_owners_limit(folder, make_task, signer, model):
    _, name = install(Handler(folder), make_task(), signer)
    for number in (1, 2):
        weights = {k: v + np.float32(number) for k, v in state(model).items()}
        assert not train(Handler(folder), name, weights, number=number).has_error()
    third = train(Handler(folder), name, state(model), number=3)
    assert "will spend epsilon" in third.error.reason
    planned = epsilon([(2.0, 0.5, 4)], 1e-5, "pld-numpy")
    assert Ledger(folder.ledger).epsilon(1e-5, "pld-numpy") == pytest.approx(planned)
    folder.keep_node_settings(folder.node_settings().model_copy(update={"epsilon": 2 * planned}))
    assert not train(Handler(folder), name, state(model), number=3).has_error()
    bare = train(Handler(folder), name, state(model), LocalSettings(), number=4)
    assert "asks for an update without noise of its own" in bare.error.reason


LAVISH = PLANNED.model_copy(update={"noise_multiplier": 0.001})
MORE = PLANNED.model_copy(update={"noise_multiplier": 1.0, "steps": 100})


def test_a_second_task_cannot_raise_what_the_first_one_took(folder, make_task, signer, model, caplog):
    caplog.set_level("INFO", "edgekit.node")
    handler = Handler(folder)
    _, name = install(handler, make_task(), signer)
    planned = epsilon([(2.0, 0.5, 4)], 1e-5, "pld-numpy")
    assert (
        f"agreed: this device spends epsilon {planned:.4g} at delta 1e-05 (at most twice that) for one example"
        in caplog.text
    )
    for number in (1, 2):
        weights = {k: v + np.float32(number) for k, v in state(model).items()}
        assert not train(handler, name, weights, number=number).has_error()
    spent = Ledger(folder.ledger).epsilon(1e-5, "pld-numpy")
    for facts, work in (
        ({"planned": MORE}, replace(PRIVATE, noise_multiplier=1.0)),
        ({"planned": LAVISH}, replace(PRIVATE, noise_multiplier=0.001)),
        ({"planned": PLANNED, "run_id": "another run"}, PRIVATE),
    ):
        handler = Handler(folder)
        told, name = install(handler, make_task(**facts), signer)
        assert told["problem"] == ""
        assert "will spend epsilon" in train(handler, name, state(model), work, number=9).error.reason
    told, name = install(handler, make_task(planned=None), signer)
    assert "agreed to protect its data itself" in told["problem"]
    assert train(handler, name, state(model), LocalSettings()).has_error()
    assert Ledger(folder.ledger).epsilon(1e-5, "pld-numpy") == spent
    folder.keep_node_settings(folder.node_settings().model_copy(update={"epsilon": 90.0}))
    handler = Handler(folder)  # the owner's own word
    _, name = install(handler, make_task(planned=MORE), signer)
    work = replace(PRIVATE, noise_multiplier=1.0)
    assert not train(handler, name, state(model), work, number=9).has_error()


def test_a_first_task_that_would_spend_everything_needs_the_owners_word(folder, make_task, signer, model):
    told, name = install(Handler(folder), make_task(planned=LAVISH), signer)
    assert "would spend epsilon" in told["problem"]
    assert "more than 100" in told["problem"]
    lavish = replace(PRIVATE, noise_multiplier=0.001)
    assert train(Handler(folder), name, state(model), lavish).has_error()
    assert Ledger(folder.ledger).rounds == 0
    assert not folder.agreement.exists()


def test_who_agreed_to_protect_all_of_a_device_protects_no_less(folder, make_task, signer, model):
    whole = Planned(
        unit="client", noise_multiplier=3.0, sample_rate=1.0, steps=4, reports=0, reports_noise=8.0, delta=1e-5
    )
    handler = Handler(folder)
    _, name = install(handler, make_task(planned=whole), signer)
    work = LocalSettings(update_clip=1.0, update_noise=6.0)
    assert not train(handler, name, state(model), work).has_error()
    told, _ = install(handler, make_task(), signer)
    assert "protects single examples alone" in told["problem"]
    folder.keep_node_settings(folder.node_settings().model_copy(update={"share": ["statistics"]}))
    handler = Handler(folder)
    install(handler, make_task(planned=whole), signer)
    question = {"action": "statistics", "noise": 8.0, "task": name}
    declined = ask(handler, question, to_bytes(state(model)))
    assert "counted as single examples" in declined.error.reason
    Ledger(folder.ledger).charge(Charge(9, "example", "client", 5.0, 1.0, 1, None, "a statistic"))
    void = train(Handler(folder), name, {k: v + np.float32(1) for k, v in state(model).items()}, work, number=2)
    assert "void once single examples' were spent" in void.error.reason


def test_a_device_shows_its_own_words(make_task):
    plan = epsilon([(2.0, 0.5, 4)], 1e-5, "pld-numpy")
    assert f"epsilon {plan:.4g} at delta 1e-05 for one example by its own count" in words(make_task().facts)
    bare = words(make_task(planned=None).facts)
    assert "whoever runs the coordinator sees its own updates" in bare
    claimed = words(make_task(planned=None, claimed="client").facts)
    assert "The coordinator says that it adds noise, which protects everything on this device" in claimed


def test_a_nodes_ledger_that_was_cut_or_deleted_is_refused(folder, make_task, signer, model):
    handler = Handler(folder)
    _, name = install(handler, make_task(), signer)
    for number in (1, 2):
        weights = {k: v + np.float32(number) for k, v in state(model).items()}
        assert not train(handler, name, weights, number=number).has_error()
    whole = folder.ledger.read_bytes()
    first, _ = whole.splitlines(keepends=True)
    for damaged in (first, b""):
        folder.ledger.write_bytes(damaged)
        with pytest.raises(PrivacyError, match="does not hold all that was spent"):
            Handler(folder)
    folder.ledger.unlink()
    with pytest.raises(PrivacyError, match="put this one's own back"):
        Handler(folder)
    folder.ledger.write_bytes(whole)
    # A crash between a charge and its head leaves an older head, which the ledger holds.
    folder.ledger_head.write_text(f"{json.loads(first)['chain']}\n")
    assert Handler(folder).held.ledger.rounds == 2


def test_each_plan_counts_whole_from_its_first_round_and_what_goes_beyond_adds_up(folder, make_task, signer, model):
    """The second at half the delta of the first, the third at half of that: all stay below twice the first's."""
    folder.keep_node_settings(folder.node_settings().model_copy(update={"epsilon": 50.0}))
    spent = []
    for run, number in (("first", 1), ("first", 2), ("second", 3), ("second", 4), ("second", 5)):
        handler = Handler(folder)
        _, name = install(handler, make_task(run_id=run), signer)
        weights = {k: v + np.float32(number) for k, v in state(model).items()}
        assert not train(handler, name, weights, number=number).has_error()
        assert not train(handler, name, weights, number=number).has_error()  # again: nothing new
        spent.append(handler.held.budget().spent())
    first, second = (epsilon([(2.0, 0.5, 4)], delta, "pld-numpy") for delta in (1e-5, 5e-6))
    beyond = epsilon([(2.0, 0.5, 2)], 2.5e-6, "pld-numpy")
    assert spent == pytest.approx([first, first, first + second, first + second, first + second + beyond])


def test_many_plans_or_kinds_of_noise_are_no_way_round_a_limit(tmp_path):
    """Each alone has a chance of at most delta to give an example away, bare: a deltas' worth for each adds up."""
    budget = Budget(Ledger(tmp_path / "kinds.jsonl"), 1.0, 1e-5)
    budget.charge(Charge(1, "example", "client", 0.01, 9.9e-6, 1, None, "d0"))
    with pytest.raises(PrivacyError, match="will spend epsilon 1"):
        budget.charge(Charge(2, "example", "client", 0.01, 9.8e-6, 1, None, "d1"))
    ledger = Ledger(tmp_path / "plans.jsonl")
    for run in range(2):
        budget = Budget(ledger, 1.0, 1e-5, planned=PlannedRun(f"run{run}", {(0.01, 9.9e-6): 1}))
        charge = Charge(run + 1, "example", "client", 0.01, 9.9e-6, 1, None, f"d{run}")
        if not run:
            budget.charge(charge)
            continue
        with pytest.raises(PrivacyError, match="will spend epsilon 1"):
            budget.charge(charge)


def test_rounds_from_before_plans_were_written_down_are_of_the_plan_under_way(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    for number in range(5):
        ledger.charge(Charge(number + 1, "example", "client", 1.0, 0.1, 10, None, f"old {number}"))
    whole = epsilon([(1.0, 0.1, 100)], 1e-5, "pld-numpy")
    budget = Budget(ledger, 1.001 * whole, 1e-5, planned=PlannedRun("task", {(1.0, 0.1): 100}))
    for number in range(5):
        budget.charge(Charge(number + 6, "example", "client", 1.0, 0.1, 10, None, f"new {number}"))
    assert budget.spent() == pytest.approx(whole)
    with pytest.raises(PrivacyError, match="and no more"):
        budget.charge(Charge(11, "example", "client", 1.0, 0.1, 10, None, "beyond"))


def test_a_last_round_that_is_repeated_is_the_same_one_however_its_noise_was_rounded(tmp_path):
    budget = Budget(
        Ledger(tmp_path / "a.jsonl"), 100.0, 1e-5, "client", PlannedRun("t", {(0.7281836509079729, 1.0): 2})
    )
    for draw in ("a", "b", "b"):
        noise = 0.7281836509079729 * (1 + 2**-52)
        budget.charge(Charge(1, "client", "client", noise, 1.0, 1, None, draw))
    assert budget.ledger.rounds == 1
    assert len(budget.ledger.charges) == 2


def test_an_agreement_that_cannot_be_read_is_said(folder, make_task, signer):
    folder.agreement.write_text("{}")
    told, _ = install(Handler(folder), make_task(), signer)
    assert "put it back, or join with another --folder" in told["problem"]


def test_wrong_weights_settings_and_questions_cost_nothing(folder, make_task, signer, model):
    handler = Handler(folder)
    _, name = install(handler, make_task(), signer)
    wrong_shape = {**state(model), next(iter(state(model))): np.zeros((2, 2), np.float32)}
    not_finite = {k: np.full_like(v, np.nan) for k, v in state(model).items()}
    for weights, complaint in ((wrong_shape, "shape"), (not_finite, "not finite"), ({}, "missing")):
        assert complaint in train(handler, name, weights).error.reason
    facts = {"task": name, "round": 1, "local-settings": '{"clip": -1}'}
    assert "the round's clip is -1" in ask(handler, facts, to_bytes(state(model)), "train").error.reason
    assert "cannot be read" in ask(handler, {"task": name}, b"", "train").error.reason
    assert "not arrays" in ask(handler, {**facts, "local-settings": "{}"}, b"junk", "train").error.reason
    assert "does not know 'dance'" in ask(handler, {"action": "dance"}).error.reason
    assert Ledger(folder.ledger).rounds == 0


def test_a_task_may_not_choose_what_code_runs_on_the_device(folder, make_task, signer):
    told, _ = install(Handler(folder), make_task(model=Model(name="os:system")), signer)
    assert "code of this device" in told["problem"]
    told, _ = install(Handler(folder), make_task(data=Data(clients=6, source="os:getcwd")), signer)
    assert "code of this device" in told["problem"]
    told, _ = install(Handler(folder), make_task(data=Data(clients=6, source="images:/home")), signer)
    assert "may not choose what is read" in told["problem"]
    folder.keep_node_settings(folder.node_settings().model_copy(update={"modules": ["os"]}))
    told, _ = install(Handler(folder), make_task(model=Model(name="os:getcwd")), signer)
    assert "code of this device" not in told["problem"]


def test_data_that_does_not_fit_is_told(folder, make_task, signer, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 5), np.float32), y=np.array(["0", "1", "1"]))
    for source, complaint in (
        (f"npz:{tmp_path}/x.npz", "examples of shape (5,)"),
        ("npz:/nowhere.npz", "does not exist"),
        ("dreams", "known are digits"),
    ):
        folder.keep_node_settings(folder.node_settings().model_copy(update={"client": -1, "data": source}))
        told, _ = install(Handler(folder), make_task(planned=None), signer)
        assert complaint in told["problem"], source


def test_a_device_that_protects_its_data_tells_nothing_of_what_does_not_fit(
    folder, make_task, signer, tmp_path, caplog
):
    """Else a coordinator could ask class by class which ones there are."""
    x = np.zeros((4, 1, 8, 8), np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.array(["0", "rare", "0", "0"]))
    folder.keep_node_settings(folder.node_settings().model_copy(update={"client": -1, "data": f"npz:{tmp_path}/x.npz"}))
    told, _ = install(Handler(folder), make_task(), signer)
    assert told["problem"] == "this device's data does not fit the task; its own log says why"
    assert "rare" in caplog.text
    assert not folder.agreement.exists()


def test_a_plan_that_spends_next_to_nothing_protects_all_the_same(folder, make_task, signer, model):
    tiny = Planned(noise_multiplier=1e6, sample_rate=1.0, steps=1, reports=0, reports_noise=8.0, delta=1e-3)
    handler = Handler(folder)
    _, name = install(handler, make_task(planned=tiny), signer)
    bare = train(handler, name, state(model), LocalSettings())
    assert "without noise of its own" in bare.error.reason
    told, _ = install(Handler(folder), make_task(planned=None), signer)
    assert "agreed to protect its data itself" in told["problem"]
    assert told["examples"] == -1


@pytest.mark.parametrize("number", range(3))
def test_a_training_that_overflows_shows_in_nothing(folder, make_task, signer, digits, number):
    """Whether it does may tell of the data: a device that protects all of it answers with noise alone."""
    whole = Planned(
        unit="client", noise_multiplier=3.0, sample_rate=1.0, steps=9, reports=0, reports_noise=8.0, delta=1e-5
    )
    folder.keep_node_settings(folder.node_settings().model_copy(update={"client": number}))
    handler = Handler(folder)
    _, name = install(handler, make_task(planned=whole), signer)
    start = state(build(Model(name="mlp"), digits.shape, 10, 0))
    work = LocalSettings(update_clip=1.0, update_noise=6.0, learning_rate=1e30, epochs=3)
    reply = train(handler, name, start, work)
    assert not reply.has_error()
    moved = np.concatenate([(array - start[key]).ravel() for key, array in wire.read(reply).weights().items()])
    assert np.isfinite(moved).all()
    assert moved.std() == pytest.approx(6.0, rel=0.1)


def test_a_refused_task_leaves_the_fingerprint_of_the_examples_in_use(folder, make_task, signer, digits, tmp_path):
    own, names = digits.client(0), np.array(digits.classes)
    folder.keep_node_settings(folder.node_settings().model_copy(update={"client": -1, "data": f"npz:{tmp_path}/x.npz"}))
    np.savez(tmp_path / "x.npz", x=own.x, y=names[own.y])
    handler = Handler(folder)
    install(handler, make_task(), signer)
    before = handler.held._owned
    np.savez(tmp_path / "x.npz", x=own.x[1:], y=names[own.y[1:]])
    install(handler, make_task(planned=None), signer)
    assert handler.held._owned == before


def test_labels_go_by_name_whatever_their_order_on_the_device(folder, make_task, digits, tmp_path):
    own = digits.client(0)
    np.savez(tmp_path / "x.npz", x=own.x, y=np.array([digits.classes[label] for label in own.y]))
    node_settings = folder.node_settings().model_copy(update={"client": -1, "data": f"npz:{tmp_path}/x.npz"})
    assert np.array_equal(make_task().examples(node_settings).y, own.y)


def test_statistics_are_noised_charged_and_given_only_if_shared(folder, make_task, signer, model):
    reports = PLANNED.model_copy(update={"reports": 2})
    _, name = install(Handler(folder), make_task(planned=reports), signer)
    question = {"action": "statistics", "noise": 8.0, "task": name}
    weights = to_bytes(state(model))
    assert "does not share" in ask(Handler(folder), question, weights).error.reason
    folder.keep_node_settings(folder.node_settings().model_copy(update={"share": ["statistics"]}))
    first = wire.read(ask(Handler(folder), question, weights)).facts["sum"]
    assert wire.read(ask(Handler(folder), question, weights)).facts["sum"] == first
    assert Ledger(folder.ledger).rounds == 1
    assert "noise multiplier of at least" in ask(Handler(folder), {**question, "noise": "nan"}, weights).error.reason
    wanted = epsilon([(8.0, 1.0, 1)], 1e-5, "pld-numpy")
    assert Ledger(folder.ledger).epsilon(1e-5, "pld-numpy") == pytest.approx(wanted)
    little = ask(Handler(folder), {**question, "noise": 0.01}, weights)
    assert "noise multiplier of at least" in little.error.reason


def test_statistics_have_the_noise_that_they_are_charged_for():
    """The Gaussian mechanism's, of the multiplier times the bound of one example's contribution."""
    rng = np.random.default_rng(0)
    found = np.stack([statistics.noised_sum(np.zeros((3, 4)), 8.0, rng) for _ in range(2000)])
    assert found.std() == pytest.approx(8.0 * statistics.SENSITIVITY, rel=0.03)


def _delivery(network, digits, version=1, **changed):
    content = to_float32(network, digits.shape)
    probe = np.ascontiguousarray(digits.calibration.x[:3].transpose(0, 2, 3, 1))
    made = Delivery(content, version, "digits", 0.9, probe, run_examples(content, probe).scores, 0.02)
    return replace(made, **changed)


def test_a_delivered_model_is_tested_before_it_replaces_the_old_one(folder, model, digits, signer):
    def deliver(made):
        content = made.to_bytes()
        return delivery.accept(folder, content, signer.sign(content))

    assert deliver(_delivery(model, digits))["version"] == 1
    used = delivery.current(folder)["file"]
    for bad, complaint in (
        (_delivery(model, digits, 2, model=b"no model"), "was not taken"),
        (_delivery(model, digits, 2, scores=np.ones((3, 10), np.float32)), "off by"),
        (_delivery(model, digits, 2, scores=np.ones((3, 9), np.float32)), "shape"),
    ):
        kept = deliver(bad)
        assert complaint in kept["problem"]
        assert (kept["version"], delivery.current(folder)["file"]) == (1, used)
        assert (folder.models / used).exists()
    assert deliver(_delivery(model, digits, 3))["version"] == 3
    assert delivery.current(folder)["previous"]["version"] == 1
    with pytest.raises(RefusedError, match="older than 3"):
        deliver(_delivery(model, digits, 2))
    content = _delivery(model, digits, 4).to_bytes()
    with pytest.raises(RefusedError, match="not signed"):
        delivery.accept(folder, content[:-1] + bytes([content[-1] ^ 1]), signer.sign(content))


def test_a_node_declines_when_its_owner_does_not_want_it_to_train(folder, make_task, signer, model, monkeypatch):
    handler = Handler(folder)
    _, name = install(handler, make_task(), signer)
    handler.held.node_settings = handler.held.node_settings.model_copy(update={"only_when": ["charging"]})
    monkeypatch.setattr(sensors, "battery", lambda: sensors.Battery(40, charging=False))
    declined = train(handler, name, state(model))
    assert declined.error.reason.startswith("not now: on battery (40 %)")
    assert Ledger(folder.ledger).rounds == 0
    monkeypatch.setattr(sensors, "battery", lambda: None)  # on mains
    assert not train(handler, name, state(model)).has_error()
    monkeypatch.setattr(sensors, "load", lambda: 3.0)
    assert "busy" in conditions.obstacle(["idle"])
    monkeypatch.setattr(sensors, "metered", lambda: None)
    assert "may be metered" in conditions.obstacle(["unmetered"])
    monkeypatch.setattr(sensors, "metered", lambda: False)
    assert conditions.obstacle(["unmetered", "charging"]) is None


def test_a_node_sits_rounds_out_and_goes_on_after_a_restart(folder, make_task, signer, model):
    def started():
        handler = Handler(folder)
        _, name = install(handler, make_task(), signer)
        handler.held.node_settings = handler.held.node_settings.model_copy(update={"rounds_apart": 2})
        return handler, name

    handler, name = started()
    assert not train(handler, name, state(model)).has_error()
    handler, name = started()

    def again(number):
        return train(handler, name, state(model), number=number)

    def train_other(weights):
        return train(handler, name, weights)

    declined = again(2)
    assert declined.error.code == CLIENT_DECLINED
    assert "not in this round: it took part in round 1" in declined.error.reason
    assert not again(1).has_error()  # the same, since its answer was lost
    other = {name: array + 1 for name, array in state(model).items()}
    assert "it took part in round 1" in train_other(other).error.reason
    assert not again(3).has_error()


def test_a_device_tells_what_its_owner_shares(tmp_path, monkeypatch):
    supply = tmp_path / "class/power_supply/BAT0"
    supply.mkdir(parents=True)
    for name, text in (("type", "Battery\n"), ("capacity", "83\n"), ("status", "Discharging\n")):
        (supply / name).write_text(text)
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("51234\n")
    assert sensors.battery(tmp_path) == sensors.Battery(83.0, charging=False)
    assert sensors.temperature(tmp_path) == pytest.approx(51.234)
    assert sensors.battery(tmp_path / "nothing") is None
    monkeypatch.setattr(sensors, "battery", lambda: sensors.Battery(83.0, charging=False))
    assert conditions.facts([]) == {}
    assert conditions.facts(["battery"]) == {"battery": 83.0, "charging": False}


def test_a_folder_is_one_nodes_and_damage_is_told(folder):
    with folder.only_one(), pytest.raises(JoinError, match="another process"), NodeFolder(folder.path).only_one():
        pass
    assert folder.key_file.exists() is False
    folder.key()
    assert folder.key_file.stat().st_mode & 0o077 == 0
    folder.key_file.write_text("damaged")
    with pytest.raises(JoinError, match="cannot be read"):
        folder.key()
    folder.node_settings_file.write_text('url = "x"\nname = "y"\nvolume = 3\n')
    with pytest.raises(JoinError, match="volume"):
        folder.node_settings()
    folder.membership_file.write_text("{")
    with pytest.raises(JoinError, match="join again"):
        folder.membership()


def test_a_message_that_kills_the_node_is_answered_with_an_error_at_last(folder, monkeypatch):
    """Killed over and over, as by a device's memory running out: the third start gives up on the message."""
    parcel = as_parcel(Message(wire.Message({"action": "prepare"}).record(), 7, "query", ttl=100))
    pushed = []

    class Link:
        node_id = 7

        def push(self, reply, seconds):
            pushed.append(reply)

    class Killed(BaseException):
        pass

    def die(self, message):
        raise Killed

    monkeypatch.setattr(Handler, "answer", die)
    for _ in range(2):
        node = resident.Resident(folder, Handler(folder))
        node._keep(parcel)
        with pytest.raises(Killed):
            node._work(Link(), node._kept())
    resident.Resident(folder, Handler(folder))._work(Link(), resident.Resident(folder, Handler(folder))._kept())
    assert "died twice" in pushed[0].error.reason
    assert list(folder.inbox.iterdir()) == []
    (folder.inbox / "half.message").write_bytes(b"half")
    assert resident.Resident(folder, Handler(folder))._kept() is None
    assert list(folder.inbox.iterdir()) == []


def _scaffold_task(make_task, **changed):
    method = MethodFacts(algorithm="scaffold", strategy="", arguments={})
    return make_task(planned=None, method=method, **changed)


def test_a_node_runs_a_methods_half_and_keeps_its_state(folder, make_task, signer, model, digits):
    """SCAFFOLD over the wire gives what it gives in simulation, round by round, over restarts of the node."""
    algorithm, trainer = Scaffold(), TorchTrainer(model)
    _, name = install(Handler(folder), _scaffold_task(make_task), signer)
    state_of = algorithm.begin(state(model), trainer.learnt)
    kept = {}
    for number in (1, 2, 3):
        asked = replace(algorithm.ask(state_of, [0], number)[0], settings=LocalSettings(batch_size=500), round=number)
        facts, content = wire.asking(asked)
        told = [wire.read(ask(Handler(folder), {**facts, "task": name}, content, "train")) for _ in range(2)]
        assert told[0].content == told[1].content  # asked again, since the answer was lost: the same bits
        update = wire.update_of(told[0])
        examples = load(Data(clients=6), 0).client(0)
        own = Client(len(examples), trainer.learnt, kept)
        task = LocalTask(examples, np.random.default_rng(0), np.random.default_rng(0))
        (wanted,) = run_halves(
            {0: algorithm.local(asked, own)}, {0: asked}, lambda w, task=task: {0: trainer.train(w[0], task)}
        ).values()
        for bundle in ("weights", "control"):  # whole batches: which random numbers shuffle them is the same
            assert all(np.allclose(update.bundles[bundle][k], v, atol=1e-6) for k, v in wanted.bundles[bundle].items())
        mean = Aggregate(update.bundles, {}, 1, 1)
        state_of = algorithm.merge(state_of, mean, number)
    assert len(list(folder.states.iterdir())) == 1


def test_a_method_that_is_the_owners_to_allow_is_not_imported(folder, make_task, signer):
    method = MethodFacts(algorithm="json:loads", strategy="", arguments={})
    told, _ = install(Handler(folder), make_task(planned=None, method=method), signer)
    assert "if you trust the coordinator with it, add modules = ['json'] to node.toml" in told["problem"]


def test_bundles_that_do_not_fit_are_refused(folder, make_task, signer, model):
    _, name = install(Handler(folder), _scaffold_task(make_task), signer)
    asked = Scaffold().ask(Scaffold().begin(state(model), frozenset(state(model))), [0], 1)[0]
    facts, content = wire.asking(replace(asked, round=1))
    for changed, message in (
        ({"bundles": ["weights"]}, "the bundle 'control' is not announced"),
        ({"bundles": "all"}, "the names of its bundles cannot be read"),
        ({"bundles": ["weights", "control"], "proximal-mu": -1.0}, "proximal_mu is -1.0"),
    ):
        assert message in ask(Handler(folder), {**facts, "task": name, **changed}, content, "train").error.reason


def test_a_node_tells_how_good_a_model_is_on_what_it_holds_back(folder, make_task, signer, model):
    held = Data(clients=6, client_test_fraction=0.25)
    _, name = install(Handler(folder), make_task(planned=None, data=held), signer)
    asked = Ask({"weights": state(model)}, settings=LocalSettings(), round=3)
    facts, content = wire.asking(asked)
    scored = wire.score_of(wire.read(ask(Handler(folder), {**facts, "task": name}, content, "evaluate")))
    whole = load(Data(clients=6), 0).client(0)
    assert scored.examples == len(whole) // 4
    reply = wire.read(ask(Handler(folder), {**facts, "task": name}, content, "train"))
    assert reply.facts["num-examples"] == len(whole) - scored.examples
    _, without = install(Handler(folder), make_task(planned=None), signer)
    declined = ask(Handler(folder), {**facts, "task": without}, content, "evaluate")
    assert "holds no examples back" in declined.error.reason
    folder.keep_node_settings(folder.node_settings().model_copy(update={"epsilon": 3.0}))
    protected = ask(Handler(folder), {**facts, "task": name}, content, "evaluate")
    assert "it does not tell how good a model is on it" in protected.error.reason
    folder.keep_node_settings(folder.node_settings().model_copy(update={"epsilon": 0.0}))
    _, planned = install(Handler(folder), make_task(data=held), signer)
    declined = ask(Handler(folder), {**facts, "task": planned}, content, "evaluate")
    assert "it does not tell how good a model is on it" in declined.error.reason


class Lazy(Algorithm):
    """Trains once, and sends that for ever."""

    keeps = True

    def local(self, ask, client):
        if "once" not in client.state:
            client.state["once"] = (yield Train(ask.bundles["weights"], ask.settings)).arrays
        return Update({"weights": client.state["once"]})

    def expects(self, ask):
        return {"weights": ask.bundles["weights"]}


def test_each_release_of_a_node_is_charged_whatever_its_method_does(folder, make_task, signer, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lazy", sys.modules[__name__])
    folder.keep_node_settings(folder.node_settings().model_copy(update={"modules": ["lazy"]}))
    planned = PLANNED.model_copy(update={"sample_rate": 1.0, "steps": 3})
    method = MethodFacts(algorithm="lazy:Lazy", strategy="", arguments={})
    _, name = install(Handler(folder), make_task(planned=planned, method=method), signer)
    noisy = LocalSettings(batch_size=500, update_clip=1.0, update_noise=4.0)
    sent = []
    for number in (1, 2, 3):
        facts, content = wire.asking(Ask({"weights": state(model)}, settings=noisy, round=number))
        sent.append(wire.read(ask(Handler(folder), {**facts, "task": name}, content, "train")).weights())
        assert Ledger(folder.ledger).rounds == number
    # Another round's noise is other noise: nothing can be taken off by subtraction.
    assert np.std(np.concatenate([(sent[1][k] - sent[2][k]).ravel() for k in sent[1]])) > 4.0
    facts, content = wire.asking(Ask({"weights": state(model)}, settings=noisy, round=4))
    assert "will spend epsilon" in ask(Handler(folder), {**facts, "task": name}, content, "train").error.reason
    bare, content = wire.asking(Ask({"weights": state(model)}, settings=LocalSettings(), round=5))
    refused = ask(Handler(folder), {**bare, "task": name}, content, "train")
    assert "asks for an update without noise of its own" in refused.error.reason


def test_what_a_node_keeps_is_of_one_run(make_task):
    one, other = (_scaffold_task(make_task, run_id=run_id) for run_id in ("a", "b"))
    assert one.state_name() != other.state_name()
    assert one.state_name() == _scaffold_task(make_task, run_id="a").state_name()


def test_a_control_of_another_network_is_refused_and_not_kept(folder, make_task, signer, model):
    _, name = install(Handler(folder), _scaffold_task(make_task), signer)
    asked = Scaffold().ask(Scaffold().begin(state(model), TorchTrainer(model).learnt), [0], 1)[0]
    short = {**asked.bundles, "control": dict(list(asked.bundles["control"].items())[:1])}
    facts, content = wire.asking(replace(asked, bundles=short))
    refused = ask(Handler(folder), {**facts, "task": name}, content, "train")
    assert "control is not of this network" in refused.error.reason
    assert not folder.states.exists()


def test_a_device_that_is_stopped_or_too_late_ends_between_two_batches(folder, make_task, signer, model, monkeypatch):
    stop, many = threading.Event(), LocalSettings(batch_size=1, epochs=10_000)
    handler = Handler(folder, stop)
    _, name = install(handler, make_task(planned=None), signer)
    facts = {"task": name, "round": 1, "local-settings": many.to_json(), "proximal-mu": 0.0}
    content = wire.Message(facts, to_bytes(state(model))).record()
    assert "ended before" in handler.answer(Message(content, 7, "train", ttl=0.5)).error.reason
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(StoppedError):
        handler.answer(Message(content, 7, "train"))
    # Its message stays for the next start, and the stop does not count as a death of this process.
    node, sent = resident.Resident(folder, handler, stop), []
    node._keep(as_parcel(Message(content, 7, "train")))
    link = SimpleNamespace(node_id=7, push=lambda reply, seconds: sent.append(reply))
    for _ in range(5):
        node._work(link, node._kept())
    assert sent == []
    assert [path.suffix for path in folder.inbox.iterdir()] == [".message"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/anna/x.npz: no such file", "a file: no such file"),
        ("'/data/a b', ~/x, ../y/z and C:\\me\\z", "'a file b', a file, a file and a file"),
        ("1/2 of https://host:80/x, and/or float32/int8", "1/2 of https://host:80/x, and/or float32/int8"),
    ],
)
def test_a_coordinator_learns_no_names_of_files(text, left):
    assert without_paths(text) == left


def test_a_coordinator_learns_nothing_of_what_failed_on_the_device(
    folder, make_task, signer, model, monkeypatch, caplog
):
    handler = Handler(folder)
    _, name = install(handler, make_task(), signer)
    for error, told in (
        (ZeroDivisionError("/home/anna of class Mine"), "the device failed at it; its own log says why"),
        (
            OSError(28, "No space left on device", "/home/anna/x"),
            "the device's disk or system: No space left on device",
        ),
        (RefusedError("/home/anna/x is not ours"), "a file is not ours"),
    ):
        monkeypatch.setattr(handler._rounds, "train", lambda message, error=error: (_ for _ in ()).throw(error))
        assert train(handler, name, state(model)).error.reason == told
        assert "anna" in caplog.text
        caplog.clear()
