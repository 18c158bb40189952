"""Transforms that put updates on a grid, and how their codes travel."""

import json

import numpy as np
import pytest

from edgekit import compact, wire
from edgekit.arrays import to_bytes
from edgekit.asks import WEIGHTS, Ask, Client, Reply, Update
from edgekit.coded import coded, decoded
from edgekit.errors import ExperimentError, RefusedError, TrainingError
from edgekit.registry import TRANSFORMS

RNG = np.random.default_rng(0)
SENT = {"a": RNG.normal(size=(30, 21)).astype(np.float32), "b": np.zeros(51, np.float32)}
SENT["same"] = np.ones(9, np.float32)
ASK = Ask({WEIGHTS: SENT})


def _update(scale=0.1, seed=1):
    rng = np.random.default_rng(seed)
    weights = {name: (a + scale * rng.normal(size=a.shape)).astype(np.float32) for name, a in SENT.items()}
    weights["same"] = SENT["same"].copy()
    return Update({WEIGHTS: weights, "control": {"a": rng.normal(size=(30, 21)).astype(np.float32)}}, 7.0)


def _made(name, **arguments):
    kind = TRANSFORMS.load(name)
    return kind(kind.Settings(**arguments))


def _travelled(update, ask=ASK):
    """What comes out of a message, and the bytes of its arrays."""
    facts, content = wire.telling(update, ask.bundles)
    message = wire.Message(facts, content)
    like = {bundle: {n: np.zeros_like(a) for n, a in arrays.items()} for bundle, arrays in update.bundles.items()}
    found = wire.update_of(message, like, ask.bundles)
    reply = Reply(0, update)
    return found, compact.bytes_of([reply], {0: ask}, compact=True)


@pytest.mark.parametrize(("name", "bits"), [("quantise", 8), ("quantise", 4), ("sign", 1)])
def test_codes_travel_and_the_same_bits_come_out(name, bits):
    one = _made(name, **({"bits": bits} if bits > 1 else {}))
    left = one.on_update(_update(), ASK, Client(10, frozenset()), np.random.default_rng(2))
    assert left.weight == 7.0
    found, size = _travelled(left)
    for bundle, arrays in left.bundles.items():
        assert all(found.bundles[bundle][n].tobytes() == a.tobytes() for n, a in arrays.items())
    expected = sum(-(-a.size * bits // 8) for arrays in left.bundles.values() for n, a in arrays.items() if n != "same")
    assert size == expected  # and nothing of what stayed as it was
    assert found.grids == {}


def test_an_array_that_is_on_no_grid_any_more_travels_whole():
    left = _made("quantise").on_update(_update(), ASK, Client(10, frozenset()), np.random.default_rng(2))
    weights = left.bundles[WEIGHTS]
    clipped = {name: (SENT[name] + 0.3 * (a - SENT[name])).astype(np.float32) for name, a in weights.items()}
    other = Update({**left.bundles, WEIGHTS: clipped}, 7.0, {}, left.grids)
    found, size = _travelled(other)
    assert all(found.bundles[WEIGHTS][n].tobytes() == a.tobytes() for n, a in clipped.items())
    assert size > 4 * (SENT["a"].size + SENT["b"].size)


def test_what_is_less_travels():
    """Of a change in one place of many, the place and the value; and numbers that no reader would take go whole."""
    few = {name: a.copy() for name, a in SENT.items()}
    few["a"][3, 4] += 1.0
    left = _made("quantise").on_update(Update({WEIGHTS: few}, 1.0), ASK, Client(10, frozenset()), RNG)
    assert "weights:a" in left.grids
    found, size = _travelled(left)
    assert size == 6
    assert found.bundles[WEIGHTS]["a"].tobytes() == left.bundles[WEIGHTS]["a"].tobytes()
    for strange in (5e8, 3e38, np.inf, np.nan):
        wild = {**SENT, "b": np.where(np.arange(51) == 3, np.float32(strange), SENT["b"] - 1)}
        for name in ("quantise", "sign"):
            with np.errstate(all="ignore"):
                made = _made(name).on_update(Update({WEIGHTS: wild}, 1.0), ASK, Client(10, frozenset()), RNG)
            flat, grids = coded(made.bundles, made.grids, {WEIGHTS: SENT})
            assert "weights:b" not in {**flat, **grids}


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_unbiased(bits):
    one, update, client = _made("quantise", bits=bits), _update(), Client(10, frozenset())
    sums = {name: np.zeros(a.shape) for name, a in SENT.items()}
    draws = 3000
    rng = np.random.default_rng(3)
    for _ in range(draws):
        for name, a in one.on_update(update, ASK, client, rng).bundles[WEIGHTS].items():
            sums[name] += a.astype(np.float64) - SENT[name]
    for name, a in update.bundles[WEIGHTS].items():
        change = a.astype(np.float64) - SENT[name]
        step = np.abs(change).max() / (2 ** (bits - 1) - 1)
        error = np.abs(sums[name] / draws - change)
        assert error.max() <= 5 * 0.5 * step / draws**0.5 + 1e-6  # a step's deviation is half of it at most
        assert np.abs(one.on_update(update, ASK, client, rng).bundles[WEIGHTS][name] - a).max() <= step + 1e-6


def test_signs_with_error_feedback():
    """Karimireddy et al. 2019, algorithm 1, for each array; what was sent and what is kept is what was to be sent."""
    one, client = _made("sign"), Client(10, frozenset())
    rest = {name: np.zeros(a.shape) for name, a in SENT.items()}
    for number in range(4):
        update = _update(seed=number)
        left = one.on_update(update, ASK, client, RNG)
        for name, a in update.bundles[WEIGHTS].items():
            due = a.astype(np.float64) - SENT[name] + rest[name]
            sent = np.abs(due).mean() * np.where(due < 0, -1, 1)
            np.testing.assert_allclose(left.bundles[WEIGHTS][name] - SENT[name], sent, atol=1e-6)
            rest[name] = due - sent
            np.testing.assert_allclose(client.state["rest"][f"weights:{name}"], rest[name], atol=1e-5)
    plain, none = _made("sign", feedback=False), Client(10, frozenset())
    plain.on_update(_update(), ASK, none, RNG)
    assert none.state == {}
    assert not plain.keeps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": []}, "cannot be read"),
        ({"grids": {"weights:z": [0.1, 8]}}, "cannot be read"),
        ({"grids": {"weights:b": [0.1, 2]}}, "grid of the coded array"),
        ({"grids": {"weights:b": [0.1, True]}}, "grid of the coded array"),
        ({"grids": {"weights:b": [float("nan"), 8]}}, "grid of the coded array"),
        ({"grids": {"weights:b": [-1.0, 8]}}, "grid of the coded array"),
        ({"grids": {"weights:b": [1e300, 8]}}, "grid of the coded array"),
        ({"grids": {"weights:b": ["0.1", 8]}}, "grid of the coded array"),
        ({"grids": {"weights:b": [0.1, 4]}}, "does not fit"),
        ({"codes": np.zeros(50, np.uint8)}, "does not fit"),
        ({"codes": np.zeros(51, np.int8)}, "does not fit"),
        ({"codes": np.zeros((3, 17), np.uint8)}, "does not fit"),
        ({"codes": None}, "does not fit"),
    ],
)
def test_codes_that_do_not_fit_are_refused(change, message):
    codes = change.get("codes", np.zeros(51, np.uint8))
    flat = {"weights:b": codes} if codes is not None else {}
    grids = change.get("grids", {"weights:b": [0.1, 8]})
    with pytest.raises(TrainingError, match=message):
        decoded(flat, grids, {WEIGHTS: SENT}, {WEIGHTS: SENT})
    facts = {"num-examples": 3, "bundles": [WEIGHTS], "coded": grids}
    with pytest.raises(RefusedError):
        wire.update_of(wire.Message(facts, to_bytes(flat)), {WEIGHTS: SENT}, {WEIGHTS: SENT})


