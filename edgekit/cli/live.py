"""Showing a run on a page of this machine while it trains: what `--watch` does."""

import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgekit.cli.terminal import Terminal
    from edgekit.report.live import LivePage

Watch = Annotated[bool, typer.Option("--watch", help="Open a page that shows the run while it trains.")]
Port = Annotated[int, typer.Option(help="With --watch: the page's port on this machine; 0 is any.", min=0, max=65535)]


class Both:
    """Tells a terminal and a page."""

    def __init__(self, terminal: "Terminal", page: "LivePage") -> None:
        self._told: tuple[Any, ...] = (terminal, page)

    def stage(self, name: str) -> None:
        """A stage begins."""
        for one in self._told:
            one.stage(name)

    def round(self, metrics: Any, rounds: int) -> None:
        """A round ended."""
        for one in self._told:
            one.round(metrics, rounds)

    def notice(self, line: str) -> None:
        """Something a person should know."""
        for one in self._told:
            one.notice(line)


@contextmanager
def watched(terminal: "Terminal", watch: bool, port: int, name: str, folder: Path) -> Iterator[Any]:
    """Yield what a job tells: the terminal, and a page where that is wanted.

    The page is there before anything heavy is imported, and stays until a browser that watches has the report.
    """
    if not watch:
        yield terminal
        return
    from edgekit.errors import EdgekitError
    from edgekit.report.live import LivePage

    page = LivePage(name, folder, port)
    terminal.notice(f"watch it at {page.address}")
    if sys.stdout.isatty():
        webbrowser.open(page.address)
    try:
        yield Both(terminal, page)
        page.finished({})
    except EdgekitError as error:
        page.failed(str(error))
        raise
    finally:
        page.close()
