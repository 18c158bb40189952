"""Whose code an experiment may run: an experiment that names `package.module:Class` is code of whoever wrote it.

The command line guards every import of such a name: what is shipped, of an installed package's entry points, or typed
on the command line itself goes through; anything else is asked about once, and remembered. Programs that use edgekit as
a library are code already, and are not asked. A node runs what its owner lists in `modules`.
"""

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from edgekit.environments import data_home
from edgekit.errors import UsageError
from edgekit.runfolder import write_whole

SHIPPED = ("edgekit", "flwr")
GROUPS = ("models", "data", "algorithms", "strategies", "selectors", "transforms", "presets")
VARIABLE = "EDGEKIT_TRUST"
"""Set for processes that a command starts, where it was given --trust."""
ALWAYS = "*"
"""Remembered of a module beside one's own experiments: it stays trusted when it is changed."""


class Gate:
    """Asks before code is run that is not trusted yet.

    Args:
        arguments: of the command line; names in it were typed by whoever runs it.
        asks: whether somebody is there to be asked.

    Attributes:
        trusts: whether everything goes through and is remembered, as --trust says.
        elsewhere: whether what names the code comes from elsewhere, as run folders may: then it is remembered by its
            content, and asked about again when that changes.
    """

    def __init__(self, arguments: Sequence[str], *, asks: bool) -> None:
        self._arguments, self._asks = arguments, asks
        self.trusts = VARIABLE in os.environ
        self.elsewhere = False

    def __call__(self, path: str, what: str) -> None:
        """See that a name's code may be run; nothing of it has been yet.

        Args:
            path: `package.module:name`.
            what: names it, as `model.name`.

        Raises:
            UsageError: it may not.
        """
        top = path.partition(":")[0].partition(".")[0]
        if top in SHIPPED or top in _of_entry_points():
            return
        file = file_of(top)
        if file is None:
            return  # there is none to run, which the import will say
        known, content = _remembered(), content_of(file)
        if known.get(str(file)) in (ALWAYS, content):
            return
        if not self.trusts and not any(path in argument for argument in self._arguments):
            self._ask(path, what, file)
        stays = not self.elsewhere and (file.is_relative_to(Path.cwd()) or _is_installed(file))
        _remember(file, ALWAYS if stays else content)

    def _ask(self, path: str, what: str, file: Path) -> None:
        names = f"{what} names {path}, which is code in {file}"
        if not self._asks:
            raise UsageError(f"{names} that nobody has trusted here yet: read it, then give --trust")
        print(f"{names}. It would run with all your rights.", file=sys.stderr)
        try:
            answer = input("Run it, now and from now on? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise UsageError(f"{names}: it was not trusted, and nothing was run")


def file_of(top: str) -> Path | None:
    """Return where a top-level module is, its folder if it is a package; None if there is none. Nothing is imported."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin and spec.has_location else None


def content_of(file: Path) -> str:
    """Return a hash of a module, of all of its files if it is a package."""
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for one in sorted(path for path in file.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{one.relative_to(file)}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(one.read_bytes()).digest())
    return digest.hexdigest()


def _is_installed(file: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in file.parts)


def _of_entry_points() -> set[str]:
    found = (point for group in GROUPS for point in entry_points(group=f"edgekit.{group}"))
    return {point.module.partition(".")[0] for point in found}


def _store() -> Path:
    return data_home() / "trusted.json"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_store().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{_store()} cannot be read: remove it, and what was trusted is asked about again")
    return found


def _remember(file: Path, what: str) -> None:
    write_whole(_store(), json.dumps({**_remembered(), str(file): what}, indent=1) + "\n", mode=0o600)
