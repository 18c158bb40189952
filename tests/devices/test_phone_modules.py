"""The page's modules in a real browser: they train, draw, count and frame as edgekit does in Python."""

import base64
import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgekit.asks import Ask, Update
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.halves import protected
from edgekit.clients.litert import LiteRTTrainer
from edgekit.clients.torch_trainer import state
from edgekit.data import Examples, batches
from edgekit.data.audio import log_mel
from edgekit.data.settings import Audio
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.privacy import epsilon

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: make test-devices"),
]
GOLDEN = json.loads((Path(__file__).parents[1] / "clients" / "phone_frames.json").read_text())


def _coded(array):
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


def _floats(text):
    return np.frombuffer(base64.b64decode(text), np.float32)


HELP = """
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const coded = (array) => {
  const raw = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = '';
  for (const byte of raw) text += String.fromCharCode(byte);
  return btoa(text);
};
"""


@pytest.fixture(scope="module")
def made():
    model = build(Model(name="dscnn", norm="group", width=0.5), (1, 8, 8), 10, 0)
    content, _ = training_file(model, (1, 8, 8), 10, Options(8, 0.5, momentum=True, proximal=True), {})
    return model, content


TRAIN = (
    "async ({file, facts, w, x, y, settings, plan, normals}) => {"
    + HELP
    + """
  const {Trainer, loadRuntime} = await import('/phone/trainer.js');
  await loadRuntime(new URL('/phone/litert/', location.href).href);
  globalThis.trainer ??= await Trainer.load(bytes(file), facts);
  const xs = floats(x);
  const size = facts.shape.reduce((a, b) => a * b, 1);
  const examples = {count: y.length, x: (i) => xs.subarray(i * size, (i + 1) * size), y: (i) => y[i]};
  const obstacle = trainer.obstacle(floats(w), y.length, settings);
  if (obstacle) throw Error(obstacle);
  let place = 0;
  const normal = (count, deviation) => Float32Array.from({length: count}, () => deviation * normals[place++]);
  const {w: after, loss} = await trainer.train(floats(w), examples, settings, {plan, normal});
  if (place !== normals.length) throw Error(`${place} of ${normals.length} normals were drawn`);
  return {w: coded(after), loss: loss ?? null};
}"""
)


def test_the_page_trains_step_by_step_as_litert_does_in_python(settings, made, bench, blocks):
    model, content = made
    trainer = LiteRTTrainer(content)
    (block,) = blocks(21)
    weights = state(model)
    plan = batches.draw(len(block), settings, np.random.default_rng(1))
    # One batch at a time, from Python's weights each time: whole trajectories drift, as any two float32 programs' do.
    for indices in plan:
        one = dataclasses.replace(settings, epochs=1, steps=1)
        chosen = block if settings.work != "sgd" else Examples(block.x[indices], block.y[indices])
        noise = np.random.default_rng(3)
        mine = Fixed([np.arange(len(indices))] if settings.work == "sgd" else [indices])
        ours = mine.train(trainer, weights, LocalTask(chosen, np.random.default_rng(1), np.random.default_rng(3)), one)
        trainable = sum(np.prod(p["shape"], dtype=int) for p in trainer.facts["parameters"] if p["trainable"])
        drawn = trainable * (settings.work == "dp-sgd") + bool(settings.update_noise) * sum(
            a.size for a in weights.values()
        )
        found = bench.evaluate(
            TRAIN,
            {
                "file": base64.b64encode(content).decode(),
                "facts": trainer.facts,
                "w": _coded(np.concatenate([a.ravel() for a in weights.values()])),
                "x": _coded(chosen.x),
                "y": chosen.y.tolist(),
                "settings": dataclasses.asdict(one),
                "plan": [np.asarray(batch).tolist() for batch in mine.plan],
                "normals": noise.standard_normal(drawn).tolist(),
            },
        )
        sent = protected(
            Update({"weights": ours.arrays}), Ask({"weights": weights}, settings=one), partial(np.random.default_rng, 3)
        )
        after = np.concatenate([a.ravel() for a in sent.bundles["weights"].values()])
        assert np.abs(_floats(found["w"]) - after).max() < 1e-5
        assert found["loss"] is None if ours.loss is None else abs(found["loss"] - ours.loss) < 1e-5
        weights = sent.bundles["weights"] if settings.work != "clipped-sum" else weights


