"""Clients' halves: run in lock step, bounded before they leave, and held to what privacy was planned for."""

from functools import partial

import numpy as np
import pytest

from edgekit.algorithms.base import Algorithm, Client
from edgekit.asks import Ask, Score, Scored, Train, Trained, Update, problem_with_update
from edgekit.clients import halves
from edgekit.clients.halves import check_kept, client_of, protected, run_halves
from edgekit.clients.states import ClientStates, OwnState
from edgekit.errors import EdgekitError, RunFolderError, TrainingError
from edgekit.local_settings import LocalSettings

ONE = {"w": np.ones(3, np.float32)}
PLAIN = LocalSettings()
PRIVATE = LocalSettings("dp-sgd", noise_multiplier=1.0)


def _ask(settings=PLAIN):
    return Ask({"weights": ONE}, settings=settings)


def _run(*made, settings=PLAIN):
    """Run halves whose requests are answered in turn; return the ends, and who asked together."""
    together = []

    def answer(waiting):
        together.append(sorted(waiting))
        return {client: Trained(request.weights, 7, 0.5) for client, request in waiting.items()}

    asks = {client: _ask(settings) for client in range(len(made))}
    return run_halves(dict(enumerate(made)), asks, answer), together


def _times(count, settings=PLAIN):
    trained = None
    for _ in range(count):
        trained = yield Train(ONE, settings)
    return Update({"weights": ONE}, 0 if trained is None else trained.examples)


def test_clients_advance_together_and_end_by_themselves():
    ended, together = _run(_times(2), _times(0), _times(3))
    assert together == [[0, 2], [0, 2], [2]]
    assert [ended[client].weight for client in range(3)] == [7, 0, 7]


def _raises():
    yield Train(ONE, LocalSettings())
    raise ValueError("the card was pulled out")


def _yields(what):
    yield what


def _forever():
    while True:
        yield Train(ONE, LocalSettings())


def test_a_half_that_fails_costs_its_own_client(monkeypatch):
    monkeypatch.setattr(halves, "MOST_REQUESTS", 5)
    ended, _ = _run(_raises(), _yields("sleep"), _forever(), _times(1))
    assert isinstance(ended[0], ValueError)
    assert "asks for 'sleep': it may yield Train, Score or Predict" in str(ended[1])
    assert "made 5 requests without an end" in str(ended[2])
    assert ended[3].weight == 7


def test_a_failure_of_the_trainer_is_its_clients():
    closed = []

    def careful():
        try:
            yield Train(ONE, LocalSettings())
        finally:
            closed.append(True)

    ended = run_halves({0: careful()}, {0: _ask()}, lambda waiting: {0: OSError("no disk")})
    assert isinstance(ended[0], OSError)
    assert closed == [True]


@pytest.mark.parametrize(
    ("half", "message"),
    [
        (_times(2, PRIVATE), "one training a round"),
        (_yields(Score(ONE)), "one training a round"),
        (_times(1), "settings that privacy was planned with"),
    ],
)
def test_a_protected_round_gives_one_training_with_the_plans_settings(half, message):
    ended, _ = _run(half, settings=PRIVATE)
    assert isinstance(ended[0], TrainingError)
    assert message in str(ended[0])


def test_a_protected_half_learns_nothing_of_its_size_or_loss():
    seen = []

    def half():
        seen.append((yield Train(ONE, PRIVATE)))
        return Update({"weights": ONE}, 9, {"train_loss": 1.0})

    ended, _ = _run(half(), settings=PRIVATE)
    assert (seen[0].examples, seen[0].loss) == (1, None)
    assert client_of(_ask(PRIVATE), 9, frozenset(), {}).examples == 1
    assert client_of(_ask(), 9, frozenset(), {}).examples == 9
    sent = protected(ended[0], _ask(PRIVATE), np.random.default_rng)
    assert (sent.weight, dict(sent.facts)) == (1.0, {})


def test_an_update_is_clipped_by_its_difference_and_noised_before_it_leaves():
    after = {"w": np.array([31.0, 41.0, 1.0], np.float32)}
    bounded = protected(Update({"weights": after}), _ask(LocalSettings(update_clip=5.0)), np.random.default_rng)
    assert np.allclose(bounded.bundles["weights"]["w"], [4.0, 5.0, 1.0])
    noisy = LocalSettings(update_clip=5.0, update_noise=0.5)
    many = [protected(Update({"weights": after}), _ask(noisy), partial(np.random.default_rng, n)) for n in range(2000)]
    drawn = np.stack([one.bundles["weights"]["w"] for one in many])
    assert np.allclose(drawn.mean(0), [4.0, 5.0, 1.0], atol=0.05)
    assert np.allclose(drawn.std(0), 0.5, rtol=0.1)


def test_several_bundles_have_a_bound_each_and_noise_of_their_joint_norm():
    settings = LocalSettings(update_clip=5.0, update_noise=10.0, update_bounds={"weights": 5.0, "control": 0.1})
    update = Update({"weights": {"w": 100 * ONE["w"]}, "control": {"c": np.full(4, 9.0, np.float32)}})
    many = [protected(update, _ask(settings), partial(np.random.default_rng, n)).bundles for n in range(3000)]
    weights = np.stack([one["weights"]["w"] for one in many]) - 1
    control = np.stack([one["control"]["c"] for one in many])
    assert np.linalg.norm(weights.mean(0)) == pytest.approx(5.0, rel=0.15)
    assert np.linalg.norm(control.mean(0)) == pytest.approx(0.1, rel=0.2)
    # update_noise is that of one bundle: 2 z C. In units of the bounds the joint sensitivity is larger by sqrt(2).
    assert weights.std() == pytest.approx(10.0 * 2**0.5, rel=0.05)
    assert control.std() == pytest.approx(10.0 * 0.1 / 5.0 * 2**0.5, rel=0.05)
    for bundles in ({"other": ONE}, {"weights": ONE}, {**update.bundles, "more": ONE}):
        with pytest.raises(TrainingError, match="of which the round bounds weights, control"):
            protected(Update(bundles), _ask(settings), np.random.default_rng)


