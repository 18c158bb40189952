"""Private set intersection: what both have comes out, and what hides an id can be checked by hand on the curve."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from edgekit.errors import DataError, RefusedError
from edgekit.privacy.intersection import Side, in_common

IDS = some.lists(some.text(min_size=1, max_size=6), unique=True, max_size=12)
# P-256 (FIPS 186-4, D.1.2.3).
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


@settings(max_examples=30, deadline=None)
@given(IDS, IDS)
def test_a_side_learns_what_both_have(ours, theirs):
    one, other = Side(ours), Side(theirs)
    found = in_common(one, other.hidden_again(one.hidden()), other.hidden())
    assert {ours[row] for row in found} == set(ours) & set(theirs)
    rows = other.rows(np.array(list(found.values()), np.int64))
    assert [ours[row] for row in found] == [theirs[row] for row in rows]


def _y_squared(x):
    return (x**3 - 3 * x + B) % P


def _multiple(k, x):
    """The x-coordinate of k times the point at x, in whole numbers (double and add)."""
    point, found = (x, pow(_y_squared(x), (P + 1) // 4, P)), None

    def add(one, other):
        if one is None:
            return other
        (x1, y1), (x2, y2) = one, other
        slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, P) if one == other else (y2 - y1) * pow(x2 - x1, -1, P)
        x3 = (slope * slope - x1 - x2) % P
        return x3, (slope * (x1 - x3) - y1) % P

    while k:
        if k & 1:
            found = add(found, point)
        point, k = add(point, point), k >> 1
    return found[0]


def test_an_id_is_hidden_by_a_secret_multiple_of_its_hashs_point():
    side = Side(["somebody"])
    (found,) = side.hidden()
    hashes = (
        int.from_bytes(hashlib.sha256(b"edgekit private set intersection 1\0" + bytes([n]) + b"somebody").digest())
        for n in range(256)
    )
    x = next(x for x in hashes if x < P and pow(_y_squared(x), (P - 1) // 2, P) == 1)
    secret = side._secret.private_numbers().private_value
    assert int.from_bytes(found.tobytes()) == _multiple(secret, x)
    assert not np.array_equal(found, Side(["somebody"]).hidden()[0])  # another secret each time


def test_lies_are_refused():
    side = Side(["a", "b"])
    with pytest.raises(DataError, match="there twice"):
        Side(["a", "b", "a"])
    nowhere = next(x for x in range(1, 99) if pow(_y_squared(x), (P - 1) // 2, P) != 1)
    good = Side(["c", "d"]).hidden()
    for points, complaint in (
        (np.frombuffer(nowhere.to_bytes(32), np.uint8).reshape(1, 32), "no point of the curve"),
        (np.full((1, 32), 255, np.uint8), "no point of the curve"),
        (good[[0, 0]], "there twice"),
        (np.zeros((2, 31), np.uint8), "32 bytes each"),
        (np.zeros(32, np.uint8), "32 bytes each"),
        (np.zeros((2, 32), np.float32), "32 bytes each"),
    ):
        with pytest.raises(RefusedError, match=complaint):
            side.hidden_again(points)
    for places in ([2], [-1], [0, 0]):
        with pytest.raises(RefusedError, match="places among 2 ids"):
            side.rows(np.array(places, np.int64))
    with pytest.raises(RefusedError, match="places among 2 ids"):
        side.rows(np.array([0.0]))
    assert side.hidden_again(np.zeros((0, 32), np.uint8)).shape == (0, 32)


def test_whoever_has_one_id_cannot_claim_to_have_all():
    ours, liar = Side(["a", "b", "c"]), Side(["a"])
    again = liar.hidden_again(ours.hidden())
    true = next(p for p in again if p.tobytes() == ours.hidden_again(liar.hidden())[0].tobytes())
    with pytest.raises(RefusedError, match="came back twice"):
        in_common(ours, np.repeat(true[None], 3, 0), liar.hidden())
    with pytest.raises(RefusedError, match="3 hidden ids were expected back"):
        in_common(ours, again[:2], liar.hidden())
