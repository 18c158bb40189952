"""What networks are trained for: losses, what labels are, and what tells how good a network is. An objective a file."""

from typing import Any

from pydantic import ValidationError

from edgekit.errors import ExperimentError
from edgekit.objectives.base import Figures, Objective, objective_of
from edgekit.registry import OBJECTIVES
from edgekit.section import Chosen, first_problem

__all__ = ["Figures", "Objective", "make", "objective_of"]


def make(chosen: Chosen) -> Objective:
    """Make an experiment's objective.

    Raises:
        ExperimentError: there is no such one, it is none, or its arguments do not fit.
    """
    loaded: Any = OBJECTIVES.load(chosen.name)
    if not (isinstance(loaded, type) and issubclass(loaded, Objective)):
        raise ExperimentError(f"objective {chosen.name!r} is not an edgekit.objectives.Objective")
    try:
        made = loaded(loaded.Settings.model_validate(dict(chosen.arguments)))
    except ValidationError as error:
        raise ExperimentError(f"objective.arguments do not fit {chosen.name}: {first_problem(error)}") from None
    except Exception as error:  # it may be the user's own
        raise ExperimentError(
            f"objective {chosen.name} cannot be made: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    made.name = chosen.name
    return made
