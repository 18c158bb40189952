"""What every section of an experiment is made of. A room's own sections lie in its `settings.py`."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("arguments must be numbers, texts, booleans, and lists and tables of them") from None
    return arguments


Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Arguments of a constructor, as plain values that any file can hold."""


class Section(BaseModel):
    """A table of the file: unknown keys, wrong types and values out of range are errors.

    The text below a key is what people read of it: in editors (the schema), and in docs/experiment.md.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)


class Chosen(Section):
    """A thing of the registry, with its own arguments; in the file also its name alone."""

    name: str
    """Its name, or `package.module:Class`."""
    arguments: Arguments = {}
    """Its own."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


def first_problem(error: ValidationError) -> str:
    """Return the first finding about a file as `key.path: what is wrong`."""
    first = error.errors()[0]
    where, what = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