def test_codes_of_odd_lengths_come_back():
    for bits, most in ((1, 1), (4, 7), (8, 127)):
        for size in (1, 2, 7, 8, 9):
            multiples = np.random.default_rng(size).integers(-most, most + 1, size)
            multiples = np.where(multiples < 0, -1, 1) if bits == 1 else multiples
            sent = {WEIGHTS: {"w": np.full(size, 0.25, np.float32)}}
            update = {WEIGHTS: {"w": (np.float32(0.25) + np.float32(0.5) * multiples.astype(np.float32))}}
            flat, grids = coded(update, {"weights:w": (0.5, bits)}, sent)
            assert flat["weights:w"].nbytes == -(-size * bits // 8)
            found = decoded(flat, grids, sent, sent)["weights:w"]
            assert found.tobytes() == update[WEIGHTS]["w"].tobytes()


def test_bytes_are_counted_as_they_travel(coordinate, make_experiment):
    sizes = {}
    for name, chosen in {"whole": "", "quantise": '{name="quantise", arguments={bits=8}}', "sign": '"sign"'}.items():
        experiment = make_experiment("model.name=mlp", "federation.rounds=3", f"federation.transforms=[{chosen}]")
        made = coordinate(experiment, name)
        made.run()
        sizes[name] = [json.loads(line)["bytes_up"] for line in made.run_folder.metrics.read_text().splitlines()]
    assert all(abs(8 / 32 - one / whole) < 0.01 for one, whole in zip(sizes["quantise"], sizes["whole"], strict=True))
    assert all(abs(1 / 32 - one / whole) < 0.01 for one, whole in zip(sizes["sign"], sizes["whole"], strict=True))
    small = make_experiment("privacy.unit=client", "privacy.noise=client", 'federation.transforms=["quantise"]')
    with pytest.raises(ExperimentError, match="Quantise makes updates small, which noise by the client undoes"):
        coordinate(small, "noise")
