"""The command line: one file a command. Heavy imports wait until a command runs, so that `--help` answers at once."""

from edgekit.cli.app import main

__all__ = ["main"]
