"""Files that take sound: the features inside are numpy's, and the scores the network's, in both runtimes."""

import wave

import numpy as np
import pytest
import torch

from edgekit.data.audio import log_mel
from edgekit.data.settings import Audio
from edgekit.errors import ExportError
from edgekit.export.front_end import LogMel, settings_of, tried, write_sound
from edgekit.models.registry import build
from edgekit.models.settings import Model
from edgekit.pipeline.predicting import predict

SETTINGS = Audio(sample_rate=8000, seconds=0.3, mel_bands=16)
FACTS = {"mean": 0.0, "std": 1.0, "features": "log-mel", **SETTINGS.model_dump(exclude={"pattern"})}


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        Audio(),
        Audio(sample_rate=16000, seconds=1.0, mel_bands=40, window_ms=25, hop_ms=10),
        Audio(window_ms=31),
    ],
)
def test_the_features_are_numpys(settings):
    front = LogMel(settings)
    sounds = tried(settings, front.samples)
    sounds[-1] = 0  # silence
    with torch.no_grad():
        found = front(torch.from_numpy(sounds)).numpy()
    np.testing.assert_allclose(found, np.stack([log_mel(one, settings) for one in sounds]), atol=1e-4)


def test_a_file_that_takes_sound_answers_as_the_network_for_its_features(tmp_path, old_runtime):
    front = LogMel(SETTINGS)
    features = np.stack([log_mel(one, SETTINGS) for one in tried(SETTINGS, front.samples)])
    model = build(Model(name="dscnn", norm="weight-standardised", width=0.5), features.shape[1:], 3, 0, features).eval()
    (tmp_path / "export").mkdir()
    runtimes = ["ai-edge-litert", old_runtime]
    made = write_sound(model, FACTS, ["a", "b", "c"], tmp_path / "export", {"name": "tried"}, runtimes)
    assert made["max_feature_error"] < 1e-4
    assert made["max_error"] < 1e-4
    assert len(made["latency_us"]) == 2
    samples = np.random.default_rng(1).standard_normal(2000) * 4000
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.astype("<i2").tobytes())
    (row,) = predict(tmp_path / "export/sound.tflite", tmp_path / "a.wav").rows
    with torch.no_grad():
        heard = log_mel((samples.astype("<i2") / np.float32(32768)).astype(np.float32), SETTINGS)
        chances = torch.softmax(model(torch.from_numpy(heard[None])), 1)[0]
    assert row["class"] == "abc"[int(chances.argmax())]
    assert row["score"] == pytest.approx(float(chances.max()), abs=1e-4)


def test_other_data_is_refused_before_training():
    with pytest.raises(ExportError, match="for networks of recordings"):
        settings_of({"mean": 0.0, "std": 255.0})
