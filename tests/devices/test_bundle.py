"""Bundles, profiles and the doctor, without a board."""

import subprocess
import sys
import zipfile

import pytest

from edgekit.devices import bundle, doctor, profile
from edgekit.devices.doctor import Finding
from edgekit.errors import EdgekitError, UsageError


def test_every_profile_is_whole_and_says_where_it_comes_from():
    assert "raspberry-pi-4" in profile.names()
    for name in profile.names():
        found = profile.load(name)
        # A microcontroller has no Python, and its memory is told in kB; neither has a phone, whose memory is in MB.
        assert (found.name, bool(found.source)) == (name, True)
        assert bool(found.python) == bool(found.wheel_platforms)
        assert bool(found.memory_mb) != bool(found.ram_kb)
        assert not (found.python and found.ram_kb)


def test_a_profile_is_written_and_read_back(tmp_path):
    _, found = doctor.examine(tmp_path)
    profile.save(found, tmp_path / "mine.toml")
    assert profile.load(str(tmp_path / "mine.toml")) == found
    (tmp_path / "wrong.toml").write_text('name = "x"\nevidence = "guessed"\n')
    for name, complaint in (
        ("no-such-board", "there are .*raspberry-pi-4"),
        (str(tmp_path / "nothing.toml"), "cannot be read"),
        (str(tmp_path / "wrong.toml"), "wrong.toml: "),
    ):
        with pytest.raises(UsageError, match=complaint):
            profile.load(name)


def test_the_doctor_finds_what_keeps_a_device_from_taking_part(tmp_path):
    findings, _ = doctor.examine(tmp_path, clock_ahead=3600.0)
    found = {finding.subject: finding for finding in findings}
    assert found["clock"].verdict == "problem"
    assert "3600 s ahead of" in found["clock"].text
    assert found["runtimes"].verdict == "ok"
    assert doctor._about_runtimes({}) == Finding(
        "runtimes", "problem", "none: install one with pip install 'edgekit[node]'"
    )


def test_the_wheel_of_what_runs_here_can_be_installed(tmp_path):
    wheel = bundle.own_wheel(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert "edgekit/devices/board/install.sh" in names
    assert "edgekit/clients/node/resident.py" in names
    place = tmp_path / "place"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    code = "import edgekit, sys; print(edgekit.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(place)},
        cwd=tmp_path,
    )
    assert done.stdout.startswith(str(place))


def test_a_profile_without_platforms_cannot_be_bundled(tmp_path):
    bare = profile.load("raspberry-pi-4").model_copy(update={"wheel_platforms": []})
    with pytest.raises(EdgekitError, match="names no wheel_platforms"):
        bundle.build(bare, tmp_path / "x.tar")
    odd = bare.model_copy(update={"wheel_platforms": ["manylinux2014_abacus"]})
    with pytest.raises(EdgekitError, match="the packages cannot be fetched"):
        bundle.build(odd, tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []
