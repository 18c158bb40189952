"""Models for use on the device: signed by the coordinator, tested here before they count, and never lost."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit import arrays
from edgekit.clients.node.folder import NodeFolder
from edgekit.clients.node.task import verify
from edgekit.errors import EdgekitError, RefusedError
from edgekit.runfolder import write_whole


@dataclass(frozen=True)
class Delivery:
    """A model as it travels.

    Attributes:
        model: the .tflite.
        version: of this run's models, from 1.
        run: name of the experiment.
        accuracy: that the coordinator measured, or another measure's value.
        probe: inputs to test it with, (examples, ...), as the file takes them.
        scores: what the coordinator got for them, (examples, outputs).
        tolerance: how far scores may be off, as a share of the largest.
        measure: name of the measure.
    """

    model: bytes
    version: int
    run: str
    accuracy: float
    probe: arrays.Array
    scores: arrays.Array
    tolerance: float
    measure: str = "accuracy"

    def to_bytes(self) -> bytes:
        """Return the delivery as bytes, to be signed and sent."""
        held = {"model": np.frombuffer(self.model, np.uint8), "probe": self.probe, "scores": self.scores}
        names = ("version", "run", "accuracy", "tolerance", "measure")
        facts = {name: getattr(self, name) for name in names}
        return arrays.to_bytes(held, facts)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Delivery":
        """Read a delivery.

        Raises:
            RefusedError: it is none.
        """
        try:
            held, facts = arrays.from_bytes(content)
            made = cls(
                held["model"].tobytes(),
                int(facts["version"]),
                str(facts["run"]),
                float(facts["accuracy"]),
                held["probe"],
                held["scores"],
                float(facts["tolerance"]),
                str(facts.get("measure", "accuracy"))[:40],
            )
        except (EdgekitError, KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"the delivered model cannot be read: {error}") from None
        if made.probe.ndim < 2 or made.scores.ndim < 2 or len(made.probe) != len(made.scores) or not len(made.probe):
            raise RefusedError("the delivered model comes without a test of itself")
        return made


def accept(folder: NodeFolder, content: bytes, signature: object) -> dict[str, Any]:
    """Take a delivered model into use, if it is the coordinator's and works here; otherwise the old one stays.

    Args:
        folder: of the node; `models/current.json` names the version in use.
        content: of the delivery.
        signature: of the coordinator.

    Returns:
        The version now in use, and `problem` if that is not the delivered one.

    Raises:
        RefusedError: it is not signed, older than the one in use, or cannot be read.
    """
    verify(folder.membership().signing_key, content, signature)
    delivery = Delivery.from_bytes(content)
    before = current(folder)
    if before.get("run") == delivery.run and delivery.version < int(before.get("version", 0)):
        raise RefusedError(f"version {delivery.version} is older than {before['version']}, which is in use")
    name = f"{hashlib.sha256(delivery.model).hexdigest()[:16]}.tflite"
    if before.get("file") == name and before.get("version") == delivery.version:
        return before
    if problem := self_test(delivery):
        return {**before, "problem": f"version {delivery.version} was not taken: {problem}"}
    write_whole(folder.models / name, delivery.model)
    record = {
        "run": delivery.run,
        "version": delivery.version,
        "file": name,
        "accuracy": delivery.accuracy,
        "measure": delivery.measure,
        "previous": {key: before[key] for key in ("run", "version", "file", "accuracy") if key in before},
    }
    write_whole(folder.models / "current.json", json.dumps(record))
    keep = {name, before.get("file")}
    for old in folder.models.glob("*.tflite"):
        if old.name not in keep:
            old.unlink(missing_ok=True)
    return record


def current(folder: NodeFolder) -> dict[str, Any]:
    """Return what is known of the model in use, {} if there is none."""
    try:
        found = json.loads((folder.models / "current.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and (folder.models / str(found.get("file"))).is_file() else {}


def self_test(delivery: Delivery) -> str | None:
    """Run a delivered model on its own test, in a process that it may abort; return what is wrong, None if nothing."""
    from edgekit.export.verify import run_examples

    try:
        found = run_examples(delivery.model, np.asarray(delivery.probe, np.float32)).scores
    except EdgekitError as error:
        return str(error)
    if found.shape != delivery.scores.shape or not np.isfinite(found).all():
        return f"its scores have shape {found.shape}, expected {delivery.scores.shape}"
    scale = float(np.abs(delivery.scores).max()) or 1.0
    off = float(np.abs(found - delivery.scores).max()) / scale
    if not off <= delivery.tolerance:
        return f"its scores are off by {off:.1%} of the largest here, {delivery.tolerance:.1%} is allowed"
    return None
