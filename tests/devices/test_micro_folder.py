"""The folder for a microcontroller's program: its C++ compiles, and holds the file and the scores."""

import json
import shutil
import subprocess

import pytest

from edgekit.errors import UsageError
from edgekit.pipeline.exporting import export_run
from edgekit.pipeline.handing import hand_over

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: make test-devices"),
]
MAIN = """
#include <cstdio>
#include "example.h"
int main() {
  for (int i = 0; i < kModelBytes; ++i) std::fputc(g_model[i], stdout);
  std::fprintf(stderr, "%d %d %d %s %zu\\n", kExamples, kInputSize, kOutputSize, kLabels[3],
               reinterpret_cast<unsigned long>(g_model) % 16);
  return kArenaBytes > 0 && kExampleScores[0][0] >= -128 ? 0 : 1;
}
"""


def test_what_is_written_compiles_and_holds_the_model(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    with pytest.raises(UsageError, match="has no int8-full"):
        hand_over(run, tmp_path / "none", "int8-full")
    export_run(run, ["int8-full"], False, [], None, True, "", lambda line: None)
    written = {path.name for path in hand_over(run, tmp_path / "board", "int8-full")}
    assert written == {
        "model.tflite",
        "model.cc",
        "model.h",
        "example.h",
        "sketch.cc",
        "preprocessing.json",
        "README.md",
    }
    folder = tmp_path / "board"
    (folder / "main.cc").write_text(MAIN)
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "-o", "try", "main.cc", "model.cc"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run(["./try"], cwd=folder, capture_output=True, check=True)
    assert done.stdout == (folder / "model.tflite").read_bytes()
    assert done.stderr.decode().split() == ["4", "64", "10", "3", "0"]
    sketch = (folder / "sketch.cc").read_text()
    assert "operators.AddFullyConnected();" in sketch
    assert "$" not in sketch
    assert "not compiled" in (folder / "README.md").read_text()
    assert json.loads((folder / "preprocessing.json").read_text())["kind"] == "image"
