"""The model zoo and its registry. No network of the zoo has BatchNorm: its statistics would mix clients' examples."""

from edgekit.models.registry import ZOO, build
from edgekit.models.requirements import batch_norms, check_private

__all__ = ["ZOO", "batch_norms", "build", "check_private"]
