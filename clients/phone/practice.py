"""Make the page's practice sets again: `python clients/phone/practice.py`. They are public, and nobody's secret."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from edgekit.clients.phone.frames import Frame, pack
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
    facts = {"source": "scikit-learn's digits", "scale": 16, "classes": [str(label) for label in range(10)]}
    x, y = digits.images[chosen].astype(np.uint8)[:, None], digits.target[chosen].astype(np.uint8)
    write_whole(PLACE / "practice-digits.bin", pack(Frame("practice", facts, {"x": x, "y": y})))


if __name__ == "__main__":
    main()