def test_without_bounds_of_their_own_one_bundle_alone_is_noised():
    """Each further one would be another release of the same examples, which nobody has counted."""
    settings = LocalSettings(update_clip=5.0, update_noise=10.0)
    with pytest.raises(TrainingError, match="sends the bundles weights, copy, of which the round bounds weights"):
        protected(Update({"weights": ONE, "copy": ONE}), _ask(settings), np.random.default_rng)


def test_whole_numbers_cannot_be_noised():
    settings = LocalSettings(update_clip=5.0, update_noise=10.0)
    with pytest.raises(TrainingError, match="whole numbers, which noise cannot protect"):
        protected(Update({"count": {"n": np.ones(3, np.int64)}}), _ask(settings), np.random.default_rng)


def test_what_is_no_update_is_named():
    with pytest.raises(TrainingError, match="gave NoneType, not an Update"):
        protected(None, _ask(), np.random.default_rng)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (Update({"weights": ONE}, None), "cannot be read"),
        (Update(None), "cannot be read"),
        (Update({"weights": {"w": [1.0]}}), "values that are no arrays"),
        (Update({"weights": ONE}, facts=None), "cannot be read"),
    ],
)
def test_an_update_of_the_wrong_kind_is_named(update, message):
    with pytest.raises(TrainingError, match=message):
        protected(update, _ask(), np.random.default_rng)


def test_numpys_numbers_become_pythons():
    sent = protected(Update({"weights": ONE}, np.float32(3), {"a": np.float32(0.5)}), _ask(), np.random.default_rng)
    assert (type(sent.weight), sent.facts) == (float, {"a": 0.5})
    assert type(sent.facts["a"]) is float


def test_a_half_that_never_yields_is_named():
    ended = run_halves({0: Update({"weights": ONE})}, {0: _ask()}, lambda waiting: {})
    assert "client half is Update, not a generator" in str(ended[0])


@pytest.mark.parametrize(
    "facts",
    [{"a": 10**400}, {"a": float("nan")}, {"a": 1e300}, {"num-examples": 3}, {"a": ["x"]}, {"a": {}}, {"a": "b" * 999}],
)
def test_facts_that_nobody_could_count_cost_the_update(facts):
    assert "which is no fact that can be taken" in problem_with_update(
        Update({"weights": ONE}, 1.0, facts), {"weights": ONE}
    )
    assert problem_with_update(Update({"weights": ONE}, 1.0, {"a": 1, "b": "c", "d": [1.0]}), {"weights": ONE}) == ""


def test_neither_update_nor_state_is_kept_where_one_does_not_fit():
    fits = Update({"weights": ONE})
    check_kept(fits, {"control": ONE}, {"weights": ONE})
    broken = {"w": np.full(3, np.inf, np.float32)}
    for update, state in ((Update({"weights": broken}), {}), (fits, {"control": broken}), (fits, {"rounds": {"n": 3}})):
        with pytest.raises(TrainingError, match="not finite"):
            check_kept(update, state, {"weights": ONE})


def test_a_method_may_measure_on_what_a_client_holds_back():
    half = Algorithm().evaluate(_ask(), Client(5, frozenset()))
    ended = run_halves({0: half}, {0: _ask()}, lambda waiting: {0: Scored(0.1, 0.9, 5)})
    assert ended[0] == Scored(0.1, 0.9, 5)


def test_states_of_rounds_to_come_are_not_read(tmp_path):
    states = ClientStates(tmp_path)
    assert states.load(3, 1) == {}
    for number in range(1, 7):
        states.save(3, number, {"control": {"w": np.full(2, number, np.float32)}})
    assert states.load(3, 6)["control"]["w"].tolist() == [5, 5]
    assert states.load(4, 6) == {}
    states.save(3, 5, {"control": {"w": np.zeros(2, np.float32)}})  # a run that went on from an older checkpoint
    assert states.load(3, 9)["control"]["w"].tolist() == [0, 0]
    assert len(list(tmp_path.glob("*/*"))) <= 3


def test_a_state_of_another_client_or_a_damaged_one_is_named(tmp_path):
    states = ClientStates(tmp_path)
    states.save(1, 1, {"own": ONE})
    (tmp_path / "0000001").rename(tmp_path / "0000002")
    with pytest.raises(RunFolderError, match="is not what client 2 keeps of that round"):
        states.load(2, 2)
    (file,) = tmp_path.glob("*/*")
    file.write_bytes(b"damaged")
    with pytest.raises(RunFolderError, match="what client 2 keeps cannot be read"):
        states.load(2, 2)


def test_a_device_that_is_asked_again_begins_where_it_began_before(tmp_path):
    own = OwnState(tmp_path / "state.safetensors")
    assert own.before("first") == {}
    own.keep("first", {}, {"control": ONE})
    assert own.before("first") == {}
    assert own.before("second")["control"]["w"].tolist() == [1, 1, 1]
    own.keep("second", own.before("second"), {"control": {"w": 2 * ONE["w"]}})
    assert own.before("second")["control"]["w"].tolist() == [1, 1, 1]
    assert own.before("third")["control"]["w"].tolist() == [2, 2, 2]
    (tmp_path / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(EdgekitError, match="not a readable safetensors file"):
        own.before("third")