class Fixed:
    """Trains on a plan that was drawn before."""

    def __init__(self, plan):
        self.plan = plan

    def train(self, trainer, weights, task, settings):
        drawn, batches.draw = batches.draw, lambda *_: self.plan
        try:
            return trainer.train(Train(weights, settings), task)
        finally:
            batches.draw = drawn


def test_the_page_refuses_what_the_training_file_was_not_made_for(made, bench, blocks):
    facts = LiteRTTrainer(made[1]).facts
    found = bench.evaluate(
        """async ({facts}) => {
  const {Trainer} = await import('/phone/trainer.js');
  const trainer = Object.assign(new Trainer(), {facts, batch: facts.batch, total: 10});
  const w = new Float32Array(10);
  const sgd = {work: 'sgd', batch_size: 8};
  return [
    trainer.obstacle(w, 5, sgd) ?? 'fine', trainer.obstacle(new Float32Array(9), 5, sgd), trainer.obstacle(w, 0, sgd),
    trainer.obstacle(w, 5, {work: 'sgd', batch_size: 9}), trainer.obstacle(w, 5, {work: 'dp-sgd', clip: 1}),
    trainer.obstacle(w, 5, {work: 'mining'}),
  ];
}""",
        {"facts": facts},
    )
    assert found[0] == "fine"
    for said, wanted in zip(found[1:], ("10", "no examples", "at most 8", "clips at 0.5", "unknown work"), strict=True):
        assert wanted in said


WORKER = (
    "async ({file, facts, task, w, examples, works}) => {"
    + HELP
    + """
  const store = await import('/phone/store.js');
  await store.wipe();
  for (const [x, label] of examples) await store.add('examples', {x: Float32Array.from(x), label});
  const worker = new Worker('/phone/worker.js');
  let asked = 0;
  const work = (action, given) => new Promise((resolve, reject) => {
    const id = ++asked;
    const listen = ({data}) => {
      if (data.id !== id || data.step) return;
      worker.removeEventListener('message', listen);
      if (data.error) reject(Object.assign(Error(data.error.message), {name: data.error.name}));
      else resolve(data.result);
    };
    worker.addEventListener('message', listen);
    worker.postMessage({id, action, given});
  });
  await work('load', {name: 't', facts: task, training: facts, graph: bytes(file)});
  const said = [];
  for (const {settings, forget, cutOff, name} of works) {
    if (forget) await store.remove('files', 'reply');
    if (cutOff) {
      for (const key of await store.keys('ledger')) {
        await store.put('ledger', key, {...(await store.get('ledger', key)), answered: false});
      }
    }
    try {
      const given = {name: name ?? 't', settings, w: floats(w), planned: task.planned};
      const {w: after, examples: count} = await work('train', given);
      said.push({w: coded(after), count});
    } catch (error) {
      said.push({error: `${error.name}: ${error.message}`});
    }
    said.at(-1).charges = await store.count('ledger');
  }
  worker.terminate();
  return said;
}"""
)


