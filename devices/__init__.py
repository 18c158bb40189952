"""Devices: for now, this one."""

from edgekit.devices.host import Extra, describe, extras

__all__ = ["Extra", "describe", "extras"]
