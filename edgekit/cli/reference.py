"""The tables of docs/experiment.md, made of the sections themselves, and the commands of docs/commands.md.

python -m edgekit.cli.reference docs/experiment.md
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, get_origin

from edgekit.section import Section

BEGIN, END = "<!-- made by edgekit.cli.reference -->", "<!-- end -->"


def tables(section: type[Section], path: str = "") -> str:
    """Return a section's keys as a table, and one for each section in it."""
    inner = {name: field.annotation for name, field in section.model_fields.items() if _is_section(field.annotation)}
    lines = [f"**[{path}]** {' '.join((section.__doc__ or '').split())}", ""] if path else []
    lines += ["| key | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {_default(field)} | {_meaning(field)} |"
        for name, field in section.model_fields.items()
        if name not in inner
    ]
    parts = [tables(one, f"{path}.{name}" if path else name) for name, one in inner.items() if _is_section(one)]
    return "\n\n".join(["\n".join(lines), *parts])


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _default(field: Any) -> str:
    return f"`{json.dumps(field.get_default(call_default_factory=True))}`"


def _meaning(field: Any) -> str:
    text = " ".join((field.description or "").split())
    choices = _choices(field.annotation)
    if choices:
        text = f"{', '.join(f'`{one}`' for one in choices)}: {text[:1].lower()}{text[1:]}" if text else ""
    return text.replace("|", r"\|")


def _choices(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    inner = get_args(annotation)
    return _choices(inner[0]) if get_origin(annotation) is list and inner else ()


def __getattr__(name: str) -> Any:
    """Return `commands`, all of edgekit's, for mkdocs-click; they are not imported for the tables."""
    if name != "commands":
        raise AttributeError(name)
    import typer.core
    import typer.main

    from edgekit.cli.app import app

    typer.core.HAS_RICH = False  # for it, the brackets of defaults would be escaped
    return typer.main.get_command(app)


def renewed(text: str) -> str:
    """Return a page with its tables made anew."""
    from edgekit.experiment import Experiment

    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(Experiment)}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text()))
