"""The model zoo; `edgekit.registry.MODELS` lists it.

No network of the zoo has BatchNorm: its statistics would mix clients' examples. Nothing is imported here before it is
used: settings are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.models.registry import build
    from edgekit.models.requirements import batch_norms, check_private

__all__ = ["batch_norms", "build", "check_private"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'registry' if name == 'build' else 'requirements'}"), name)
