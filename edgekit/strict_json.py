"""JSON from strangers: what other software of ours could stumble over is no JSON here."""

import json
from collections.abc import Callable
from typing import Any

BITS = 64
"""Whole numbers have no more, as nodes' ids do: so they become floats without overflowing."""


def loads(content: bytes | str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read JSON.

    Args:
        content: UTF-8.
        hook: makes something else of an object.

    Raises:
        ValueError: it is none, or holds NaN, an infinity (`1e400` is one), a whole number of more than 64 bits, half a
            surrogate pair, or NUL.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole, object_hook=hook)
        letters = json.dumps(found, ensure_ascii=False, default=lambda made: None)
        letters.encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeError:
        raise ValueError("it is not Unicode") from None
    if "\\u0000" in letters:
        raise ValueError("it holds NUL")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("it holds a number beyond all bounds")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or int(text).bit_length() > BITS:
        raise ValueError(f"it holds a whole number of more than {BITS} bits")
    return int(text)
