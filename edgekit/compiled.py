"""Code that numba compiles, kept on the disk for the next process."""

import contextlib
import hashlib
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def ready(dispatcher: Any) -> bool:
    """Whether a function's compiled code is on the disk, or in this process already."""
    try:
        return bool(dispatcher.signatures) or bool(dispatcher._cache._cache_file._load_index())
    except (AttributeError, OSError):  # a disk that cannot have it
        return False


def kept(dispatcher: Any, sources: Sequence[ModuleType] = ()) -> Any:
    """Keep a function's compiled code; a disk that cannot have it costs time and nothing else.

    Args:
        dispatcher: what `numba.njit` made.
        sources: modules whose functions it calls. Numba asks for the function's own file alone, so that code kept
            before one of these changed would still be run.
    """
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # there is no folder that this user may write to
        return dispatcher
    if sources:
        own = inspect.getmodule(dispatcher.py_func)
        texts = [inspect.getsource(module).encode() for module in (own, *sources) if module is not None]
        dispatcher._cache._cache_file._source_stamp = hashlib.sha256(b"\0".join(texts)).hexdigest()
    save = dispatcher._cache.save_overload

    def attempt(*compiled: Any) -> None:
        with contextlib.suppress(OSError):
            save(*compiled)

    dispatcher._cache.save_overload = attempt
    return dispatcher
