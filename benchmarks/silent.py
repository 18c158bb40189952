"""A listener of runs that shows nothing."""

from typing import Any


class Silent:
    """Hears everything, and says nothing."""

    def stage(self, name: str) -> None:
        """Say nothing."""

    def round(self, metrics: Any, rounds: int) -> None:
        """Say nothing."""

    def notice(self, line: str) -> None:
        """Say nothing."""
