"""The distribution: every folder is a package, `import edgekit` is light, and help answers at once."""

import subprocess
import sys
import tomllib
from pathlib import Path

import edgekit

ROOT = Path(__file__).parent.parent
TOP = ("edgekit", "server", "clients", "neuromorphic", "privacy", "devices")
LIGHT = (
    "edgekit.experiment",
    "edgekit.arrays",
    "edgekit.runfolder",
    "edgekit.devices",
    "edgekit.clients",
    "edgekit.data.batches",
    "edgekit.clients.litert",
    "edgekit.environments",
    "edgekit.export.metadata",
    "edgekit.privacy",
    "edgekit.cli",
)


def test_the_list_of_packages_is_the_list_of_folders():
    folders = {
        ".".join(part for part in ("edgekit", *file.parent.relative_to(ROOT).parts) if part).replace(
            "edgekit.edgekit", "edgekit"
        )
        for top in TOP
        for file in (ROOT / top).rglob("*")
        if file.is_file() and file.parent.name != "__pycache__" and "phone_jvm" not in file.parts  # that is Java
    }
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) == folders
    assert settings["project"]["version"] == edgekit.__version__


def imports_without(blocked, names, tmp_path):
    code = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: __import__(name)\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "fine", done.stderr


def test_what_a_device_needs_never_imports_torch_or_flower(tmp_path):
    imports_without(("torch", "flwr", "sklearn", "matplotlib", "opacus"), LIGHT, tmp_path)


def test_a_node_and_the_coordinators_own_processes_never_import_torch(tmp_path):
    names = (
        *("clients.node.resident", "clients.node.handler", "clients.node.flower_app", "clients.node.enrol"),
        *("clients.halves", "clients.states", "algorithms.scaffold", "algorithms.personal", "registry"),
        *("devices.doctor", "devices.bundle", "wire", "flower.fleet"),
        *(
            "server.deployment.superlink",
            "server.deployment.supervisor",
            "server.deployment.coordinating",
            "server.deployment.gate",
        ),
    )
    blocked = ("torch", "sklearn", "matplotlib", "opacus", "litert_torch")
    imports_without(blocked, [f"edgekit.{name}" for name in names], tmp_path)


def test_every_public_name_exists():
    import importlib

    for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]:
        module = importlib.import_module(name)
        assert all(hasattr(module, public) for public in getattr(module, "__all__", [])), name
