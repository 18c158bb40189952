"""Spiking networks: conversion, Loihi integers, the exact emulator, and exchange files."""

from edgekit.neuromorphic.conversion import Converted, convert
from edgekit.neuromorphic.loihi import LoihiNetwork
from edgekit.neuromorphic.network import SpikingNetwork
from edgekit.neuromorphic.quantisation import quantise

__all__ = ["Converted", "LoihiNetwork", "SpikingNetwork", "convert", "quantise"]
