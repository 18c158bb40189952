"""Simulated devices: of what kinds they are, when they are there, and a virtual clock. Numpy only."""
