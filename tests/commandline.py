"""The command line in this process: what a real start of `edgekit` does, without seconds of imports for each."""

import contextlib
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from edgekit.cli import main


def edgekit(*arguments, cwd, env=None):
    """Run a command as a process of its own would: its folder, environment, output and exit code.

    Args:
        arguments: of `edgekit`.
        cwd: the folder it is started in.
        env: environment variables that differ; None takes one away.

    Returns:
        The exit code with all that was written, Python's and C++'s alike; a failure that nobody expected is a traceback
        on stderr and exit code 1, as it is for a process.
    """
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors, _as_it_was(Path(cwd), env or {}):
        with _into(1, out), _into(2, errors), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                main(arguments)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 1
            out.flush()
            errors.flush()
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(["edgekit", *arguments], code, *texts)


@contextlib.contextmanager
def _into(number, file):
    """Send a file descriptor into a file while entered."""
    kept = os.dup(number)
    try:
        os.dup2(file.fileno(), number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@contextlib.contextmanager
def _as_it_was(cwd, env):
    """Put back what a process of its own would take with it: folder, environment, module path, the folder's modules."""
    folder, path, modules, environment = os.getcwd(), list(sys.path), set(sys.modules), dict(os.environ)
    os.chdir(cwd)
    for name, value in env.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = str(value)
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().is_relative_to(cwd.resolve()):
                del sys.modules[name]
