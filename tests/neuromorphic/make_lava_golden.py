"""Make lava_golden.npz anew: what Lava itself did with networks, for days on which Lava cannot be installed.

    edgekit spike setup-lava
    python tests/neuromorphic/make_lava_golden.py tests/neuromorphic/lava_golden.npz

The networks and inputs that the file holds already are run again: most were designed, each for one corner of the
arithmetic (its name says which). Random ones are added up to RANDOM.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekit.neuromorphic.lava import LAVA, Lava
from edgekit.neuromorphic.lava.verify import Case, draw
from edgekit.neuromorphic.loihi import load, save

RANDOM = 30


def read_cases(path: Path) -> dict[str, Case]:
    """Return the cases of a file by name."""
    cases = {}
    with np.load(path, allow_pickle=False) as file, tempfile.TemporaryDirectory() as folder:
        for key in file.files:
            name, _, kind = key.rpartition("/")
            if kind == "network":
                network = Path(folder) / "network.npz"
                network.write_bytes(file[key].tobytes())
                cases[name] = Case(load(network, checked=False), file[f"{name}/codes"], bool(file[f"{name}/pipelined"]))
    return cases


def main(path: Path) -> None:
    """Run the networks and write the file."""
    cases = read_cases(path)
    cases |= {f"random {seed}": draw(seed) for seed in range(RANDOM)}
    arrays = {}
    with tempfile.TemporaryDirectory() as folder, Lava() as lava:
        for name, case in cases.items():
            ran = lava.run(case.network, case.codes, record=True, pipelined=case.pipelined)
            save(case.network, Path(folder) / "network.npz")
            arrays[f"{name}/network"] = np.frombuffer((Path(folder) / "network.npz").read_bytes(), np.uint8)
            arrays[f"{name}/codes"] = case.codes
            arrays[f"{name}/pipelined"] = np.array(case.pipelined)
            for number, record in enumerate(ran.records):
                for kind, values in record._asdict().items():
                    small = bool if np.isin(values, (0, 1)).all() else np.int32
                    arrays[f"{name}/{number}.{kind}"] = np.asarray(values).astype(small)
    content = io.BytesIO()
    np.savez_compressed(content, lava=LAVA.name, **arrays)
    path.write_bytes(content.getvalue())
    print(f"{path}: {len(cases)} networks, {content.tell():,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
