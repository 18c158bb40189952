"""What an experiment can name: built-in things, those of installed packages, and one's own by import path.

All kinds are listed, described and missed alike. Nothing is imported before it is needed.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from edgekit import plugins
from edgekit.errors import EdgekitError, ExperimentError


@dataclass(frozen=True)
class Entry:
    """A thing with a name.

    Attributes:
        path: `package.module:name` of it.
        summary: one line for people.
        source: the paper, or whatever it comes from.
    """

    path: str
    summary: str = ""
    source: str = ""


class Registry(Mapping[str, Entry]):
    """Things of one kind, by name: edgekit's own, and those that installed packages add by entry points.

    Args:
        key: of the experiment that names one, such as `model.name`.
        built_in: edgekit's own.
        group: of entry points; their names become names here, their values import paths.
    """

    def __init__(self, key: str, built_in: Mapping[str, Entry], group: str) -> None:
        self.key, self._built_in, self._group = key, dict(built_in), group
        self._all: dict[str, Entry] | None = None

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str) -> None:
        """See that a name means something, without importing it.

        Raises:
            ExperimentError: it does not; the message tells the nearest that does.
        """
        if name in self._built_in or plugins.is_import_path(name) or name in self._entries:
            return
        near = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(self._entries)}"
        raise ExperimentError(f"{self.key} {name!r} is unknown; {hint}; or give package.module:Name")

    def load(self, name: str) -> Any:
        """Return what a name means.

        Raises:
            ExperimentError: nothing, or it cannot be imported.
        """
        self.check(name)
        entry = self._built_in.get(name) or (None if plugins.is_import_path(name) else self._entries[name])
        return plugins.load(name if entry is None else entry.path, self.key)

    @property
    def _entries(self) -> dict[str, Entry]:
        if self._all is None:
            found = dict(self._built_in)
            for point in entry_points(group=self._group):
                package = point.dist.name if point.dist is not None else point.module
                if point.name in found:
                    raise EdgekitError(
                        f"{self.key} {point.name!r} has two meanings: {found[point.name].path}, and {point.value} of "
                        f"the package {package}; uninstall one of them"
                    )
                found[point.name] = Entry(point.value, f"of the package {package}")
            self._all = found
        return self._all
