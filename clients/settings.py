"""[training]: one client's local training."""

from typing import Literal

from edgekit.local_settings import LocalSettings
from edgekit.section import Count, Positive, Section, Share


class Training(Section):
    """One client's local training: plain SGD, with momentum if asked."""

    trainer: Literal["auto", "cohort", "one-by-one", "litert"] = "auto"
    """`cohort` is vectorised, or an error; `litert` is as devices without torch train."""
    epochs: Count = 2
    """Passes over a client's examples in one round."""
    batch_size: Count = 8
    """Examples a step."""
    learning_rate: Positive = 0.1
    """Step size."""
    momentum: Share = 0.0
    """Of SGD."""
    memory_mb: Count = 512
    """Bound on the vectorised trainer's working memory."""

    def plain(self) -> LocalSettings:
        """Return the instructions for plain training."""
        return LocalSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )
