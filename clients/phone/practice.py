"""Make the page's practice sets again: `python clients/phone/practice.py`. They are public, and nobody's secret."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from edgekit.clients.phone.frames import Frame, pack
from edgekit.data import gestures
from edgekit.runfolder import write_whole

PLACE = Path(__file__).parent / "page"
A_CLASS = 40


def main() -> None:
    """Write the sets, as frames."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    chosen = np.sort(
        np.concatenate([rng.choice(np.flatnonzero(digits.target == label), A_CLASS, False) for label in range(10)])
    )
    facts = {
        "source": "scikit-learn's digits",
        "offset": 0,
        "scale": 16,
        "classes": [str(label) for label in range(10)],
    }
    x, y = digits.images[chosen].astype(np.uint8)[:, None], digits.target[chosen].astype(np.uint8)
    write_whole(PLACE / "practice-digits.bin", pack(Frame("practice", facts, {"x": x, "y": y})))
    # Values of -3..3 as bytes: 128 is nothing, and 1/42 a step.
    labels = np.repeat(np.arange(len(gestures.NAMES)), A_CLASS)
    moves = np.stack([gestures.simulate(gestures.NAMES[label], rng) for label in labels])
    x, y = np.rint(128 + 42 * moves).clip(0, 255).astype(np.uint8), labels.astype(np.uint8)
    facts = {"source": "simulated gestures", "offset": 128, "scale": 42, "classes": list(gestures.NAMES)}
    write_whole(PLACE / "practice-gestures.bin", pack(Frame("practice", facts, {"x": x, "y": y})))


if __name__ == "__main__":
    main()
