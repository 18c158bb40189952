"""Random numbers: one explicit generator a purpose, all derived from the experiment's seed."""

import zlib

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the generator that belongs to a purpose, independent of every other purpose's.

    A purpose is a path such as `("batches", round, client)`. The same seed and purpose always give the same
    numbers, whatever else was drawn before: this is what lets a resumed run end with the same bits.

    Args:
        seed: the experiment's seed, any non-negative integer.
        purpose: words and non-negative integers.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, len(words), *words])))
