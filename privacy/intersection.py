"""Private set intersection: two sides learn which ids both have, and of the others nothing but how many there are.

By Diffie-Hellman (Meadows 1986; Huberman, Franklin and Hogg 1999, section 4), on the curve P-256, against sides that
follow the protocol and are curious: each id becomes a point by its hash, which each side multiplies by a secret of its
own, in either order. Equal points that carry both secrets are equal ids.

What one side cannot do is guess ids offline: a point carries the other's secret. What it can is ask for ids that it
does not have, so whoever answers should see how many it is asked for.
"""

import hashlib
import secrets
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from edgekit.errors import DataError, RefusedError

Points = NDArray[np.uint8]
"""(ids, 32): points by their x-coordinates; the sign of y is lost, on both sides alike."""
DOMAIN = b"edgekit private set intersection 1\0"
CURVE = ec.SECP256R1()


class Side:
    """One side of one intersection, with a secret for it alone.

    Args:
        ids: its own, each once.

    Raises:
        DataError: an id is there twice.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        if len(set(ids)) < len(ids):
            raise DataError("an id is there twice: which of the two rows is meant cannot be known")
        self._secret = ec.generate_private_key(CURVE)
        self._ids = ids
        self._order = list(range(len(ids)))
        secrets.SystemRandom().shuffle(self._order)  # so that places in a list tell nothing of a table's order

    def __len__(self) -> int:
        return len(self._ids)

    def hidden(self) -> Points:
        """Return this side's ids, hidden, in an order of its own."""
        return self._multiplied([_point(self._ids[row]) for row in self._order])

    def hidden_again(self, points: Points) -> Points:
        """Return the other side's hidden ids with this side's secret too, in their order.

        Raises:
            RefusedError: they are no such points, or one is there twice.
        """
        if points.dtype != np.uint8 or points.ndim != 2 or points.shape[1:] != (32,):
            raise RefusedError(f"hidden ids are 32 bytes each, not {points.dtype} of shape {points.shape}")
        found = [point.tobytes() for point in points]
        if len(set(found)) < len(found):
            raise RefusedError("a hidden id is there twice")
        try:
            return self._multiplied([_read(point) for point in found])
        except ValueError:
            raise RefusedError("a hidden id is no point of the curve") from None

    def rows(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which rows of this side's own lie at places of what `hidden` gave.

        Raises:
            RefusedError: there are no such places, or one twice.
        """
        order = np.array(self._order, np.int64)
        within = places.ndim == 1 and places.dtype == np.int64 and ((places >= 0) & (places < len(order))).all()
        if not within or len(np.unique(places)) < len(places):
            raise RefusedError(f"places among {len(order)} ids were expected, each once")
        return order[places]

    def _multiplied(self, points: Sequence[ec.EllipticCurvePublicKey]) -> Points:
        found = b"".join(self._secret.exchange(ec.ECDH(), point) for point in points)
        return np.frombuffer(found, np.uint8).reshape(-1, 32)


def in_common(ours: Side, again: Points, theirs: Points) -> dict[int, int]:
    """Return which of a side's rows the other side has too, and at which of its places.

    Args:
        ours: this side.
        again: what the other side made of this one's hidden ids.
        theirs: its own.

    Raises:
        RefusedError: these are no hidden ids, or not as many as there were.
    """
    hidden = ours.hidden_again(theirs)
    if again.shape != (len(ours), 32) or again.dtype != np.uint8:
        raise RefusedError(f"{len(ours)} hidden ids were expected back, these are of shape {again.shape}")
    places = {point.tobytes(): place for place, point in enumerate(hidden)}
    matched = [(place, places[point.tobytes()]) for place, point in enumerate(again) if point.tobytes() in places]
    if len({other for _, other in matched}) < len(matched):
        raise RefusedError("a hidden id came back twice")
    rows = ours.rows(np.array([place for place, _ in matched], np.int64))
    return dict(zip(rows.tolist(), (other for _, other in matched), strict=True))


def known_to_all(found: Sequence[dict[int, int]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the rows that all other sides have, ascending, and for each side its places in the same order."""
    rows = sorted(set(found[0]).intersection(*found[1:]))
    return np.array(rows, np.int64), [np.array([of[row] for row in rows], np.int64) for of in found]


def _point(identifier: str) -> ec.EllipticCurvePublicKey:
    """Return an id's point: the first of its hashes that is one (Boneh, Lynn and Shacham 2001, section 3.3).

    All hashes that are tried are x-coordinates; half of them have a point.
    """
    for attempt in range(256):
        try:
            return _read(hashlib.sha256(DOMAIN + bytes([attempt]) + identifier.encode()).digest())
        except ValueError:
            continue
    raise DataError("an id has no point on the curve")  # once in 2^256 ids


def _read(x: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, b"\x02" + x)
