"""Private set intersection: what both have comes out, and what hides an id can be checked by other X25519 code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from edgekit.errors import DataError, RefusedError
from edgekit.privacy.intersection import Side, matches

IDS = some.lists(some.text(min_size=1, max_size=6), unique=True, max_size=12)


@settings(max_examples=30, deadline=None)
@given(IDS, IDS)
def test_both_sides_learn_what_both_have(ours, theirs):
    one, other = Side(ours), Side(theirs)
    places = matches(other.hidden_again(one.hidden()), one.hidden_again(other.hidden()))
    rows = one.rows(np.array(list(places), np.int64))
    others = other.rows(np.array(list(places.values()), np.int64))
    assert {ours[row] for row in rows} == set(ours) & set(theirs)
    assert [ours[row] for row in rows] == [theirs[row] for row in others]


def _x25519(scalar, u):
    """RFC 7748, section 5, in whole numbers."""
    p, bits = 2**255 - 19, bytearray(scalar)
    bits[0] &= 248
    bits[31] = bits[31] & 127 | 64
    k, u = int.from_bytes(bits, "little"), int.from_bytes(u, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for place in reversed(range(255)):
        bit = k >> place & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, e = d * a, c * b, a * a - b * b
        x3, z3 = (da + cb) ** 2 % p, u * (da - cb) ** 2 % p
        x2, z2 = a * a * b * b % p, e * (a * a + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def test_an_id_is_hidden_by_x25519_of_its_hash():
    import hashlib

    side = Side(["somebody"])
    (found,) = side.hidden()
    hashed = hashlib.sha256(b"edgekit private set intersection 1\0somebody").digest()
    assert found.tobytes() == _x25519(side._secret.private_bytes_raw(), hashed)
    assert not np.array_equal(found, Side(["somebody"]).hidden()[0])  # another secret each time


def test_lies_are_refused():
    side = Side(["a", "b"])
    with pytest.raises(DataError, match="there twice"):
        Side(["a", "b", "a"])
    for points, complaint in (
        (np.zeros((1, 32), np.uint8), "hides nothing"),
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
