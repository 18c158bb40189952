"""Simulated gestures: gravity where it belongs, movements that differ, and networks that tell them apart."""

import numpy as np
import pytest

from edgekit.data import gestures, load
from edgekit.data.settings import Data


@pytest.fixture(scope="module")
def moves():
    rng = np.random.default_rng(0)
    return {name: np.stack([gestures.simulate(name, rng) for _ in range(100)]) for name in gestures.NAMES}


def test_a_phone_at_rest_feels_gravity_alone(moves):
    felt = moves["still"].reshape(100, 3, -1) * gestures.SCALE
    assert np.linalg.norm(felt, axis=1).mean() == pytest.approx(9.81, rel=0.01)
    assert felt.std(2).max() < 0.6
    assert (felt[:, 1].mean(1) > 3).all()  # held upright: the y axis points up


@pytest.mark.parametrize(("name", "axis", "hertz"), [("shake", 0, 4.0), ("chop", 1, 3.0), ("circle", 0, 1.2)])
def test_movements_have_their_axis_and_pace(moves, name, axis, hertz):
    felt = moves[name].reshape(100, 3, -1)
    assert (felt[:, axis].std(1) > felt[:, 2].std(1)).all()
    spectrum = np.abs(np.fft.rfft(felt[:, axis] - felt[:, axis].mean(1, keepdims=True), axis=1))
    assert spectrum.argmax(1).mean() / gestures.SECONDS == pytest.approx(hertz, rel=0.25)


def test_the_source_gives_balanced_clients_and_the_same_data_again():
    settings = Data(source="gestures", clients=5, partition="iid")
    one, two = load(settings, 0), load(settings, 0)
    assert one.shape == (3, 8, 8)
    assert one.classes == list(gestures.NAMES)
    assert np.array_equal(one.client(3).x, two.client(3).x)
    assert np.bincount(one.client(3).y).min() > 20
    assert np.abs(one.test.x).max() <= gestures.LARGEST
