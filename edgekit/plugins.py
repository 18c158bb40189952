"""Plug-ins by import path: `package.module:name` anywhere the experiment names something of ours."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType, MappingProxyType
from typing import Any

from edgekit.errors import EdgekitError, ExperimentError, UsageError


def is_import_path(text: str) -> bool:
    """Say whether a text has the form `package.module:name`."""
    module, separator, name = text.partition(":")
    return bool(separator) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


_guard: Callable[[str, str], None] | None = None


def guard(gate: Callable[[str, str], None] | None) -> None:
    """Have a gate asked before anything is imported; None lets everything through, as for programs of one's own.

    Args:
        gate: given `package.module:name` and what names it; it raises what shall not be imported.
    """
    global _guard
    _guard = gate


def guarding() -> Callable[[str, str], None] | None:
    """Return the gate."""
    return _guard


OBJECT = "object:"
"""Begins the names of what a program gave as an object, which no file can hold."""
_objects: ContextVar[Mapping[str, Any]] = ContextVar("objects", default=MappingProxyType({}))


@contextmanager
def given(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let names that begin with `OBJECT` mean these objects, for as long as this lasts."""
    token = _objects.set({**_objects.get(), **objects})
    try:
        yield
    finally:
        _objects.reset(token)


def check(path: str, what: str) -> None:
    """See that `package.module:name` may be imported here.

    Raises:
        ExperimentError: it is of Python's own library, which has nothing that an experiment could name.
        UsageError: the gate does not let it through.
    """
    if path.startswith(OBJECT):
        if path not in _objects.get():
            raise UsageError(
                f"{what} {path.removeprefix(OBJECT)!r} was an object of the program that began this run: go on there, "
                f"with edgekit.open(RUN, {what.partition('.')[0]}=…)"
            )
        return
    top = path.partition(":")[0].partition(".")[0]
    if top in sys.stdlib_module_names:
        raise ExperimentError(f"{what} {path!r} is of Python's own library: name a class of your own or of a package")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if _guard is not None:
        _guard(path, what)


def is_own_function(found: object) -> bool:
    """Whether this is a function that somebody wrote in a module of their own, not one of an installed package."""
    if not isinstance(found, FunctionType):
        return False
    file = found.__code__.co_filename
    return not any(place in file for place in ("site-packages", "dist-packages", "<"))


def is_own_class(found: object) -> bool:
    """Whether this is a class that somebody wrote in a module of their own."""
    made = isinstance(found, type) and [one for one in vars(found).values() if isinstance(one, FunctionType)]
    return bool(made) and all(is_own_function(one) for one in made or [])


def load(path: str, what: str) -> Any:
    """Import `package.module:name`; the current folder counts as a place for modules.

    Raises:
        ExperimentError: the module or the name does not exist; the message names both.
        UsageError: the gate does not let it through.
        EdgekitError: the module exists but raised while it was imported.
    """
    check(path, what)
    if path.startswith(OBJECT):
        return _objects.get()[path]
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ExperimentError(f"{what} {path!r}: no module named {error.name!r} here or installed") from None
        raise EdgekitError(f"{what} {path!r}: importing it failed, {error}") from error
    except (Exception, SystemExit) as error:
        raise EdgekitError(f"{what} {path!r}: importing it failed, {type(error).__name__}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ExperimentError(f"{what} {path!r}: module {module_name!r} has no {name!r}") from None
