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

    def obstacle(self, number: int, asked: str = "") -> str | None:
        """Say why the device sits a round out; None if it does not.

        Args:
            number: of the round, as the coordinator says.
            asked: names what the round asks, to the last bit: asked again, it is the same round. Anything else counts
                anew, whatever its number.

        Raises:
            EdgekitError: the file is damaged: nothing is guessed about how often the device took part.
        """
        if not (self._most or self._apart):
            return None
        made = self._made()
        if asked and asked in made:
            return None
        if self._most and len(made) >= self._most:
            return f"it took part {len(made)} times; its owner has it take part at most {self._most} times in a run"
        near = next((one for one in made.values() if abs(one - number) < max(1, self._apart)), None)
        if near is not None and self._apart:
            return f"it took part in round {near}; its owner has it take part {self._apart} rounds apart"
        return None

    def keep(self, number: int, asked: str = "") -> None:
        """Write down that the device takes part in a round, before anything leaves it; arguments as of `obstacle`."""
        if self._most or self._apart:
            made = self._made()
            write_whole(self._path, json.dumps({**made, asked or f"once {len(made)}": number}))

    def _made(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        try:
            made = json.loads(self._path.read_text())
            if not isinstance(made, dict) or not all(type(one) is int for one in made.values()):
                raise ValueError("rounds by what they asked were expected")
        except (OSError, ValueError) as error:
            raise EdgekitError(f"{self._path} does not tell which rounds this device took part in: {error}") from None
        return made