def test_the_same_work_is_charged_once_and_told_again_only_if_it_is_paid_again(made, bench, blocks):
    model, content = made
    facts = LiteRTTrainer(content).facts
    (block,) = blocks(12)
    planned = {
        "noise_multiplier": 1.0,
        "sample_rate": 0.5,
        "steps": 10,
        "delta": 1e-5,
        "reports": 0,
        "reports_noise": 8.0,
    }
    task = {
        "shape": [1, 8, 8],
        "classes": [str(n) for n in range(10)],
        "activity": "draw",
        "run": "r",
        "planned": planned,
    }
    work = dataclasses.asdict(LocalSettings("dp-sgd", steps=2, sample_rate=0.5, clip=0.5, noise_multiplier=1.0))
    other = {**work, "learning_rate": 0.05}
    strangers = [[[0.5] * 784, "1"], [[0.5] * 64, "horse"]]  # of an earlier task
    found = bench.evaluate(
        WORKER,
        {
            "file": base64.b64encode(content).decode(),
            "facts": facts,
            "task": task,
            "w": _coded(np.concatenate([a.ravel() for a in state(model).values()])),
            "examples": [[x.ravel().tolist(), str(y)] for x, y in zip(block.x, block.y, strict=True)] + strangers,
            "works": [
                {"settings": work},
                {"settings": work},  # asked again: the same bytes
                {"settings": other},
                {"settings": work},  # its reply has gone: other noise, paid again
                {"settings": work, "forget": True, "cutOff": True},  # never answered: free
                {"settings": work, "name": "another"},
                {"settings": {**work, "learning_rate": 1e39}},  # charged, though nothing comes of it
                {"settings": {**work, "learning_rate": 0.01}},
                {"settings": {**work, "learning_rate": 0.02}},
            ],
        },
    )
    assert [entry["charges"] for entry in found] == [1, 1, 2, 3, 3, 3, 4, 5, 5]
    assert found[1]["w"] == found[0]["w"]
    assert len({found[n]["w"] for n in (0, 2, 3, 4)}) == 4
    assert {entry["count"] for entry in found[:5]} == {12}
    assert found[5]["error"] == "Error: the page has another task"
    assert found[6]["error"] == "Error: training gave numbers that are not finite"
    assert found[8]["error"].startswith("PrivacyError: this phone spends epsilon")


def test_the_page_scores_pictures_of_several_channels_as_litert_does(bench, blocks):
    model = build(Model(name="dscnn", norm="group", width=0.5), (3, 8, 8), 5, 0)
    content, _ = training_file(model, (3, 8, 8), 5, Options(8, 0.5, momentum=False, proximal=False), {})
    trainer = LiteRTTrainer(content)
    (block,) = blocks(11, shape=(3, 8, 8))
    found = bench.evaluate(
        "async ({file, facts, w, x}) => {"
        + HELP
        + """
  const {Trainer, loadRuntime} = await import('/phone/trainer.js');
  await loadRuntime(new URL('/phone/litert/', location.href).href);
  return coded(await (await Trainer.load(bytes(file), facts)).scores(floats(w), floats(x), 11));
}""",
        {
            "file": base64.b64encode(content).decode(),
            "facts": trainer.facts,
            "w": _coded(np.concatenate([a.ravel() for a in state(model).values()])),
            "x": _coded(block.x),
        },
    )
    assert np.abs(_floats(found).reshape(11, 5) - trainer.scores(state(model), block.x)).max() < 1e-5


def test_the_pages_accountant_is_the_devices(bench):
    histories = [
        [[noise, rate, steps]]
        for noise in (0.5, 1.0, 4.2, 50.0)
        for rate in (0.001, 0.05, 0.5, 1.0)
        for steps in (1, 300)
    ]
    histories += [[], [[1.0, 0.1, 10], [8.0, 1.0, 5]], [[1e-4, 0.1, 1]], [[float(2**-20), 1.0, 1]], [[1.0, 0.1, 0]]]
    found = bench.evaluate(
        """async (histories) => {
  const {epsilon} = await import('/phone/ledger.js');
  return histories.map((history) => [1e-5, 1e-3].map((delta) => String(epsilon(history, delta))));
}""",
        histories,
    )
    for history, texts in zip(histories, found, strict=True):
        for delta, text in zip((1e-5, 1e-3), texts, strict=True):
            wanted = epsilon([tuple(part) for part in history], delta, "pld-numpy")
            assert float(text.replace("Infinity", "inf")) == pytest.approx(wanted, rel=1e-6, abs=1e-9), (history, delta)


