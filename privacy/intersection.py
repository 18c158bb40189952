"""Private set intersection: two sides learn which ids both have, and of the others nothing but how many there are.

By Diffie-Hellman (Meadows 1986; Huberman, Franklin and Hogg 1999, section 4), on Curve25519 (Bernstein 2006; RFC 7748),
against sides that follow the protocol and are curious: each id becomes a point by its hash, which each side multiplies
by a secret of its own, in either order. Equal points that carry both secrets are equal ids.

What one side cannot do is guess ids offline: a point carries the other's secret. What it can is ask for ids that it
does not have, so whoever answers should see how many it is asked for.
"""

import hashlib
import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, RefusedError

Points = NDArray[np.uint8]
"""(ids, 32): points of Curve25519 as their u-coordinates."""
DOMAIN = b"edgekit private set intersection 1\0"


class Side:
    """One side of one intersection, with a secret for it alone.

    Args:
        ids: its own, each once.

    Raises:
        DataError: an id is there twice.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        if len(set(ids)) < len(ids):
            raise DataError("an id is there twice: which of the two rows is meant cannot be known")
        self._secret = X25519PrivateKey.generate()
        self._ids = ids
        self._order = list(range(len(ids)))
        secrets.SystemRandom().shuffle(self._order)  # so that places in a list tell nothing of a table's order

    def __len__(self) -> int:
        return len(self._ids)

    def hidden(self) -> Points:
        """Return this side's ids, hidden, in an order of its own."""
        hashed = [hashlib.sha256(DOMAIN + self._ids[row].encode()).digest() for row in self._order]
        return self._multiplied(hashed)

    def hidden_again(self, points: Points) -> Points:
        """Return the other side's hidden ids with this side's secret too, in their order.

        Raises:
            RefusedError: they are no such points.
        """
        if points.dtype != np.uint8 or points.ndim != 2 or points.shape[1:] != (32,):
            raise RefusedError(f"hidden ids are 32 bytes each, not {points.dtype} of shape {points.shape}")
        return self._multiplied([point.tobytes() for point in points])

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

    def _multiplied(self, points: Sequence[bytes]) -> Points:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        try:
            found = b"".join(self._secret.exchange(X25519PublicKey.from_public_bytes(point)) for point in points)
        except ValueError:  # of the few points that no secret hides
            raise RefusedError("a hidden id is a point that hides nothing") from None
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
    places = matches(again, hidden)
    rows = ours.rows(np.array(list(places), np.int64))
    return dict(zip(rows.tolist(), places.values(), strict=True))


def known_to_all(found: Sequence[dict[int, int]]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the rows that all other sides have, ascending, and for each side its places in the same order."""
    rows = sorted(set(found[0]).intersection(*found[1:]))
    return np.array(rows, np.int64), [np.array([of[row] for row in rows], np.int64) for of in found]


def matches(ours: Points, theirs: Points) -> dict[int, int]:
    """Return the places of ids that both sides have: of `ours`, and of `theirs`; both carry both secrets."""
    places = {point.tobytes(): place for place, point in enumerate(theirs)}
    found = {place: places.get(point.tobytes()) for place, point in enumerate(ours)}
    return {place: other for place, other in found.items() if other is not None}
