"""edgekit: federated and edge deployment toolkit with a neuromorphic backend.

    import edgekit as ek

    run = ek.run(data=(x, y), model="mlp", federation={"rounds": 10})
    run.accuracy, run.predict(x_new)

What follows is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit import privacy
    from edgekit.algorithms.base import Algorithm
    from edgekit.api import compare, open, run, runs, sweep
    from edgekit.data.federated import Examples, FederatedDataset
    from edgekit.errors import EdgekitError
    from edgekit.experiment import Experiment
    from edgekit.objectives.base import Objective
    from edgekit.opened import Run
    from edgekit.section import Section
    from edgekit.transforms.base import Mechanism, Transform

_WHERE = {
    "run": "edgekit.api",
    "open": "edgekit.api",
    "compare": "edgekit.api",
    "runs": "edgekit.api",
    "sweep": "edgekit.api",
    "Run": "edgekit.opened",
    "Experiment": "edgekit.experiment",
    "EdgekitError": "edgekit.errors",
    "FederatedDataset": "edgekit.data.federated",
    "Examples": "edgekit.data.federated",
    # Interfaces of plug-ins.
    "Algorithm": "edgekit.algorithms.base",
    "Transform": "edgekit.transforms.base",
    "Mechanism": "edgekit.transforms.base",
    "Objective": "edgekit.objectives.base",
    "Section": "edgekit.section",
}
__all__ = [
    "Algorithm",
    "EdgekitError",
    "Examples",
    "Experiment",
    "FederatedDataset",
    "Mechanism",
    "Objective",
    "Run",
    "Section",
    "Transform",
    "__version__",
    "compare",
    "open",
    "privacy",
    "run",
    "runs",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name == "privacy":
        return import_module("edgekit.privacy")
    if name not in _WHERE:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
