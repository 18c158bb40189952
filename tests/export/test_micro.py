"""TFLite Micro as a runtime, and whether networks fit microcontrollers."""

import json

import pytest

from edgekit.devices.profile import load, names
from edgekit.errors import ExportError, UsageError
from edgekit.export import runtimes
from edgekit.export.memory import needs
from edgekit.export.tflite import Subject, export
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.pipeline.fitting import KERNELS, fit


@pytest.fixture(scope="module")
def subject(digits):
    model = build(Model(name="dscnn", arguments={"channels": [8, 16]}), digits.shape, 10, 0, digits.calibration.x)
    return Subject.of(model, digits)


def test_float_and_integer_files_run_as_torch_does(subject, tmp_path):
    made = export(subject, ["float32", "int8", "int8-full"], tmp_path, {}, 0.2, ("ai-edge-litert", runtimes.MICRO))
    assert made["float32"].max_abs_error < 1e-4
    for preset, one in made.items():
        assert len(one.runtimes) == 2
        found = needs(one.path.read_bytes())
        assert one.arena >= found["activations"] > 0  # the arena holds what is alive, and what it keeps beside
        assert one.arena < found["activations"] + 16_000
        assert found["file"] == one.bytes > found["constants"], preset
    assert made["int8-full"].arena < made["float32"].arena
    assert "arena" in made["int8"].facts(tmp_path)


def test_what_is_alive_at_once_is_what_micro_plans_for(subject, tmp_path):
    """Its planner shares memory between tensors whose lives do not meet: without in-place tricks that is this sum."""
    made = export(subject, ["float32"], tmp_path, {}, 0.2, (runtimes.MICRO,))["float32"]
    content = made.path.read_bytes()
    assert needs(content)["activations"] == pytest.approx(made.arena, rel=0.5)
    with pytest.raises(ExportError, match=r"not a \.tflite"):
        needs(b"nothing at all")


@pytest.mark.parametrize("preset", runtimes.HYBRID)
def test_files_that_mix_integers_and_floats_are_refused_by_name(subject, tmp_path, preset):
    with pytest.raises(ExportError, match=f"tflite-micro has no kernels for {preset}"):
        export(subject, [preset], tmp_path, {}, 0.2, (runtimes.MICRO,))


def test_an_operator_without_a_kernel_is_named(tmp_path, digits):
    model = build(Model(name="vit", width=0.25), digits.shape, 10, 0)
    with pytest.raises(ExportError, match="has no kernel for GELU"):
        export(Subject.of(model, digits), ["float32"], tmp_path, {}, 1.0, (runtimes.MICRO,))


def test_profiles_of_microcontrollers_say_where_their_figures_are_from():
    small = [load(name) for name in names() if load(name).flash_kb]
    assert {one.name for one in small} == {"cortex-m4-256", "cortex-m4-1024", "cortex-m7", "esp32-s3"}
    for one in small:
        assert one.ram_kb
        assert one.evidence == "published"
        assert "datasheet" in one.source or "specification" in one.source


@pytest.mark.long
def test_a_network_is_held_against_a_device_and_a_narrower_one_is_found():
    small = load("cortex-m4-256").model_copy(update={"flash_kb": 75.0, "ram_kb": 16.0})
    model = Model(name="dscnn", arguments={"channels": [32, 64, 64]})
    first, *others = found = fit(model, (1, 16, 16), 10, small, lambda line: None)
    assert not first.fits
    assert first.preset == "int8-full"
    assert first.flash == first.file + KERNELS
    assert "arena of TFLite Micro" in first.how
    assert found[-1].fits
    assert [one.width for one in found] == sorted((one.width for one in found), reverse=True)
    assert others[-1].ram <= 16 * 1024
    whole = fit(model, (1, 16, 16), 10, load("raspberry-pi-4"), lambda line: None)
    assert whole[0].fits
    assert whole[0].flash == whole[0].file
    with pytest.raises(UsageError, match="neither flash_kb"):
        fit(model, (1, 16, 16), 10, load("raspberry-pi-4").model_copy(update={"memory_mb": 0.0}), lambda line: None)


def test_the_command_says_what_fits(edgekit, fails, tmp_path):
    done = edgekit("models", "fit", "dscnn", "--shape", "1,16,16", "--device", "cortex-m4-256", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tried"][0]["fits"]
    assert found["shape"] == [1, 16, 16]
    fails(edgekit("bundle", "--device", "cortex-m7", cwd=tmp_path), 2, "has no Python")


def test_a_phone_has_no_bundle_and_is_told_how_it_joins(edgekit, fails, tmp_path):
    fails(
        edgekit("bundle", "--device", "pixel-7", cwd=tmp_path), 2, "pixel-7 has no Python: phones join by edgekit phone"
    )
