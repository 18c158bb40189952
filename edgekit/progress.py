"""What a program sees of a run under way: a line, written over the last one, on terminals and in notebooks."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.runfolder import score_of

if TYPE_CHECKING:
    from edgekit.server.loop.metrics import RoundMetrics


class Told:
    """Tells what happens in lines, each where the last was: on terminals and in notebooks they do not flood."""

    def __init__(self, progress: bool | None, on_round: "Callable[[RoundMetrics], None] | None") -> None:
        self._on_round, self._shown = on_round, _shows() if progress is None else progress
        self._place: Any = None

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and not _in_notebook():
            _clear(sys.stderr)

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._show(f"{name} …")

    def round(self, metrics: "RoundMetrics", rounds: int) -> None:
        """A round ended."""
        if self._on_round is not None:
            self._on_round(metrics)
        score = score_of(vars(metrics))
        told = "" if score is None else f", {metrics.measure} {score:.4f}"
        self._show(f"round {metrics.round}/{rounds}{told}")

    def notice(self, line: str) -> None:
        """Something a person should know."""
        self._show(line)

    def _show(self, line: str) -> None:
        if not self._shown:
            return
        if _in_notebook():
            from IPython.display import display

            shown = {"text/plain": line}
            if self._place is None:
                self._place = display(shown, raw=True, display_id=True)
            else:
                self._place.update(shown, raw=True)
            return
        _clear(sys.stderr)
        print(line[:110], end="", file=sys.stderr, flush=True)


def _clear(stream: TextIO) -> None:
    print("\r\x1b[K", end="", file=stream, flush=True)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _shows() -> bool:
    return _in_notebook() or sys.stderr.isatty()
