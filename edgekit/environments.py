"""Python environments of their own, for packages that cannot live beside ours."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.runfolder import locked


def home() -> Path:
    """Return the folder where edgekit keeps what it installs: `$EDGEKIT_HOME`, else one in the user's cache."""
    place = os.environ.get("EDGEKIT_HOME")
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(place) if place else (Path(cache) if cache else Path.home() / ".cache") / "edgekit"


def conversions() -> Path:
    """Return the folder of conversions that are kept by content: `$EDGEKIT_CACHE`, else one in `home`."""
    place = os.environ.get("EDGEKIT_CACHE")
    return Path(place) if place else home() / "conversions"


def data_home() -> Path:
    """Return the folder for what must not be lost, as keys and ledgers: in `$EDGEKIT_HOME`, else in the user's data."""
    place = os.environ.get("EDGEKIT_HOME")
    data = os.environ.get("XDG_DATA_HOME")
    return Path(place) if place else (Path(data) if data else Path.home() / ".local" / "share") / "edgekit"


@dataclass(frozen=True)
class Environment:
    """A virtual environment that edgekit makes on demand and runs programs in.

    Attributes:
        name: of its folder, with the version of what is in it.
        python: the version it needs, as in 3.11.
        requirements: for pip.
        bare: packages installed without what they ask for, since the others cannot live with it.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    bare: tuple[str, ...] = ()

    @property
    def executable(self) -> Path:
        """The environment's Python; it exists once `install` has finished."""
        return home() / "environments" / self.name / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether the environment is there, whole."""
        return (self.executable.parent.parent / "installed").exists()

    def install(self) -> None:
        """Make the environment; one that is there already is kept, and one that another process makes is waited for.

        Raises:
            EdgekitError: the right Python is missing, pip failed, or the disk is full.
        """
        if self.installed:
            return
        busy = EdgekitError(f"another process installs {self.name}")
        try:
            with locked(home() / "locks" / self.name, busy, wait=True):
                if not self.installed:  # the other process may have made it
                    self._make()
        except OSError as error:
            raise EdgekitError(f"{self.name} cannot be installed in {home()}: {error.strerror or error}") from None

    def _make(self) -> None:
        self.remove()
        folder = self.executable.parent.parent
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._run([self._base(), "-m", "venv", str(folder)])
        self._run([str(self.executable), "-m", "pip", "install", "--quiet", *self.requirements])
        if self.bare:
            self._run([str(self.executable), "-m", "pip", "install", "--quiet", "--no-deps", *self.bare])
        (folder / "installed").touch()

    def remove(self) -> None:
        """Remove the environment, if it is there."""
        shutil.rmtree(self.executable.parent.parent, ignore_errors=True)

    def _base(self) -> str:
        """Find the right Python: our own, one on the PATH or of pyenv, or one that uv knows or can fetch."""
        if f"{sys.version_info.major}.{sys.version_info.minor}" == self.python:
            return sys.executable
        found = [shutil.which(f"python{self.python}")]
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
        found += sorted(str(path) for path in pyenv.glob(f"versions/{self.python}.*/bin/python"))
        for candidate in found:
            if candidate is not None and self._is_right(candidate):
                return candidate
        try:
            import uv

            tool = uv.find_uv_bin()
            self._run([tool, "python", "install", "--quiet", self.python])
            asked = subprocess.run([tool, "python", "find", self.python], capture_output=True, text=True, check=True)
            return asked.stdout.strip()
        except (ImportError, FileNotFoundError, subprocess.CalledProcessError, EdgekitError):
            raise EdgekitError(
                f"{self.name} needs Python {self.python}, and none was found or could be fetched: install it, with "
                f"your system's packages, pyenv or uv, so that python{self.python} is on the PATH"
            ) from None

    def _is_right(self, python: str) -> bool:
        """Whether this is really that Python: a shim of pyenv may stand for one that is not there."""
        command = [python, "-c", "import sys, venv; print(sys.version_info[:2])"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        major, minor = self.python.split(".")
        return done.returncode == 0 and done.stdout.strip() == f"({major}, {minor})"

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
        except subprocess.TimeoutExpired:
            raise EdgekitError(f"{self.name} was not installed within 30 minutes") from None
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise EdgekitError(f"{self.name} cannot be installed: {last[0]}")
