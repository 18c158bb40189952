"""The folder for an app's developer in a real browser: its module gives the scores that the folder promises."""

import functools
import gzip
import http.server
import json
import shutil
import threading
from importlib.resources import files

import numpy as np
import pytest

from edgekit.pipeline.handing import hand_over

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: make test-devices"),
]


@pytest.fixture
def place(trained_run, tmp_path):
    """A web server with the folder, and LiteRT.js as its developer would install it."""
    hand_over(trained_run, tmp_path / "app")
    (tmp_path / "litert").mkdir()
    for file in files("edgekit.clients.phone.page").joinpath("litert").iterdir():
        content = file.read_bytes()
        if file.name.endswith(".gz"):
            content = gzip.decompress(content)
        (tmp_path / "litert" / file.name.removesuffix(".gz")).write_bytes(content)
    (tmp_path / "index.html").write_text("<!doctype html><title>app</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_module_for_browsers_gives_the_promised_scores(place, phone, tmp_path):
    page = phone()
    page.goto(f"{place}/index.html")
    held = json.loads((tmp_path / "app/example.json").read_text())
    found = page.evaluate(
        """async ({inputs}) => {
  const {loadAndCompile, loadLiteRt, Tensor} = await import('/litert/core.js');
  const {open, pixels, softmax} = await import('/app/classify.mjs');
  await loadLiteRt('/litert/');
  const facts = await (await fetch('/app/preprocessing.json')).json();
  const model = await open({loadAndCompile, Tensor}, '/app/model.tflite', facts);
  const scores = [];
  for (const x of inputs) scores.push(Array.from(await model.scores(x)));
  const canvas = document.createElement('canvas');
  canvas.width = 16; canvas.height = 16;
  canvas.getContext('2d').fillStyle = '#808080';
  canvas.getContext('2d').fillRect(0, 0, 16, 16);
  return {scores, answer: await model.classify(inputs[0]), grey: pixels(canvas, facts), chances: softmax(scores[0])};
}""",
        {"inputs": [np.ravel(x).tolist() for x in held["inputs"]]},
    )
    np.testing.assert_allclose(found["scores"], held["scores"], atol=1e-4)
    assert found["answer"]["label"] == str(int(np.argmax(held["scores"][0])))
    assert abs(sum(found["chances"]) - 1) < 1e-9
    np.testing.assert_allclose(found["grey"], np.full(64, 128 / 255), atol=1e-6)
