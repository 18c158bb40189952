"""What people see while a fleet trains: the join code, a live table of the nodes, a line a round."""

import io
import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edgekit.cli.terminal import Terminal, round_line
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from edgekit.report.live import LivePage


class Watcher:
    """Shows a coordinator's doings: live on a terminal, plain lines elsewhere, JSON lines for machines.

    Args:
        url: under which devices reach the coordinator.
        as_json: print JSON lines and nothing else.
        install: the line that installs a node on a board from here, "" for none.
        page: of this machine that shows the same, or None.
    """

    def __init__(self, url: str, as_json: bool, install: str = "", page: "LivePage | None" = None) -> None:
        self._url, self._as_json, self._install, self._page = url, as_json, install, page
        self._terminal = Terminal(silent=as_json)
        self._live: Live | None = None
        self._rows: list[dict[str, Any]] = []
        self._status = ""
        self._seen: dict[str, bool] = {}

    def __enter__(self) -> "Watcher":
        console = self._terminal.console
        if console.is_terminal and not self._as_json:
            from rich.live import Live

            self._live = Live(console=console, refresh_per_second=4, transient=True)
            self._live.start()
        self.event({"notice": f"coordinator at {self._url}"})
        if self._page is not None:
            self.event({"notice": f"watch it on this machine at {self._page.address}"})
        if self._install:
            self.event({"notice": f"install on a board: {self._install}"})
        return self

    def __exit__(self, kind: object, error: object, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._page is not None:
            if isinstance(error, EdgekitError):
                self._page.failed(str(error))
            self._page.close()

    def code(self, code: str, minutes: float) -> None:
        """Show a join code, as text and (on a terminal) as a QR code."""
        link = f"{self._url}#{code}"
        record = {"code": code, "join": link, "minutes": minutes}
        _show_link(self._terminal.console, link, "Join with:  edgekit join '{}'", "device", record, self._as_json)

    def phone(self, link: str, minutes: float) -> None:
        """Show the link for the next phone."""
        show_phone_link(self._terminal.console, link, minutes, self._as_json)

    def event(self, event: dict[str, Any]) -> None:
        """Show what happened."""
        if self._page is not None:
            _tell(self._page, event)
        if self._as_json:
            self._print(event)
        elif "round" in event:
            self._status = round_line(SimpleNamespace(**event["round"]), event["rounds"])
            if self._live is None:
                self._terminal.round(SimpleNamespace(**event["round"]), event["rounds"])
        elif "stage" in event:
            self._status = ""
            self._terminal.stage(event["stage"])
        elif "finished" in event:
            found = event["finished"]
            measure = found["measure"]
            self._terminal.console.print(f"[bold]Done[/bold] in {found['seconds']} s: {measure} {found[measure]:.4f}")
        elif "notice" in event:
            self._terminal.notice(event["notice"])
        self._show()

    def nodes(self, rows: list[dict[str, Any]]) -> None:
        """Show the nodes."""
        self._rows = rows
        if self._page is not None:
            self._page.nodes(rows)
        if self._live is None:
            for row in rows:  # plain lines: who came, who went
                if self._seen.get(row["node"]) != row["online"]:
                    self._seen[row["node"]] = row["online"]
                    state = "is here" if row["online"] else "is away"
                    if row["last_seen"] and not self._as_json:
                        self._terminal.notice(f"{row['name']} ({row['kind']}) {state}")
            if self._as_json:
                self._print({"nodes": rows})
        self._show()

    def _show(self) -> None:
        if self._live is not None:
            from rich.console import Group

            self._live.update(Group(table(self._rows), f"  {self._status}"))

    def _print(self, record: dict[str, Any]) -> None:
        print(json.dumps(record), flush=True)


def _tell(page: "LivePage", event: dict[str, Any]) -> None:
    """Tell a page what happened, but for the links that let devices in."""
    if "round" in event:
        page.round(SimpleNamespace(**event["round"]), event["rounds"])
    elif "stage" in event:
        page.stage(event["stage"])
    elif "finished" in event:
        page.finished(event["finished"])
    elif "failed" in event:
        page.failed(event["failed"])
    elif "notice" in event:
        page.notice(event["notice"])


def show_phone_link(console: "Console", link: str, minutes: float, as_json: bool) -> None:
    """Show the link by which one phone joins, as text and (on a terminal) as a QR code."""
    _show_link(console, link, "Scan with a phone:  {}", "phone", {"phone": link, "minutes": minutes}, as_json)


def _show_link(console: "Console", link: str, line: str, for_one: str, record: dict[str, Any], as_json: bool) -> None:
    """Show a link that lets one device in: in a line, and on a terminal as a QR code; or as a JSON record."""
    if as_json:
        print(json.dumps(record), flush=True)
        return
    lines = ["", f"  {line.format(link)}", f"  (one {for_one}, within {_in_words(record['minutes'])})"]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    if console.is_terminal:
        console.print(_picture(link), markup=False)


def _in_words(minutes: float) -> str:
    """Return how long a code holds, as a person would say it."""
    if minutes < 1.5:
        return f"{max(1, round(60 * minutes))} seconds"
    return f"{round(minutes)} minutes"


def table(rows: list[dict[str, Any]]) -> "Table":
    """Return the nodes as a table."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=True, header_style="bold")
    for column in ("node", "kind", "seen", "battery", "rounds", "failed", "sent and got", "model", ""):
        made.add_column(column, justify="left" if column in ("node", "kind", "") else "right")
    for row in rows:
        made.add_row(
            Text(str(row["name"])),
            Text(str(row["kind"])),
            _since(row["last_seen"]),
            _battery(row["facts"]),
            str(row["rounds"]),
            str(row["failures"]),
            _size(row["bytes"]),
            Text("-" if row["model"] is None else str(row["model"])),
            Text(str(row["problem"])),
            style=None if row["online"] else "dim",
        )
    return made


def _since(moment: float) -> str:
    if not moment:
        return "never"
    seconds = max(0.0, time.time() - moment)
    if seconds < 10:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _battery(facts: dict[str, Any]) -> str:
    if "battery" not in facts:
        return "-"
    return f"{facts['battery']:.0f} %{' +' if facts.get('charging') else ''}"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:.0f} kB"


def _picture(link: str) -> str:
    import segno

    text = io.StringIO()
    segno.make(link, error="m").terminal(out=text, compact=True, border=2)
    return text.getvalue()
