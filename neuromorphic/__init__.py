"""Spiking networks: conversion, Loihi integers, the exact emulator, and exchange files.

Nothing is imported here before it is used: settings are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.neuromorphic.conversion import Converted, convert
    from edgekit.neuromorphic.loihi import LoihiNetwork
    from edgekit.neuromorphic.network import SpikingNetwork
    from edgekit.neuromorphic.quantisation import quantise

_ROOMS = {
    "Converted": "conversion",
    "LoihiNetwork": "loihi",
    "SpikingNetwork": "network",
    "convert": "conversion",
    "quantise": "quantisation",
}
__all__ = ["Converted", "LoihiNetwork", "SpikingNetwork", "convert", "quantise"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
