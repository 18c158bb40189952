"""Fetch the page's copy of LiteRT again: `python clients/phone/vendor.py`, for a new version. Needs npm."""

import gzip
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "2.5.3"
PLACE = Path(__file__).parent / "page" / "litert"
BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")


def fetch(package: str, folder: Path) -> Path:
    """Unpack a package of npm's into a folder; return where its content is."""
    command = ["npm", "pack", f"@litertjs/{package}@{VERSION}", "--silent"]
    name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder / package, filter="data")
    return folder / package / "package"


def without_maps(path: Path) -> str:
    """Return a script without the line that points at its source map."""
    return re.sub(r"^//# sourceMappingURL=.*\n?", "", path.read_text(), flags=re.MULTILINE)


def main() -> None:
    """Fetch, change what has to be, and write."""
    with tempfile.TemporaryDirectory() as folder:
        core, tools = fetch("core", Path(folder)), fetch("wasm-utils", Path(folder))
        script = without_maps(core / "dist" / "index.js")
        changed = script.replace('from "@litertjs/wasm-utils"', 'from "./wasm-utils.js"')
        if changed == script:
            raise SystemExit("core.js does not import @litertjs/wasm-utils any more: look what has changed")
        (PLACE / "core.js").write_text(changed)
        (PLACE / "wasm-utils.js").write_text(without_maps(tools / "dist" / "index.js"))
        for build in BUILDS:
            (PLACE / f"{build}.js").write_bytes((core / "wasm" / f"{build}.js").read_bytes())
            content = (core / "wasm" / f"{build}.wasm").read_bytes()
            (PLACE / f"{build}.wasm.gz").write_bytes(gzip.compress(content, 9, mtime=0))


if __name__ == "__main__":
    main()
