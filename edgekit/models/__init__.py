"""The model zoo; `edgekit.registry.MODELS` lists it.

No network of the zoo has BatchNorm: its statistics would mix clients' examples.
"""

from edgekit.models.registry import build
from edgekit.models.requirements import batch_norms, check_private

__all__ = ["batch_norms", "build", "check_private"]
