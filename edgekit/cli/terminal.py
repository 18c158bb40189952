"""What people see: a live line while rounds run on a terminal, plain lines elsewhere, JSON for machines."""

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import EdgekitError
from edgekit.runfolder import score_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_SECONDS = 5.0
STAGES = {
    "data": "Loading data",
    "training": "Training",
    "export": "Making and checking .tflite files",
    "supernet": "Training what all candidates share",
    "widths": "Measuring the narrower networks",
    "spiking": "Making and running the spiking network",
    "report": "Writing the report",
    "verify": "Comparing the emulator with Lava",
    "spiking export": "Writing the spiking network",
    "plot": "Drawing",
    "lava": "Setting up Lava",
}


def complain(message: str) -> None:
    """Print a one-line error."""
    print(f"edgekit: {' '.join(message.split())}", file=sys.stderr)


class Terminal:
    """Shows a run's progress.

    Args:
        silent: show nothing (for `--json`): then whatever else prints, an experiment's own code or its children, goes
            to the errors, and `result` alone to the output.
    """

    def __init__(self, silent: bool = False) -> None:
        from rich.console import Console

        self.silent = silent
        self.console = Console(highlight=False, quiet=silent)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_plain = 0.0
        self._began = time.monotonic()
        self._output: TextIO | None = None

    def __enter__(self) -> "Terminal":
        if self.silent:
            self._output, sys.stdout = sys.stdout, sys.stderr
            self._descriptor = _apart(self._output)
        return self

    def __exit__(self, kind: object, error: object, *_: object) -> None:
        self._stop()
        if self._output is not None:
            if self._descriptor is not None:
                os.dup2(self._descriptor, 1)
                os.close(self._descriptor)
            sys.stdout, self._output = self._output, None
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise EdgekitError(f"code that the experiment names ended the program: sys.exit({error.code!r})") from None

    @property
    def seconds(self) -> float:
        """How long it has been open: what a person waited, but for Python's start."""
        return time.monotonic() - self._began

    def stage(self, name: str) -> None:
        """Say that a stage begins."""
        self._stop()
        self.console.print(f"[bold]{STAGES[name]}[/bold]")

    def notice(self, line: str) -> None:
        """Print a line, above the live one."""
        self.console.print(f"  {line}", markup=False, soft_wrap=True)

    def round(self, metrics: Any, rounds: int) -> None:
        """Show a round's figures: live on a terminal, else a plain line every few seconds."""
        if self.silent:
            return
        line = round_line(metrics, rounds)
        if not self.console.is_terminal:
            now = time.monotonic()
            if now - self._last_plain >= PLAIN_INTERVAL_SECONDS or metrics.round in (1, rounds):
                self._last_plain = now
                self.console.print(f"  {line}", markup=False, soft_wrap=True)
            return
        if self._progress is None:
            self._progress, self._task = _live(self.console, rounds)
        assert self._task is not None
        self._progress.update(self._task, completed=metrics.round, description=line)
        if metrics.round == rounds:
            self._stop()
            self.notice(line)

    def result(self, record: dict[str, Any]) -> None:
        """Print a record as JSON."""
        text = json.dumps(record, indent=2) + "\n"
        if self._output is None:
            sys.stdout.write(text)
        elif self._descriptor is None:
            self._output.write(text)
        else:
            with open(self._descriptor, "w", closefd=False) as output:
                output.write(text)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _apart(output: TextIO) -> int | None:
    """Let what is written to descriptor 1 go to the errors; return where the output is now, None if it is not there."""
    try:
        if output.fileno() != 1:
            return None
        output.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError):  # no file, or closed
        return None
    return kept


def round_line(metrics: Any, rounds: int) -> str:
    """Return a round's figures as one line."""
    parts = [f"round {metrics.round}/{rounds}"]
    score = score_of(vars(metrics))
    if score is not None:
        parts.append(f"{metrics.measure} {score:.4f}")
    if metrics.epsilon is not None:
        parts.append(f"epsilon {metrics.epsilon:.2f}")
    for name in metrics.beside[:1]:  # one is enough for a line
        value = metrics.metrics.get(name)
        if value is not None:  # one that is not finite is not kept
            parts.append(f"{name.removesuffix('_accuracy')} {value:{'.4f' if abs(value) < 10 else '.4g'}}")
    if metrics.problem:
        parts.append(metrics.problem)
    parts.append(f"{metrics.replies}/{metrics.cohort} clients")
    parts.append(f"{metrics.seconds:.2f} s")
    return "  ".join(parts)


def _live(console: Any, rounds: int) -> tuple["Progress", "TaskID"]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    progress.start()
    return progress, progress.add_task("", total=rounds)
