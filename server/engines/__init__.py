"""Engines: where clients run. `local` is this process; `fleet/` is real devices."""
