"""Selectors that look at what is known of clients: devices, losses, rounds. The blind ones are in `selection`."""
