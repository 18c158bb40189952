"""Spoken words and movements, from consent to a guess: real recordings played to the page's microphone, and virtual
sensors that move as hands do."""

import base64
import shutil
import wave

import numpy as np
import pytest
from playwright.sync_api import sync_playwright
from scipy.signal import resample_poly

from edgekit.data.audio import log_mel
from edgekit.data.gestures import SAMPLES, SCALE, SECONDS, simulate
from edgekit.data.settings import Audio

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: make test-devices"),
]
QUICK = (
    "spiking.enabled=false", 'export.presets=["int8"]', "export.tolerance=0.9",
    "privacy.unit=none", "federation.average_last=0.0", "training.epochs=1", "serve.nodes=1",
)  # fmt: skip
RATE = 8000
SAID, SPEAKER = 7, 0
PERIOD = 0.9
"""Seconds from one word to the next: whatever second and a half is heard, a whole word is in it."""


def _write(path, samples, rate):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def words(large_data, tmp_path):
    """A folder of spoken digits, a subfolder a digit; and one of them, over and over, as a microphone hears it."""
    with np.load(large_data / "fsdd.npz") as found:
        ends = np.cumsum(found["length"])
        samples, labels, speakers, index = (found[name] for name in ("samples", "label", "speaker", "index"))
        spoken = np.split(samples, ends[:-1])
    chosen = {}
    for number, sound in enumerate(spoken):
        if index[number] < 8:
            name = f"{speakers[number]}_{index[number]}.wav"
            _write(tmp_path / "words" / str(labels[number]) / name, sound, RATE)
        if speakers[number] == SPEAKER and index[number] == 0:
            chosen[int(labels[number])] = sound
    heard = np.zeros(round(PERIOD * RATE), np.int16)
    heard[: len(chosen[SAID])] = chosen[SAID]
    loud = np.clip(resample_poly(heard.astype(np.float64), 6, 1), -32000, 32000)
    _write(tmp_path / "heard.wav", loud, 6 * RATE)
    return tmp_path / "words", tmp_path / "heard.wav", chosen


def _examples(page):
    """Return the examples that the page keeps: their labels, and their numbers."""
    found = page.evaluate(
        """async () => {
  const store = await import('/phone/store.js');
  const coded = (x) => btoa(String.fromCharCode(...new Uint8Array(x.buffer, x.byteOffset, x.byteLength)));
  return (await store.all('examples')).map(({x, label}) => [label, coded(x)]);
}"""
    )
    return [(label, np.frombuffer(base64.b64decode(text), np.float32)) for label, text in found]


def test_words_are_spoken_learnt_and_guessed_and_a_microphone_that_is_refused_is_said(federation, words):
    folder, heard, chosen = words
    more = ("model.name=mlp", "model.arguments={}", "data.clients=4", "federation.rounds=400")
    one = federation(f'data.source="audio:{folder}"', *more, base=QUICK)
    one.serve_phones()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--mute-audio"]
        flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={heard}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        context = browser.new_context(viewport={"width": 390, "height": 844}, ignore_https_errors=True)
        context.set_default_timeout(300_000)
        page = context.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(one.phone_link())
        page.wait_for_selector("#consent:visible")
        assert "Your recordings. They are never sent." in page.inner_text("#about")
        page.click("#consent")

        # Nobody allowed the microphone.
        page.click("#maker button:has-text('Record')")
        page.wait_for_selector("#notice:has-text('microphone')")
        assert _examples(page) == []
        page.click("#practise")
        page.wait_for_selector("#notice:has-text('no practice examples')")

        context.grant_permissions(["microphone"])
        for number in range(10):
            page.wait_for_selector(f"#examples-task:has-text('say “{number}”')")
            page.click("#maker button:has-text('Record')")
            page.wait_for_selector("#maker button:has-text('Recording')")
            page.wait_for_selector("#maker button:text-is('Record')")
        page.wait_for_selector("#examples-count:has-text('10 examples')")
        page.click("#start")
        page.wait_for_selector("#sent-list li:has-text('what was learnt')", state="attached")
        page.click("#tester button:has-text('Record')")
        page.wait_for_selector("#guess:visible")
        assert "The network sees" in page.inner_text("#guess")
        kept = _examples(page)
        browser.close()
    assert errors == []
    assert [label for label, _ in kept] == [str(number) for number in range(10)]
    # What was heard is what was said: its spectrum is that word's, of all ten that this speaker says.
    settings = Audio()
    spectra = {label: log_mel(sound.astype(np.float32) / 32768, settings)[0].max(1) for label, sound in chosen.items()}
    for _, features in kept:
        mine = features.reshape(settings.mel_bands, -1).max(1)
        likeness = {label: np.corrcoef(mine, spectrum)[0, 1] for label, spectrum in spectra.items()}
        assert max(likeness, key=likeness.get) == SAID, likeness
        assert likeness[SAID] > 0.95


def test_movements_are_felt_learnt_and_guessed(federation, phone):
    network = ("model.name=dscnn", "model.norm=group", "model.arguments.depthwise_activation=true")
    one = federation("data.source=gestures", "data.clients=4", "federation.rounds=400", *network, base=QUICK)
    one.serve_phones()
    page = phone()
    page.come_in(one.phone_link())
    page.click("#consent")

    # Here are no sensors.
    page.click("#maker button:has-text('Record')")
    page.wait_for_selector("#notice:has-text('motion')")
    assert _examples(page) == []
    page.click("#practise")
    page.wait_for_selector("#examples-count:has-text('80 practice examples')")
    assert not page.is_visible("#notice")  # what was wrong is not in the way any more
    page.click("#start")
    page.wait_for_selector("#sent-list li:has-text('what was learnt')", state="attached")
    one.wait(
        lambda: max((line["accuracy"] for line in one.rounds()), default=0) > 0.9,
        240,
        "a network that knows the movements",
    )

    devtools = page.context.new_cdp_session(page)
    kinds = ("accelerometer", "linear-acceleration", "gyroscope")
    for kind in kinds:
        devtools.send("Emulation.setSensorOverrideEnabled", {"enabled": True, "type": kind})
    right = 0
    for number, name in enumerate(("shake", "chop", "twist", "still")):
        felt = SCALE * simulate(name, np.random.default_rng(number)).reshape(3, SAMPLES)
        page.click("#tester button:has-text('Record')")
        while page.locator("#tester button:has-text('Recording')").count():
            now = page.evaluate("performance.now() / 1000") % SECONDS
            x, y, z = (float(np.interp(now, np.arange(SAMPLES) * SECONDS / SAMPLES, axis)) for axis in felt)
            for kind in kinds:
                reading = {"xyz": {"x": x, "y": y, "z": z}}
                devtools.send("Emulation.setSensorOverrideReadings", {"type": kind, "reading": reading})
        page.wait_for_selector("#guess:visible")
        page.wait_for_timeout(300)
        right += f"The network sees: {name}" in page.inner_text("#guess")
    assert right >= 3
    assert page.stumbles() == []
    assert page.errors == []
