"""`edgekit new --data`: an experiment that fits, whatever the data is, and can be run."""

import tomllib
import wave

import numpy as np
import pytest
from PIL import Image

from edgekit import experiment as experiments
from edgekit.errors import DataError
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.pipeline.suggesting import suggest


def _table(folder):
    rows = [f"{n % 9},{'ab'[n % 2]},s{n % 4},{'yes' if n % 3 else 'no'}\n" for n in range(120)]
    (folder / "t.csv").write_text("heat,mode,site,label\n" + "".join(rows))
    return "t.csv"


def _numbers(folder):
    (folder / "p.csv").write_text("size,price\n" + "".join(f"{n % 17},{n % 17 * 1.5 + 0.25}\n" for n in range(120)))
    return "p.csv"


def _pictures(folder):
    for kind in ("cat", "dog"):
        (folder / "pictures" / kind).mkdir(parents=True)
        for place in range(30):
            Image.new("RGB", (90, 60), (place, 3, 8)).save(folder / "pictures" / kind / f"{place}.png")
    return "pictures"


def _recordings(folder):
    for kind in ("on", "off"):
        (folder / "sounds" / kind).mkdir(parents=True)
        for place in range(30):
            with wave.open(str(folder / "sounds" / kind / f"{place}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(16000)
                file.writeframes(np.full(8000, place, "<i2").tobytes())
    return "sounds"


def _arrays(folder):
    np.savez(folder / "a.npz", x=np.random.default_rng(0).random((80, 6, 20), np.float32), y=np.arange(80) % 4)
    return "a.npz"


@pytest.mark.parametrize(
    ("make", "network", "expected"),
    [
        (_table, "mlp", {"partition": "natural", "table": {"label": "label", "group": "site"}}),
        (_numbers, "mlp", {"partition": "iid", "clients": 6}),
        (_pictures, "dscnn", {"images": {"height": 43, "width": 64, "grayscale": False}}),
        (_recordings, "tcn", {"audio": {"sample_rate": 16000, "seconds": 0.5}}),
        (_arrays, "dscnn", {"clients": 4}),
    ],
)
def test_the_experiment_fits_and_its_network_can_be_built(make, network, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = suggest(make(tmp_path)).text()
    settings = tomllib.loads(text)
    assert settings["model"]["name"] == network
    assert {key: settings["data"].get(key) for key in expected} == expected
    experiment = experiments.of(settings)
    build_network(experiment, load_dataset(experiment))
    assert all("#" not in line or " #" in line or line.startswith("#") for line in text.splitlines())


def test_the_command_writes_it_and_refuses_in_a_line(edgekit, fails, tmp_path):
    name = _table(tmp_path)
    done = edgekit("new", "--data", name, "mine.toml", cwd=tmp_path)
    assert "2 classes: no, yes" in done.stdout
    (tmp_path / "odd.xyz").write_text("?")
    (tmp_path / "empty").mkdir()
    for data, more, code, told in (
        ("gone.csv", [], 1, "does not exist"),
        ("odd.xyz", [], 1, "give a .csv, .parquet or .npz"),
        ("empty", [], 1, "holds no pictures"),
        (name, ["--label", "labl"], 1, "did you mean 'label'"),
        (name, ["--model", "mlp"], 2, "give --model or --data"),
    ):
        fails(edgekit("new", "--data", data, "new.toml", *more, cwd=tmp_path), code, told)
        assert not (tmp_path / "new.toml").exists()
    with pytest.raises(DataError, match="is no table"):
        suggest("digits", "label")


def test_headings_and_labels_cannot_write_into_the_file(tmp_path):
    rows = "".join(f'{n},"{"ab"[n % 2]}\n[training]\nepochs = 7\n#"\n' for n in range(40))
    (tmp_path / "t.csv").write_text(f'x,"label\n[serve]\nnodes = 9"\n{rows}')
    settings = tomllib.loads(suggest(str(tmp_path / "t.csv")).text())
    assert settings["training"]["epochs"] == 2
    assert "serve" not in settings


def test_prices_are_numbers_and_a_few_whole_ones_are_classes(tmp_path):
    (tmp_path / "t.csv").write_text("a,price\n" + "".join(f"{n},{1000 + 37 * (n % 90)}\n" for n in range(400)))
    assert tomllib.loads(suggest(str(tmp_path / "t.csv")).text())["objective"]["name"] == "regression"
