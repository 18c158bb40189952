"""Transforms that send few numbers, and how these travel."""

import numpy as np
import pytest

from edgekit import sparse, wire
from edgekit.asks import WEIGHTS, Ask, Client, Update, packed, unpacked
from edgekit.errors import ExperimentError, RefusedError, TrainingError
from edgekit.registry import TRANSFORMS

RNG = np.random.default_rng(0)
SENT = {"a": RNG.normal(size=(30, 20)).astype(np.float32), "b": np.zeros(50, np.float32)}
SENT["n"] = np.full((), 3.0, np.float32)
ASK = Ask({WEIGHTS: SENT})


def _update(scale=1.0, seed=1):
    rng = np.random.default_rng(seed)
    weights = {name: (a + scale * rng.normal(size=a.shape)).astype(np.float32) for name, a in SENT.items()}
    return Update({WEIGHTS: weights, "control": {"a": rng.normal(size=(30, 20)).astype(np.float32)}}, 7.0)


def _vector(update, bundle=WEIGHTS):
    sent = SENT if bundle == WEIGHTS else {}
    return np.concatenate([np.ravel(a - sent.get(n, 0)) for n, a in update.bundles[bundle].items()])


def _size(bundles, sent):
    return sum(array.nbytes for array in sparse.thinned(bundles, sent)[0].values())


def _made(name, **arguments):
    kind = TRANSFORMS.load(name)
    return kind(kind.Settings(**arguments))


def test_the_largest_changes_of_each_bundle_are_sent_and_the_rest_comes_later():
    """Stich et al. 2018, algorithm 1: what was sent in all and what is kept is what was to be sent."""
    one, client = _made("top-k", share=0.05), Client(10, frozenset())
    wanted, sent = np.zeros(651), np.zeros(651)
    for number in range(5):
        update = _update(seed=number)
        rest = client.state.get("rest-weights", {"rest": np.zeros(651)})["rest"]
        due = _vector(update) + rest
        left = one.on_update(update, ASK, client, RNG)
        wanted += _vector(update)
        sent += _vector(left)
        largest = np.sort(np.argsort(np.abs(due))[-int(0.05 * 651) :])
        assert np.array_equal(np.flatnonzero(_vector(left)), largest)
        np.testing.assert_allclose(_vector(left)[largest], due[largest], atol=1e-6)
        assert np.count_nonzero(left.bundles["control"]["a"]) == int(0.05 * 600)
        assert left.weight == 7.0
    np.testing.assert_allclose(sent + client.state["rest-weights"]["rest"], wanted, atol=1e-4)
    plain, none = _made("top-k", share=0.05, feedback=False), Client(10, frozenset())
    plain.on_update(_update(), ASK, none, RNG)
    assert not none.state
    assert not plain.keeps


def test_numbers_drawn_by_lot_have_the_right_mean():
    one, update = _made("random-k", share=0.2), _update()
    rngs, nobody = map(np.random.default_rng, range(4000)), Client(1, frozenset())
    draws = np.stack([_vector(one.on_update(update, ASK, nobody, rng)) for rng in rngs])
    assert (np.count_nonzero(draws, axis=1) == int(0.2 * 651)).all()
    spread = np.abs(_vector(update)) * np.sqrt((1 / 0.2 - 1) / 4000)
    assert (np.abs(draws.mean(0) - _vector(update)) < 5 * spread + 1e-6).all()


def test_few_numbers_travel_as_places_and_values_and_come_back_to_the_bit():
    update = _made("top-k", share=0.01).on_update(_update(), ASK, Client(1, frozenset()), RNG)
    facts, content = wire.telling(update, ASK.bundles)
    dense = wire.telling(update)[1]
    assert len(content) < len(dense) / 3
    like = {WEIGHTS: SENT, "control": {"a": SENT["a"]}}
    found = wire.update_of(wire.Message(facts, content), like, ASK.bundles)
    assert found.weight == 7
    for path, array in packed(update.bundles).items():
        assert packed(found.bundles)[path].tobytes() == array.tobytes()
    numbers = int(0.01 * 651) + int(0.01 * 600)
    assert _size(update.bundles, ASK.bundles) == 6 * numbers
    whole = _update()
    assert wire.telling(whole, ASK.bundles) == wire.telling(whole)
    assert _size(whole.bundles, ASK.bundles) == whole.nbytes
    nothing = Update({WEIGHTS: SENT})
    assert _size(nothing.bundles, ASK.bundles) == 0
    facts, content = wire.telling(nothing, ASK.bundles)
    assert packed(wire.update_of(wire.Message(facts, content), {WEIGHTS: SENT}, ASK.bundles).bundles).keys() == {
        "weights:a", "weights:b", "weights:n"
    }  # fmt: skip


