"""The run folder: one folder a run, each file written whole or not at all, each line appended before it counts."""

import fcntl
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from edgekit.errors import RunFolderError, UsageError


def unwritable(folder: Path) -> str:
    """Return why nothing can be written into a folder, "" if something can: it is tried."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    return ""


def write_whole(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part of it.

    Args:
        path: the file; its folder is made if need be.
        content: all of it.
        mode: who may read it; nobody else could at any time.

    Raises:
        RunFolderError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
        raise


@contextmanager
def locked(folder: Path, refusal: Exception, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder against other processes, by its file `lock`; the lock goes with this process, however it ends.

    Args:
        folder: made if need be, for its owner alone.
        refusal: raised if another process holds it.
        wait: for the other process to let go, instead.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "lock"
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise refusal from None
            if not _is_at(file, path):
                continue  # whoever held it took its file away
            yield
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def secret_number(path: Path, bits: int, refusal: Exception) -> int:
    """Return the secret number in a file, made on first use: the same after a crash, so that nothing is spent twice.

    Args:
        path: the file, for its owner alone.
        bits: of the number.
        refusal: raised if the file cannot be read; nothing is made anew then.
    """
    if not path.exists():
        write_whole(path, f"{secrets.randbits(bits):0{bits // 4}x}", mode=0o600)
    try:
        return int(path.read_text(), 16)
    except (OSError, ValueError):
        raise refusal from None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line and wait until it is on the disk.

    A line that could only be written in part (a full disk) is cut off again, and so is one that a crash left.

    Raises:
        RunFolderError: the line could not be written.
    """
    line = (json.dumps(record) + "\n").encode()
    try:
        with open(path, "a+b", buffering=0) as file:
            _end_with_newline(file)
            start = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from None


def _end_with_newline(file: io.FileIO) -> None:
    """Mend a last line without its newline: a whole record gets it, a part of one is cut off."""
    file.seek(0)
    whole, newline, tail = file.readall().rpartition(b"\n")
    if not tail:
        return
    try:
        json.loads(tail)
    except ValueError:
        file.truncate(len(whole) + len(newline))
    else:
        file.write(b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; a last line cut short by a crash is left out.

    Raises:
        RunFolderError: a line before the last is not JSON.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield json.loads(line)
        except RecursionError:
            raise RunFolderError(f"{path} line {number} is nested too deep") from None
        except ValueError:
            if number < len(lines):
                raise RunFolderError(f"{path} line {number} is not JSON") from None


def score_of(line: Mapping[str, Any]) -> float | None:
    """Return the measure of a round, by its line of metrics.jsonl (or its figures by name); None if not measured."""
    measure = line.get("measure", "accuracy")
    found: float | None = line["accuracy"] if measure == "accuracy" else line["metrics"].get(measure)
    return found


def measure_of(result: Mapping[str, Any]) -> tuple[str, float]:
    """Return name and value of what tells how good a run's network is, from what result.json holds."""
    name = result.get("objective", {}).get("measure", "accuracy")
    return name, result[name]


class RunFolder:
    """The files of one run: see DESIGN, "The command line and the run folder are the contract"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.toml"
        self.metrics = path / "metrics.jsonl"
        self.devices = path / "devices.jsonl"
        self.privacy = path / "privacy.jsonl"
        self.model = path / "model.safetensors"
        self.checkpoint = path / "checkpoint"
        self.export = path / "export"
        self.spiking = path / "spiking"
        self.report = path / "report.html"
        self.result = path / "result.json"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new run folder.

        Raises:
            UsageError: see `check_free`.
            RunFolderError: it cannot be made.
        """
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot make the run folder {path}: {error.strerror}") from None
        if not os.access(path, os.W_OK):
            raise RunFolderError(f"cannot write into the run folder {path}: Permission denied")
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """See that a new run may go into a folder, before anything heavy is loaded.

        Raises:
            UsageError: the folder exists and is not empty, so nothing of an earlier run is ever overwritten.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = f"; go on with it by `edgekit resume {path}`" if (path / "experiment.toml").exists() else ""
            raise UsageError(f"{path} exists already and is not empty: give another --out{hint}")

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises:
            UsageError: this is not a run folder.
        """
        if not (path / "experiment.toml").is_file():
            raise UsageError(f"{path} is not a run folder: it has no experiment.toml")
        made = cls(path)
        for file in (made.metrics, made.devices, made.privacy, made.model, made.result, made.report):
            if file.exists() and not file.is_file():  # a pipe would let whoever reads it wait for ever
                raise RunFolderError(f"{file} is no file of a run")
        return made

    def trained(self) -> Path:
        """Return the file of its trained network.

        Raises:
            RunFolderError: it has none yet.
        """
        if not self.model.is_file():
            raise RunFolderError(f"{self.path} holds no trained network yet: go on with edgekit resume {self.path}")
        return self.model

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder against other processes: two that write into it would mix their rounds.

        Raises:
            UsageError: another one holds it.
        """
        taken = UsageError(f"another edgekit is at work in {self.path}: wait until it ends, or stop it")
        with locked(self.path, taken):
            try:
                yield
            finally:
                with suppress(OSError):
                    (self.path / "lock").unlink()

    @classmethod
    def next_free(cls, parent: Path, name: str) -> Path:
        """Return `parent/name-001`, or the first number that is still free."""
        return next(path for n in range(1, 100_000) if not (path := parent / f"{name}-{n:03d}").exists())

    def read_result(self) -> dict[str, Any]:
        """Return what result.json holds.

        Raises:
            RunFolderError: the run has not finished, or the file is broken.
        """
        try:
            found: dict[str, Any] = json.loads(self.result.read_text())
            if not isinstance(found, dict):
                raise ValueError("it holds no table")
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} has no result yet: go on with edgekit resume {self.path}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"cannot read {self.result}: {error}") from None
        return found

    def write_json(self, path: Path, record: dict[str, Any]) -> None:
        """Write a JSON file of this run, whole or not at all."""
        write_whole(path, json.dumps(record, indent=2) + "\n")
