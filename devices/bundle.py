"""Bundles: everything a board without a network needs to become a node, as one tar file."""

import importlib.util
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

from edgekit.devices.profile import DeviceProfile
from edgekit.errors import EdgekitError
from edgekit.version import __version__

TOP = "edgekit-bundle"
LEFT_OUT = {"uv"}
"""Packages that are asked for and never used on a node: Flower's SuperLink installs apps with uv, a node does not."""
LONGEST_SECONDS = 1800


def build(profile: DeviceProfile, path: Path, on_notice: Callable[[str], None] = lambda line: None) -> Path:
    """Write a bundle for a device.

    Args:
        profile: of the device; its wheel platforms and Python decide what goes in.
        path: of the tar file.
        on_notice: called with a line for people.

    Raises:
        EdgekitError: the profile names no platforms, or the packages cannot be fetched.
    """
    if not profile.wheel_platforms:
        raise EdgekitError(f"the profile {profile.name} names no wheel_platforms: nothing can be fetched for it")
    with tempfile.TemporaryDirectory() as place:
        top = Path(place) / TOP
        wheels = top / "wheels"
        wheels.mkdir(parents=True)
        own = own_wheel(wheels)
        on_notice(f"fetching the packages of a node for {profile.cpu.architecture}, Python {profile.python}")
        _download(profile, wheels, own)
        for wheel in list(wheels.iterdir()):
            if wheel.name.partition("-")[0].replace("_", "-").lower() in LEFT_OUT:
                wheel.unlink()
        lock = sorted(_pinned(wheel) for wheel in wheels.glob("*.whl") if not wheel.name.startswith("pip-"))
        (top / "lock.txt").write_text("".join(f"{line}\n" for line in lock))
        board = resources.files("edgekit.devices") / "board"
        for name in ("install.sh", "edgekit-node.service", "README.txt"):
            (top / name).write_text((board / name).read_text())
        (top / "install.sh").chmod(0o755)
        facts = {
            "edgekit": __version__,
            "device": profile.name,
            "architecture": profile.cpu.architecture,
            "python": profile.python,
        }
        (top / "bundle.env").write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in facts.items()))
        (top / "bundle.json").write_text(json.dumps({**facts, "packages": lock}, indent=2) + "\n")
        written = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(written, "w") as tar:
                tar.add(top, TOP, filter=_nobodys)
            written.replace(path)
        except OSError as error:
            raise EdgekitError(f"cannot write {path}: {error.strerror or error}") from None
        finally:
            written.unlink(missing_ok=True)
    on_notice(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(lock)} packages")
    return path


def own_wheel(folder: Path) -> Path:
    """Write the wheel of the edgekit that runs here.

    Raises:
        EdgekitError: its files are not where pip put them.
    """
    found = metadata.distribution("edgekit")
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        source = str(direct["url"]).removeprefix("file://")
        _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), source])
        return next(folder.glob("edgekit-*.whl"))
    path = folder / f"edgekit-{found.version}-py3-none-any.whl"
    names = [file for file in found.files or [] if not str(file).startswith("..") and file.suffix != ".pyc"]
    skipped = {"INSTALLER", "REQUESTED", "direct_url.json"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in names:
            if file.name in skipped:
                continue
            located = Path(str(found.locate_file(file)))
            if not located.is_file():
                raise EdgekitError(f"edgekit is not installed whole ({file} is missing): install it again")
            wheel.write(located, str(file))
    return path


def _download(profile: DeviceProfile, wheels: Path, own: Path) -> None:
    version = profile.python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", profile.python]
    command += [part for tag in profile.wheel_platforms for part in ("--platform", tag)]
    command += [part for tag in (f"cp{version}", "abi3", "none") for part in ("--abi", tag)]
    command += ["--dest", str(wheels), "pip", f"{own}[node]"]
    _run(command)


def _run(command: list[str]) -> None:
    if importlib.util.find_spec("pip") is None:
        raise EdgekitError("bundles are made with pip, which this Python does not have: python -m ensurepip")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EdgekitError(f"pip did not finish within {LONGEST_SECONDS // 60} minutes") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise EdgekitError(f"the packages cannot be fetched: {(errors or ['no message'])[-1]}")


def _pinned(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version}"


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave the builder's name out, and everybody able to read."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.name.endswith(".sh") else 0o644
    return member
