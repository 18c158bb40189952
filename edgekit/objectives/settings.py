"""[objective]: what the network is trained for."""

from edgekit.section import Arguments, Chosen


class Aim(Chosen):
    """What the network is trained for ([objectives.md](objectives.md)); its name alone will do."""

    name: str = "cross-entropy"
    """`cross-entropy`, `multi-label`, `regression`, `reconstruction`, or `package.module:Class`."""
    arguments: Arguments = {}
    """Its own, such as `{label_smoothing = 0.1}`."""