def test_the_pages_ledger_refuses_to_overspend(bench):
    found = bench.evaluate(
        """async () => {
  const {affordable, limitOf, PrivacyError} = await import('/phone/ledger.js');
  const planned = {noise_multiplier: 2, sample_rate: 0.2, steps: 20, delta: 1e-5};
  const round = {work: 'dp-sgd', noise_multiplier: 2, sample_rate: 0.2, steps: 5};
  const spent = [];
  const said = [];
  for (let i = 0; i < 6; i++) {
    try {
      const {charge, plan} = affordable(round, 'r', planned, spent);
      spent.push({charge, plan, when: i});
      said.push('');
    } catch (error) {
      if (!(error instanceof PrivacyError)) throw error;
      said.push(error.message);
    }
  }
  // Each plan and each kind of noise has a smaller delta than the one before: none is free.
  const bare = {noise_multiplier: 0.01, sample_rate: 9.9e-6, steps: 1, delta: 1e-5};
  const {charge, plan} = affordable({work: 'dp-sgd', ...bare}, 'a', bare, []);
  try {
    affordable({work: 'dp-sgd', ...bare}, 'b', {...bare, sample_rate: 9.8e-6}, [{charge, plan, when: 1}]);
    said.push('');
  } catch (error) { said.push(error.message); }
  try { affordable({work: 'sgd'}, 'r', planned, []); } catch (error) { said.push(error.message); }
  return said;
}"""
    )
    assert found[:4] == [""] * 4
    assert all("and no more" in text for text in found[4:6])
    assert "and no more" in found[6]
    assert found[7] == "the round asks for an update without noise of this phone's own"