def _bad(**changed):
    at, to = np.array([1, 5], np.uint16), np.array([1.0, 2.0], np.float32)
    flat = {"weights:a#at": at, "weights:a#to": to, "weights:b": SENT["b"], "weights:n": SENT["n"]}
    return {name: array for name, array in {**flat, **changed}.items() if array is not None}


@pytest.mark.parametrize(
    ("flat", "names"),
    [
        (_bad(**{"weights:a#at": np.array([5, 1], np.uint16)}), ["weights:a"]),
        (_bad(**{"weights:a#at": np.array([1, 1], np.uint16)}), ["weights:a"]),
        (_bad(**{"weights:a#at": np.array([1, 600], np.uint16)}), ["weights:a"]),
        (_bad(**{"weights:a#at": np.array([1, 5], np.int64)}), ["weights:a"]),
        (_bad(**{"weights:a#at": np.array([1], np.uint16)}), ["weights:a"]),
        (_bad(**{"weights:a#to": np.array([1.0, 2.0])}), ["weights:a"]),
        (_bad(**{"weights:a#to": np.ones((2, 1), np.float32)}), ["weights:a"]),
        (_bad(**{"weights:a#to": None}), ["weights:a"]),
        (_bad(**{"weights:a": SENT["a"]}), ["weights:a"]),
        (_bad(), ["weights:a", "weights:c"]),
        (_bad(), ["weights:a", "weights:a"]),
        (_bad(), []),
        (_bad(), "weights:a"),
        (_bad(), [3]),
    ],
)
def test_places_of_a_stranger_are_checked(flat, names):
    with pytest.raises(TrainingError, match="sparse"):
        sparse.whole(flat, names, {WEIGHTS: SENT}, {WEIGHTS: SENT})
    content = wire.arrays.to_bytes(flat)
    facts = {"num-examples": 3, "bundles": [WEIGHTS], "sparse": names}
    with pytest.raises(RefusedError):
        wire.update_of(wire.Message(facts, content), {WEIGHTS: SENT}, {WEIGHTS: SENT})


def test_large_arrays_have_longer_places():
    large = {"w": np.zeros(70_000, np.float32)}
    moved = {"w": large["w"].copy()}
    moved["w"][[3, 69_999]] = 1.0
    flat, names = sparse.thinned({WEIGHTS: moved}, {WEIGHTS: large})
    assert flat["weights:w#at"].dtype == np.uint32
    assert np.array_equal(sparse.whole(flat, names, {WEIGHTS: large}, {WEIGHTS: large})["weights:w"], moved["w"])
    assert _size({WEIGHTS: moved}, {WEIGHTS: large}) == 16


def test_places_that_fit_are_taken():
    found = unpacked(sparse.whole(_bad(), ["weights:a"], {WEIGHTS: SENT}, {WEIGHTS: SENT}))[WEIGHTS]
    assert found["a"].reshape(-1)[[1, 5]].tolist() == [1.0, 2.0]
    assert np.array_equal(np.delete(found["a"].reshape(-1), [1, 5]), np.delete(SENT["a"].reshape(-1), [1, 5]))


def test_bytes_are_counted_as_they_travel_and_noise_by_clients_is_refused(make_experiment, tmp_path):
    from edgekit.data import load
    from edgekit.models import build
    from edgekit.runfolder import RunFolder, read_lines
    from edgekit.server.loop.sync import Coordinator

    def coordinate(name, *keys):
        experiment = make_experiment("model.name=mlp", "data.clients=6", "federation.rounds=3", *keys)
        dataset = load(experiment.data, 0)
        model = build(experiment.model, dataset.shape, 10, 0)
        return Coordinator(experiment, dataset, model, RunFolder.create(tmp_path / name))

    few = 'federation.transforms=[{name="top-k", arguments={share=0.02}}]'
    made = coordinate("few", few)
    made.run()
    coordinate("whole").run()
    sizes = [[line["bytes_up"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("few", "whole")]
    assert all(few <= 0.04 * whole for few, whole in zip(*sizes, strict=True))
    coordinate("server", few, "privacy.unit=client")
    with pytest.raises(ExperimentError, match="TopK makes updates small, which noise by the client undoes"):
        coordinate("client", few, "privacy.unit=client", "privacy.noise=client")
