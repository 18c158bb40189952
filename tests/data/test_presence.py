"""`presence`: what tells its two classes apart is shape, not brightness or strokes."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from edgekit.data import presence


def test_brightness_and_single_pixels_tell_little():
    source = presence.read()
    assert source.x.shape == (presence.CAMERAS * presence.EACH, 1, 24, 24)
    assert source.x.dtype == np.float32
    assert (source.x.min(), source.x.max()) >= (0, 0)
    assert source.x.max() <= 1
    assert len(set(source.groups)) == presence.CAMERAS
    assert abs(roc_auc_score(source.labels, source.x.mean((1, 2, 3))) - 0.5) < 0.1
    rows, half = source.x.reshape(len(source.x), -1), len(source.x) // 2
    plain = LogisticRegression(max_iter=100).fit(rows[:half], source.labels[:half])
    assert plain.score(rows[half:], source.labels[half:]) < 0.65
