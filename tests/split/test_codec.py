"""How arrays travel: what each codec loses, and that no lie is believed."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.algorithms.split.codec import CODECS, TOP_SHARE, Coded, decode, encode
from edgekit.errors import RefusedError


@pytest.fixture
def array():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((8, 5, 3, 3)) * np.array([1, 5, 0.1, 30, 0])[:, None, None]).astype(np.float32)


def test_float32_loses_nothing_and_float16_what_halves_do(array):
    assert np.array_equal(decode(encode(array, "float32")), array)
    for scale in (1.0, 1e-6, 1e-30, 1e3):  # however small, as gradients are
        scaled = array * np.float32(scale)
        off = np.abs(decode(encode(scaled, "float16")) - scaled)
        assert (off <= 2.0**-11 * np.abs(scaled) + 2.0**-25 * np.abs(scaled).max()).all()
    assert np.array_equal(decode(encode(np.zeros((2, 3), np.float32), "float16")), np.zeros((2, 3), np.float32))


def test_int8_is_off_by_half_a_step_of_each_channel_at_most(array):
    found = decode(encode(array, "int8"))
    for channel in range(array.shape[1]):
        step = np.ptp(array[:, channel]) / 255
        assert np.abs(found[:, channel] - array[:, channel]).max() <= 0.5 * step + 1e-6
    flat = array.reshape(8, -1)
    assert decode(encode(flat, "int8")).shape == flat.shape
    assert encode(array, "int8").size < 0.3 * array.nbytes + 100


def test_top_k_keeps_the_largest(array):
    found = decode(encode(array, "top-k"))
    kept = found != 0
    assert kept.sum() == round(TOP_SHARE * array.size)
    assert np.array_equal(found[kept], array[kept])
    assert np.abs(array[~kept]).max() <= np.abs(array[kept]).min()


@pytest.mark.parametrize("codec", CODECS)
def test_lies_are_refused(codec, array):
    coded = encode(array, codec)
    assert decode(coded).flags.writeable
    lies = [
        replace(coded, shape=(8, 5, 9, 1, 1, 1, 1)),
        replace(coded, shape=()),
        replace(coded, shape=(0, 5, 3, 3)),
        replace(coded, shape=(1 << 20, 1 << 20)),
        replace(coded, data=coded.data[:-1]),
        replace(coded, codec="pickle"),
    ]
    if codec != "top-k":  # which says nothing of the values it leaves out; the split server knows the right shape
        lies.append(replace(coded, shape=(8, 5, 3, 4)))
    if codec == "int8":
        lies += [
            replace(coded, scales=coded.scales[:-4]),
            replace(coded, scales=np.full(5, np.nan, "<f4").tobytes()),
            replace(coded, zeros=np.full(5, np.inf, "<f4").tobytes()),
        ]
    elif codec == "top-k":
        places = np.frombuffer(coded.places, "<u4").copy()
        for place, value in ((-1, 1 << 30), (0, places[1])):
            wrong = places.copy()
            wrong[place] = value
            lies.append(replace(coded, places=wrong.tobytes()))
    else:
        bad = array.copy()
        bad[0, 0, 0, 0] = np.nan
        lies.append(replace(coded, data=bad.astype("<f4" if codec == "float32" else "<f2").tobytes()))
    if codec == "float16":
        lies += [replace(coded, scales=b""), replace(coded, scales=np.float32(np.inf).tobytes())]
    for lie in lies:
        with pytest.raises(RefusedError):
            decode(lie)


def test_values_that_no_training_gives_are_refused():
    with pytest.raises(RefusedError, match="beyond 1e"):
        decode(Coded("float32", (1,), np.float32(1e7).tobytes()))
