"""The resident node: one warm process on a device that takes part in a federation. No torch is needed."""
