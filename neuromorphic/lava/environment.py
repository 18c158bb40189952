"""Lava's own Python: it runs on 3.10 only and needs an older numpy than ours."""

from edgekit.environments import Environment

LAVA = Environment("lava-0.10.0", "3.10", ("lava-nc==0.10.0",))
