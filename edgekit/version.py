"""The version, for all that tell or compare it."""

__version__ = "0.2.0"
