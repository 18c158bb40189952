"""Plug-ins by import path: `package.module:name` anywhere the experiment names something of ours."""

import importlib
import os
import sys
from typing import Any

from edgekit.errors import EdgekitError, ExperimentError


def is_import_path(text: str) -> bool:
    """Say whether a text has the form `package.module:name`."""
    module, separator, name = text.partition(":")
    return bool(separator) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load(path: str, what: str) -> Any:
    """Import `package.module:name`; the current folder counts as a place for modules.

    Raises:
        ExperimentError: the module or the name does not exist; the message names both.
        EdgekitError: the module exists but raised while it was imported.
    """
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ExperimentError(f"{what} {path!r}: no module named {error.name!r} here or installed") from None
        raise EdgekitError(f"{what} {path!r}: importing it failed, {error}") from error
    except Exception as error:
        raise EdgekitError(f"{what} {path!r}: importing it failed, {type(error).__name__}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ExperimentError(f"{what} {path!r}: module {module_name!r} has no {name!r}") from None
