"""The main job, end to end: data, training, files for devices, spiking form, report."""

from edgekit.pipeline.job import Listener, resume, run

__all__ = ["Listener", "resume", "run"]