def test_the_pages_random_numbers_are_what_privacy_counts_on(bench):
    found = bench.evaluate(
        """async () => {
  const {normal, plan, uniform} = await import('/phone/random.js');
  const noise = normal(200001, 2);
  const moment = (p) => noise.reduce((sum, value) => sum + value ** p, 0) / noise.length;
  const batches = plan(500, {work: 'dp-sgd', steps: 400, sample_rate: 0.1});
  const hits = Array(500).fill(0);
  for (const batch of batches) for (const i of batch) hits[i]++;
  const shuffled = plan(21, {work: 'sgd', epochs: 2, batch_size: 8});
  return {moments: [1, 2, 4].map(moment), sizes: batches.map((batch) => batch.length), hits,
    shuffled, low: Math.min(...Array.from({length: 1e5}, uniform)), other: normal(5, 1).join() !== normal(5, 1).join()};
}"""
    )
    mean, variance, fourth = found["moments"]
    assert abs(mean) < 0.03
    assert variance == pytest.approx(4, rel=0.02)
    assert fourth == pytest.approx(3 * 16, rel=0.06)
    assert np.mean(found["sizes"]) == pytest.approx(50, rel=0.03)
    assert np.var(found["sizes"]) == pytest.approx(45, rel=0.35)  # of a binomial: Poisson sampling, not fixed batches
    assert np.var(found["hits"]) == pytest.approx(36, rel=0.35)
    assert [len(batch) for batch in found["shuffled"]] == [8, 8, 5, 8, 8, 5]
    for epoch in (found["shuffled"][:3], found["shuffled"][3:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(21))
    assert found["low"] >= 0
    assert found["other"]


def test_the_page_reads_and_writes_the_golden_frames(bench):
    found = bench.evaluate(
        """async (golden) => {
  const {pack, unpack} = await import('/phone/frames.js');
  const KINDS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
  const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16)).buffer;
  const plain = (arrays) => JSON.stringify(
    Object.entries(arrays).map(([name, {shape, data}]) => [name, shape, data.constructor.name, [...data]]));
  const wrong = [];
  for (const {name, type, facts, arrays, hex: wanted} of golden.good) {
    const made = Object.fromEntries(
      arrays.map(({name, dtype, shape, values}) => [name, {shape, data: KINDS[dtype].from(values)}]));
    const found = unpack(bytes(wanted));
    if (hex(pack(type, facts, made)) !== wanted) wrong.push(`${name}: packed otherwise`);
    if (found.type !== type || plain(found.arrays) !== plain(made)) wrong.push(`${name}: read otherwise`);
    if (JSON.stringify(found.facts) !== JSON.stringify(facts)) wrong.push(`${name}: other facts`);
  }
  for (const {name, hex: content} of golden.bad) {
    try {
      unpack(bytes(content));
      wrong.push(`${name}: was taken`);
    } catch (error) {
      if (error.constructor.name !== 'FrameError') wrong.push(`${name}: ${error}`);
    }
  }
  return wrong;
}""",
        GOLDEN,
    )
    assert found == []


def test_spoken_words_have_the_features_of_the_experiments_data(bench):
    rng = np.random.default_rng(0)
    for settings in (Audio(), Audio(sample_rate=16000, seconds=0.5, mel_bands=40, window_ms=25.0, hop_ms=10.0)):
        length = int(settings.sample_rate * settings.seconds)
        ramp = np.arange(length) / settings.sample_rate
        sound = (0.3 * np.sin(2 * np.pi * (300 + 900 * ramp) * ramp) + 0.01 * rng.standard_normal(length)).astype("f")
        found = bench.evaluate(
            "async ({samples, settings}) => {"
            + HELP
            + """
  const {logMel} = await import('/phone/speak.js');
  return coded(logMel(floats(samples), settings));
}""",
            {"samples": _coded(sound[: length - 100]), "settings": settings.model_dump()},
        )
        wanted = log_mel(sound[: length - 100], settings)
        assert np.abs(_floats(found) - wanted.ravel()).max() < 1e-4


def test_a_word_is_recorded_by_the_microphone(phone, files):
    page = phone(permissions=["microphone"])
    page.goto(f"{files}/phone/litert/README.txt")
    found = page.evaluate(
        """async (settings) => {
  const {record, logMel} = await import('/phone/speak.js');
  let loudest = 0;
  const word = await record(settings, (level) => { loudest = Math.max(loudest, level); });
  return [word.length, loudest, Math.max(...logMel(word, settings))];
}""",
        Audio().model_dump(),
    )
    assert found[0] == round(8000 * 0.64)
    assert found[1] > 0.01  # Chromium's fake microphone beeps
    assert found[2] > 0.3


def test_a_movement_is_recorded_by_the_sensors(bench):
    found = bench.evaluate(
        """async () => {
  const {record, sampled, MoveError} = await import('/phone/move.js');
  const event = (x) => new DeviceMotionEvent('devicemotion', {accelerationIncludingGravity: {x, y: 9.81, z: -x}});
  const shaking = setInterval(() => dispatchEvent(event(10 * Math.sin(performance.now() / 50))), 16);
  const moved = await record([3, 8, 8]);
  clearInterval(shaking);
  let refused = '';
  try {
    await record([3, 8, 8]);
  } catch (error) {
    refused = error instanceof MoveError ? error.message : String(error);
  }
  const ramp = sampled(Array.from({length: 101}, (_, i) => [20 * i, i, 0, 100]), [3, 8, 8]);
  return {moved: [...moved], refused, ramp: [...ramp]};
}"""
    )
    x, y, z = np.array(found["moved"]).reshape(3, 64)
    assert x.max() > 0.3
    assert x.min() < -0.3
    assert np.allclose(y, 9.81 / 20)
    assert np.allclose(z, -x, atol=1e-6)
    assert found["refused"] == "permission"  # nothing comes: there is no sensor
    x, _, z = np.array(found["ramp"]).reshape(3, 64)
    assert np.allclose(x, np.minimum(np.arange(64) * 2000 / 64 / 20 / 20, 3), atol=1e-5)
    assert np.allclose(z, 3)  # cut off at what no hand does
