"""Clients: the trainers that turn global weights and a client's data into an update."""

from edgekit.asks import LocalSettings, Train, Trained
from edgekit.clients.trainer import LocalTask, Trainer

__all__ = ["LocalSettings", "LocalTask", "Train", "Trained", "Trainer"]
