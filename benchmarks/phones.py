"""What phones cost: steps in the page against native LiteRT, its weight, a round's overhead, fifty phones.

    python benchmarks/phones.py [--json] [--phones 50]

Pages run in headless Chromium; the fifty are scripts that send back the weights that came. The gateway is bound to one
core.
"""

import argparse
import base64
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fleet import QUICK, Federation, write_digits
from scripted_phone import ScriptedPhone

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--ignore-certificate-errors"]
STEPS = 200
STEP_SCRIPT = """
async ({file, facts, w, x, y, steps}) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const {Trainer, loadRuntime} = await import('/phone/trainer.js');
  await loadRuntime(new URL('/phone/litert/', location.href).href);
  const trainer = await Trainer.load(bytes(file), facts);
  const [weights, xs] = [floats(w), floats(x)];
  const size = facts.shape.reduce((a, b) => a * b, 1);
  const examples = {count: y.length, x: (i) => xs.subarray(i * size, (i + 1) * size), y: (i) => y[i]};
  const indices = y.map((_, i) => i).slice(0, facts.batch);
  const settings = {work: 'sgd', learning_rate: 0.1};
  const train = (count) => trainer.train(weights, examples, settings, {plan: Array(count).fill(indices)});
  await train(20);
  const times = [];
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    await train(steps / 5);
    times.push((performance.now() - start) / (steps / 5));
  }
  return times;
}
"""


def step_ratio(browser: Any) -> dict[str, float]:
    """Return milliseconds of a training step of the example's network, natively and in the page, and the ratio."""
    import uvicorn
    from starlette.applications import Starlette

    from edgekit.clients import LocalSettings, LocalTask, Train
    from edgekit.clients.litert import LiteRTTrainer
    from edgekit.clients.phone.pages import Guarded, page_routes
    from edgekit.clients.torch_trainer import state
    from edgekit.data import Examples
    from edgekit.export.training.file import training_file
    from edgekit.export.training.steps import Options
    from edgekit.models import build
    from edgekit.models.settings import Model

    model = build(Model(name="dscnn"), (1, 8, 8), 10, 0)
    content, _ = training_file(model, (1, 8, 8), 10, Options(16, 1.0, momentum=False, proximal=False), {})
    trainer, weights = LiteRTTrainer(content), state(model)
    rng = np.random.default_rng(0)
    block = Examples(rng.random((16, 1, 8, 8), np.float32), rng.integers(0, 10, 16).astype(np.int64))

    def native(steps: int) -> float:
        settings = LocalSettings(batch_size=16, epochs=steps)
        begun = time.perf_counter()
        trainer.train(Train(weights, settings), LocalTask(block, np.random.default_rng(0), np.random.default_rng(0)))
        return 1000 * (time.perf_counter() - begun) / steps

    native(20)
    server = uvicorn.Server(uvicorn.Config(Guarded(Starlette(routes=page_routes())), port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    base = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    page = browser.new_page()
    page.goto(f"{base}/phone/litert/README.txt")

    def coded(array: np.ndarray[Any, Any]) -> str:
        return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()

    given = {
        "file": base64.b64encode(content).decode(),
        "facts": trainer.facts,
        "w": coded(np.concatenate([array.ravel() for array in weights.values()])),
        "x": coded(block.x),
        "y": block.y.tolist(),
        "steps": STEPS,
    }
    here = [native(STEPS // 5) for _ in range(3)]
    there = page.evaluate(STEP_SCRIPT, given)
    here += [native(STEPS // 5) for _ in range(3)]  # before and after: the machine is shared
    page.close()
    server.should_exit = True
    native_ms, page_ms = statistics.median(here), statistics.median(there)
    return {"native_step_ms": native_ms, "page_step_ms": page_ms, "step_ratio_to_native": page_ms / native_ms}


def page_rounds(browser: Any, place: Path, rounds: int = 40) -> dict[str, float]:
    """Return what a round with one page takes beyond one with a resident LiteRT node, and what the page weighs."""
    settings = (f"federation.rounds={rounds}", "serve.nodes=1")
    (part,) = write_digits(place, 1, 80)
    with Federation(place / "node", (*QUICK, *settings)) as one:
        one.serve(codes=1)
        one.join("n", "--data", f"npz:{part}", "--trainer", "litert")
        one.wait_for_end(200)
        node = statistics.median(line["seconds"] for line in one.rounds()[5:])
    with Federation(place / "page", (*QUICK, *settings)) as one:
        one.serve_phones()
        link = one.phone_link()
        one.wait(lambda: "the task" in (one.run / "logs" / "phones.log").read_text(), 60, "the task")
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 390, "height": 844})
        page = context.new_page()
        answers: list[Any] = []
        context.on("response", lambda answer: answers.append(answer))
        begun = time.monotonic()
        page.goto(link)
        page.wait_for_selector("#consent:visible")
        interactive = time.monotonic() - begun
        page.click("#consent")
        page.click("#practise")
        page.click("#start:not([disabled])")
        one.wait_for_end(200)
        paged = statistics.median(line["seconds"] for line in one.rounds()[5:])
        loaded = {answer.url: _size(answer) for answer in answers}
        context.close()
    return {
        "round_with_node_ms": 1000 * node,
        "round_with_page_ms": 1000 * paged,
        "round_overhead_ms": 1000 * (paged - node),
        "interactive_s": interactive,
        "page_weight_mb": sum(loaded.values()) / 1e6,
    }


def _size(response: Any) -> int:
    """Return what a response took on the wire."""
    try:
        return int(response.header_value("content-length") or 0)
    except Exception:  # it belongs to a page that is gone
        return 0


def many(place: Path, phones: int, rounds: int = 12) -> dict[str, float]:
    """Return how long a round of so many scripted phones takes, and how much of its one core the gateway uses."""
    shared = ("data.partition=iid", f"data.clients={phones}")
    settings = (f"federation.rounds={rounds}", f"serve.nodes={phones}", f"federation.cohort={phones}", *shared)
    with Federation(place / "many", (*QUICK, *settings)) as one:
        one.serve_phones()
        made = []
        for _ in range(phones):
            made.append(ScriptedPhone(one.phone_link()))
            made[-1].take_part()
        gateway = one.gateway()
        os.sched_setaffinity(gateway, {0})
        one.wait_for_round(2, 300)
        begun, cpu, first = time.monotonic(), _cpu(gateway), len(one.rounds())
        one.wait_for_end(400)
        took, used = time.monotonic() - begun, _cpu(gateway) - cpu
        lines = one.rounds()
        memory = _memory(gateway)
        for phone in made:
            phone.close()
    done = lines[first:]
    return {
        "phones": phones,
        "round_of_many_s": statistics.median(line["seconds"] for line in done),
        "replies_of_many": min(line["replies"] for line in done),
        "gateway_cpu_ms_a_phone_and_round": 1000 * used / (phones * len(done)),
        "gateway_core_share": used / took,
        "gateway_memory_mb": memory,
    }


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--phones", type=int, default=50)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not installed: make test-devices installs it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        found = {**step_ratio(browser), **page_rounds(browser, Path(folder))}
        browser.close()
        found |= many(Path(folder), given.phones)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:36}{value:10.2f}")


if __name__ == "__main__":
    main()
