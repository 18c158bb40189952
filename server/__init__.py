"""The server: the coordinator, its grid, Flower's strategies, selection and checkpoints."""

from edgekit.server.coordinator import Coordinator, Outcome, RoundMetrics

__all__ = ["Coordinator", "Outcome", "RoundMetrics"]
