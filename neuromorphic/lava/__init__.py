"""Intel's Lava: its environment, its leash, and the comparison of the emulator with it."""

from edgekit.neuromorphic.lava.environment import LAVA
from edgekit.neuromorphic.lava.session import Lava, Ran

__all__ = ["LAVA", "Lava", "Ran"]
