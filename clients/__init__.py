"""Clients: the trainers that turn global weights and a client's data into an update."""

from edgekit.asks import Train, Trained
from edgekit.clients.trainer import LocalTask, Trainer
from edgekit.local_settings import LocalSettings

__all__ = ["LocalSettings", "LocalTask", "Train", "Trained", "Trainer"]
