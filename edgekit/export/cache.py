"""Conversions kept by content: the same network, options and libraries give the same file, so it is made once.

A training graph takes 10 to 40 s to convert. The key is a digest of everything that goes in: the traced operators, all
constants and weights, the versions of the libraries that convert, and the source of this package. A file taken from
here is checked in the runtimes as a new one is. A cache that cannot be read or written costs time and nothing else.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekit.environments import conversions
from edgekit.errors import RunFolderError
from edgekit.runfolder import write_whole

LIBRARIES = ("torch", "litert-torch", "ai-edge-litert", "litert-quantizer", "jax", "numpy", "flatbuffers")
LARGEST_BYTES = 1 << 30
"""Of all files together; beyond, those that were not used for longest go."""
ENDING = ".kept"
DIGEST_BYTES = 32

Notice = Callable[[str], None]
_notice: ContextVar[Notice | None] = ContextVar("notice", default=None)


@contextlib.contextmanager
def telling(notice: Notice) -> Iterator[None]:
    """Tell of each file that is taken from the cache while entered, once by what it is."""
    told: set[str] = set()

    def once(line: str) -> None:
        if line not in told:
            told.add(line)
            notice(line)

    before = _notice.set(once)
    try:
        yield
    finally:
        _notice.reset(before)


def kept(what: str, parts: Iterable[bytes | str], make: Callable[[], bytes]) -> bytes:
    """Return a conversion from the cache, or make it and keep it.

    Args:
        what: it is, for people, and for the key.
        parts: everything else that the result depends on, beside libraries and this package.
        make: makes it.
    """
    path = conversions() / (_key(what, parts) + ENDING)
    if (found := _read(path)) is not None:
        if (notice := _notice.get()) is not None:
            notice(f"{what}: taken from {path.parent}, where an equal network was converted before")
        return found
    content = make()
    with contextlib.suppress(RunFolderError, OSError):  # a full or forbidden disk costs the next run time, not this one
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, hashlib.sha256(content).digest() + content, mode=0o600)
        _prune(path.parent)
    return content


def size() -> tuple[int, int]:
    """Return how many conversions are kept, and their bytes."""
    sizes = [file.stat().st_size for file in _files(conversions())]
    return len(sizes), sum(sizes)


def clear() -> None:
    """Remove all conversions.

    Raises:
        OSError: a file cannot be removed.
    """
    for file in _files(conversions()):
        file.unlink(missing_ok=True)


def _key(what: str, parts: Iterable[bytes | str]) -> str:
    digest = hashlib.sha256(_makers())
    for part in (what, *parts):
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


@cache
def _makers() -> bytes:
    """Return a digest of what converts: the libraries' versions, and the source of this package."""
    digest = hashlib.sha256()
    for library in LIBRARIES:
        try:
            digest.update(f"{library} {version(library)}\n".encode())
        except PackageNotFoundError:
            digest.update(f"{library} is missing\n".encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.digest()


def _read(path: Path) -> bytes | None:
    """Return what a file holds, and mark it as used; None if it is not there or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != stored[:DIGEST_BYTES]:
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return content


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.glob(f"*{ENDING}") if file.is_file()]


def _prune(folder: Path) -> None:
    """Remove the files that were not used for longest, until the others are few enough."""
    files = sorted(_files(folder), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > LARGEST_BYTES:
            file.unlink(missing_ok=True)
