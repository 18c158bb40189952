"""What clients keep between rounds, on the disk: control variates, personal layers."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from edgekit import arrays
from edgekit.arrays import Weights
from edgekit.asks import packed, unpacked
from edgekit.errors import EdgekitError, RunFolderError

BEFORE, AFTER = "before", "after"
KEPT = 3
"""States of a client that stay: a run may go on from its second newest checkpoint."""


class ClientStates:
    """A folder with a folder a client, in which each round that it took part in has a file.

    A round's file is written before the run's checkpoint. A run that goes on from an older checkpoint takes the states
    before its first round, so it ends with the same bits.

    Args:
        folder: made when the first state comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, client: int, number: int) -> dict[str, Weights]:
        """Return what a client kept before a round, {} if nothing.

        Raises:
            RunFolderError: its file is damaged, or another client's.
        """
        before = [path for path in sorted(self._of(client).glob("round-*.safetensors")) if _round(path) < number]
        if not before:
            return {}
        try:
            flat, description = arrays.load(before[-1])
        except EdgekitError as error:
            raise RunFolderError(f"what client {client} keeps cannot be read: {error}") from None
        if description != {"client": client, "round": _round(before[-1])}:
            raise RunFolderError(f"{before[-1]} is not what client {client} keeps of that round")
        return unpacked(flat)

    def save(self, client: int, number: int, state: Mapping[str, Weights]) -> None:
        """Keep a client's state after a round."""
        folder = self._of(client)
        path = folder / f"round-{number:06d}.safetensors"
        arrays.save(path, packed(state), {"client": client, "round": number})
        kept = sorted(folder.glob("round-*.safetensors"))
        later = [one for one in kept if _round(one) > number]  # of a run that went on from an older checkpoint
        earlier = [one for one in kept if _round(one) <= number]
        for old in [*later, *earlier[:-KEPT]]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _of(self, client: int) -> Path:
        return self._folder / f"{client:07d}"


class OwnState:
    """What one device keeps between the rounds of one run.

    A round that is asked again, since its answer was lost, begins where it began before: the same bits.

    Args:
        path: of its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def before(self, asked: str) -> dict[str, Weights]:
        """Return what was kept before a round, {} if nothing.

        Args:
            asked: names what the round asks.

        Raises:
            EdgekitError: the file is damaged, or none of these.
        """
        if not self._path.exists():
            return {}
        flat, description = arrays.load(self._path)
        groups = unpacked(flat)
        if not isinstance(description, dict) or not isinstance(description.get("asked"), str):
            raise EdgekitError(f"{self._path} is not what this device keeps between rounds: remove it to begin anew")
        which = BEFORE if description["asked"] == asked else AFTER
        return unpacked(groups.get(which, {}))

    def after(self) -> dict[str, Weights]:
        """Return what is kept now."""
        return self.before("")

    def keep(self, asked: str, before: Mapping[str, Weights], after: Mapping[str, Weights]) -> None:
        """Keep what was there before a round, and what is there after it."""
        flat = packed({BEFORE: packed(before), AFTER: packed(after)})
        arrays.save(self._path, flat, {"asked": asked})


def _round(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
