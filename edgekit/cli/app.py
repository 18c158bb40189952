"""Put the commands together, and turn every expected failure into one line and an exit code."""

import atexit
import gc
import os
import sys
from collections.abc import Sequence

import click
import typer

from edgekit import plugins
from edgekit.cli import (
    bundle,
    compare,
    devices,
    doctor,
    evaluate,
    export,
    inspect,
    join,
    models,
    new,
    phone,
    predict,
    privacy,
    resume,
    run,
    search,
    serve,
    spike,
    split,
    sweep,
)
from edgekit.cli.terminal import complain
from edgekit.errors import EdgekitError
from edgekit.processes import adopt_children, end_children
from edgekit.trust import VARIABLE, Gate
from edgekit.version import __version__

app = typer.Typer(
    name="edgekit",
    help="Federated training for edge devices: privacy, TFLite, spiking networks. Start with `edgekit run`.",
    no_args_is_help=True,
    suggest_commands=False,  # click does, and both would
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(run.run)
app.command()(resume.resume)
app.command()(compare.runs)
app.command()(compare.compare)
app.command()(sweep.sweep)
app.command()(search.search)
app.command()(predict.predict)
app.command()(evaluate.evaluate)
app.command()(export.export)
app.command()(inspect.inspect)
app.add_typer(spike.app, name="spike")
app.add_typer(split.app, name="split")
app.add_typer(privacy.app, name="privacy")
app.command()(serve.serve)
app.command()(join.join)
app.command()(phone.phone)
app.command()(bundle.bundle)
app.add_typer(devices.app, name="devices")
app.command()(new.new)
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)


def _version(show: bool) -> None:
    if show:
        print(f"edgekit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Carry the options that come before a command."""


def _wrong_use(error: click.ClickException) -> str:
    said = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return said if context is None else f"{said} ({context.command_path} --help)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit 0, 1 (failed) or 2 (wrong usage).

    Args:
        arguments: after the program's name; None takes this process's own, which then ends with all its children.
    """
    if arguments is None:
        adopt_children()
        # At its end Python looks through all that torch and the converters hold, for a second: the process ends anyway.
        atexit.register(gc.freeze)
        atexit.register(end_children)
    given, trust = sys.argv[1:] if arguments is None else arguments, os.environ.get(VARIABLE)
    plugins.guard(Gate(given, asks=sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()))
    try:
        code = app(arguments, prog_name="edgekit", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        complain(_wrong_use(error))
        sys.exit(2)
    except click.Abort:
        complain("stopped")
        sys.exit(1)
    except EdgekitError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        from edgekit.devices.host import extra_with

        package, extra = extra_with(error.name or "")
        if extra is None:
            raise
        complain(f"{package} is not installed; install it with: pip install 'edgekit[{extra}]'")
        sys.exit(1)
    except KeyboardInterrupt:
        complain("stopped")
        sys.exit(1)
    except MemoryError:
        complain("out of memory: lower training.memory_mb or training.batch_size")
        sys.exit(1)
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)
    finally:
        plugins.guard(None)
        if trust is None:
            os.environ.pop(VARIABLE, None)
