"""Clients: the trainers that turn global weights and a client's data into an update."""

from edgekit.clients.trainer import LocalSettings, LocalTask, Trainer, Update

__all__ = ["LocalSettings", "LocalTask", "Trainer", "Update"]
