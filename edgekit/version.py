"""The version, for all that tell or compare it."""

__version__ = "0.1.0"
