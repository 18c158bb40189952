"""A whole cohort's local training in vectorised steps."""

from edgekit.clients.cohort.trainer import VectorisedTrainer, obstacle

__all__ = ["VectorisedTrainer", "obstacle"]
