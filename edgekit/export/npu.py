"""What an Arm Ethos-U accelerator would take for a file, as Arm's compiler Vela estimates: nothing is run.

An accelerator computes integer operators; what it has no form of is left to the processor beside it.
"""

import csv
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.errors import ExportError, MissingExtraError, UsageError

NAMES = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)  # fmt: skip
"""Accelerators, by the multiply-adds that they do in a cycle."""
SECONDS = 300
_LEFT = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


def estimate(content: bytes, name: str) -> dict[str, Any]:
    """Return what an accelerator would take for one inference.

    Args:
        content: a .tflite.
        name: of the accelerator.

    Returns:
        `operators` on the accelerator and `left_to_the_processor`, `cycles`, `inference_us` at its usual clock, bytes
        of `sram` and of `flash`; and which system the compiler reckoned with.

    Raises:
        UsageError: there is no such accelerator.
        MissingExtraError: Vela is not installed.
        ExportError: it takes none of the file's operators, or refused the file.
    """
    if name not in NAMES:
        raise UsageError(f"--npu {name}: there are {', '.join(NAMES)}")
    if find_spec("ethosu") is None:
        raise MissingExtraError("ethos-u-vela", "npu")
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "model.tflite").write_bytes(content)
        command = [sys.executable, "-P", "-m", "ethosu.vela", "model.tflite", "--accelerator-config", name]
        try:
            done = subprocess.run(
                [*command, "--output-dir", "."], cwd=place, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"Vela did not finish within {SECONDS} s") from None
        tables = list(Path(place).glob("*_summary_*.csv"))
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
            raise ExportError(f"Vela cannot compile the file for {name}: {said[-1]}")
        counts = {kind: int(count) for kind, count in _LEFT.findall(done.stdout)}
        if not counts.get("NPU") or not tables:
            raise ExportError(
                f"{name} takes none of the file's operators, all are left to the processor: it computes integers, take "
                "the int8-full file"
            )
        with open(tables[0], newline="") as file:
            row = next(csv.DictReader(file))
    return {
        "accelerator": name,
        "operators": counts["NPU"],
        "left_to_the_processor": counts.get("CPU", 0),
        "cycles": int(float(row["cycles_total"])),
        "inference_us": round(1e6 * float(row["inference_time"]), 1),
        "sram": round(1024 * float(row["sram_memory_used"])),
        "flash": round(1024 * (float(row["off_chip_flash_memory_used"]) + float(row["on_chip_flash_memory_used"]))),
        "system": f"{row['system_config']}, {row['memory_mode']}",
        "source": "an estimate by Arm's Vela, not a measurement",
    }
