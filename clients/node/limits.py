"""How often a device takes part in a run, as its owner wants: at most so many times, and so many rounds apart.

What a selector promises of its sampling (at most k times, b rounds apart: Kairouz et al. 2021, section 3) a device can
hold by itself, whoever coordinates.
"""

import json
from pathlib import Path

from edgekit.clients.node.folder import NodeSettings
from edgekit.errors import EdgekitError
from edgekit.runfolder import write_whole


class Limits:
    """The rounds of one run that this device took part in.

    Args:
        path: of their file; it is made with the first of them.
        settings: the owner's.
    """

    def __init__(self, path: Path, settings: NodeSettings) -> None:
        self._path, self._most, self._apart = path, settings.most_rounds, settings.rounds_apart

    def obstacle(self, number: int) -> str | None:
        """Say why the device sits a round out; None if it does not. A round that is asked again is the same round.

        Raises:
            EdgekitError: the file is damaged: nothing is guessed about how often the device took part.
        """
        if not (self._most or self._apart):
            return None
        made = self._made()
        if number in made:
            return None
        if self._most and len(made) >= self._most:
            return f"it took part {len(made)} times; its owner has it take part at most {self._most} times in a run"
        near = next((one for one in made if abs(one - number) < self._apart), None)
        if near is not None:
            return f"it took part in round {near}; its owner has it take part {self._apart} rounds apart"
        return None

    def keep(self, number: int) -> None:
        """Write down that the device takes part in a round, before it does."""
        if self._most or self._apart:
            write_whole(self._path, json.dumps(sorted({*self._made(), number})))

    def _made(self) -> list[int]:
        if not self._path.exists():
            return []
        try:
            made = json.loads(self._path.read_text())
            if not isinstance(made, list) or not all(isinstance(one, int) for one in made):
                raise ValueError("a list of rounds was expected")
        except (OSError, ValueError) as error:
            raise EdgekitError(f"{self._path} does not tell which rounds this device took part in: {error}") from None
        return made
