"""Engines: where clients run. `local` is this process; `server/fleet.py` real devices."""
