"""Silence for libraries that write to the terminal from C++ and Python alike; what they said is kept for errors."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send everything that is written to the process's stdout and stderr into the void while entered."""
    sys.stdout.flush()
    sys.stderr.flush()
    previous = logging.root.manager.disable
    with tempfile.TemporaryFile() as void, warnings.catch_warnings():
        saved = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in saved:
                os.dup2(void.fileno(), number)
            logging.disable(logging.CRITICAL)
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(None), contextlib.redirect_stderr(open(os.devnull, "w")) as sink:
                yield
            sink.close()
        finally:
            logging.disable(previous)
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
