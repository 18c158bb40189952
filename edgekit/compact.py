"""Updates as they travel: as codes, as places and values, or whole, whichever is less. Exact in each form."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgekit import sparse
from edgekit.arrays import Weights
from edgekit.asks import Ask, Bundles, Reply, Update, packed
from edgekit.coded import coded, decoded

SPARSE, CODED = "sparse", "coded"
"""Facts of a message: names of arrays of which only changes are there, and the grids of coded ones."""


def compacted(update: Update, sent: Bundles) -> tuple[Weights, dict[str, Any]]:
    """Return an update's arrays in one group by `bundle:name`, and what is to be told of their form.

    Args:
        update: the update.
        sent: what the client was sent.
    """
    codes, grids = coded(update.bundles, update.grids, sent)
    flat, _ = sparse.thinned(update.bundles, sent)
    for path in list(codes):  # of an array that is mostly as it was, places and values take less
        thin = [flat[path + end].nbytes for end in (sparse.AT, sparse.TO) if path + end in flat]
        if thin and sum(thin) < codes[path].nbytes:
            del codes[path], grids[path]
    others = {
        bundle: {name: array for name, array in arrays.items() if f"{bundle}:{name}" not in codes}
        for bundle, arrays in update.bundles.items()
    }
    flat, names = sparse.thinned(others, sent)
    told = {**({SPARSE: names} if names else {}), **({CODED: grids} if grids else {})}
    return {**flat, **codes}, told


def whole(flat: Weights, facts: Mapping[str, Any], like: Bundles, sent: Bundles) -> Weights:
    """Return what `compacted` was given, by `bundle:name`, of whoever sent it; arguments as of `sparse.whole`.

    Raises:
        TrainingError: it does not fit.
    """
    arrays = decoded(flat, facts.get(CODED, {}), like, sent)
    rest = {path: array for path, array in flat.items() if path not in arrays}
    if SPARSE in facts:
        rest = sparse.whole(rest, facts[SPARSE], like, sent)
    found = {**rest, **arrays}
    order = [path for path in packed(like) if path in found]
    return {path: found[path] for path in (*order, *(set(found) - set(order)))}


def bytes_of(replies: Iterable[Reply], asks: Mapping[int, Ask], *, compact: bool) -> int:
    """Return the bytes that replies' updates take on their way.

    Args:
        replies: with or without an update.
        asks: what each client was asked.
        compact: whether a transform makes them travel in another form than whole.
    """
    answered = [(reply.update, asks[reply.client].bundles) for reply in replies if reply.update is not None]
    if not compact:
        return sum(update.nbytes for update, _ in answered)
    return sum(sum(array.nbytes for array in compacted(update, sent)[0].values()) for update, sent in answered)
