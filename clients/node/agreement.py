"""What a device's owner agreed to: how much of its data's privacy may be spent, over all tasks and runs.

It is fixed by the first task after joining, at what the device itself works out that this one takes, or by the owner
(`edgekit join --epsilon`). A coordinator cannot raise it afterwards; the owner can.
"""

import hashlib
import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edgekit.clients.budget import ACCOUNTANT, PlannedRun
from edgekit.clients.node.task_facts import Planned, TaskFacts
from edgekit.errors import JoinError, PrivacyError
from edgekit.privacy.accounting import epsilon
from edgekit.runfolder import write_whole
from edgekit.section import Section

log = logging.getLogger("edgekit.node")

MOST = 100.0
"""Epsilon that no task is given without its owner's word: beyond it a guarantee says nothing."""
RAISE = "its owner can raise this with edgekit join --epsilon"


class Agreement(Section):
    """What was agreed: `agreement.json`."""

    protects: bool
    """Whether this device protects its data itself; else updates go as they are."""
    epsilon: Annotated[float, Field(ge=0)]
    """The most that may be spent."""
    delta: Annotated[float, Field(gt=0, le=1e-3)]
    """The other half of the guarantee."""
    unit: Literal["example", "client"]
    """Whose data one step protects."""


def agreed(path: Path) -> Agreement | None:
    """Return what was agreed; None before the first task.

    Raises:
        JoinError: it cannot be read.
    """
    try:
        return Agreement.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise JoinError(f"{path} cannot be read ({reason}): put it back, or join with another --folder") from None


def agree(path: Path, facts: TaskFacts, own: float) -> Agreement:
    """Return what holds for a task: what was agreed before, or what the first task takes; nothing is kept yet.

    Args:
        path: of `agreement.json`.
        facts: of the task.
        own: the owner's own limit; 0 for none.

    Raises:
        PrivacyError: the task asks for what was not agreed, or for more than goes without the owner's word.
    """
    before, planned = agreed(path), facts.planned
    if facts.vertical is not None and (planned is not None or own or (before is not None and before.protects)):
        raise PrivacyError(
            "this device protects its data itself, but what parties with other features send is not protected: take "
            "part with another --folder if that is wanted"
        )
    if own:
        return Agreement(protects=True, epsilon=own, delta=1e-5 if planned is None else planned.delta, unit="example")
    if before is not None and before.protects:
        if planned is None:
            raise PrivacyError(
                f"this device agreed to protect its data itself (epsilon {before.epsilon:.4g}), but the task plans no "
                "noise of its own: take part with another --folder if that is wanted"
            )
        if before.unit == "client" and planned.unit == "example":
            raise PrivacyError(
                "this device agreed to protect all of its data together, but the task protects single examples alone: "
                "take part with another --folder if that is wanted"
            )
        return before
    if planned is None:
        return Agreement(protects=False, epsilon=0.0, delta=1e-5, unit="example")
    most = spent_by(planned)
    if most > MOST:
        raise PrivacyError(
            f"the task would spend epsilon {most:.4g} of this device's data, more than {MOST:g}: {RAISE}"
        )
    return Agreement(protects=True, epsilon=most, delta=planned.delta, unit=planned.unit)


def keep(path: Path, made: Agreement) -> None:
    """Write an agreement down, and say it, where it is a new one."""
    if made == agreed(path):
        return
    if made.protects:
        whose = "one example" if made.unit == "example" else "all of its data"
        log.info(
            "agreed: this device spends epsilon %.4g at delta %g (at most twice that) for %s, and no more; %s",
            made.epsilon,
            made.delta,
            whose,
            RAISE,
        )
    write_whole(path, made.model_dump_json())


def spent_by(planned: Planned) -> float:
    """Return the epsilon that a plan takes, reckoned as devices reckon."""
    return epsilon(planned_run("", planned).history, planned.delta, ACCOUNTANT)


def planned_run(run: str, planned: Planned) -> PlannedRun:
    """Return what a run's task plans, by a name of its own."""
    steps = {(planned.noise_multiplier, planned.sample_rate): planned.steps}
    if planned.reports:
        kind = (planned.reports_noise, 1.0)
        steps[kind] = steps.get(kind, 0) + planned.reports
    name = hashlib.sha256(f"{run} {planned.model_dump_json()}".encode()).hexdigest()[:12]
    return PlannedRun(name, steps)


def words(facts: TaskFacts) -> str:
    """Say to a device's owner what its updates tell, and to whom: in this device's words, with its own figures."""
    if facts.planned is not None:
        whose = "one example" if facts.planned.unit == "example" else "everything on this device"
        return (
            f"This device adds the noise itself: epsilon {spent_by(facts.planned):.4g} at delta "
            f"{facts.planned.delta:g} for {whose} by its own count, against everybody, the coordinator too"
        )
    sees = "its own updates, and may learn of single examples from them"
    if facts.split is not None:
        sees = (
            "what this device's part of the network makes of every example, and may rebuild examples and labels from it"
        )
    elif facts.vertical is not None:
        sees = "what this device's features become, and may rebuild them from it"
    text = f"This device adds no noise: whoever runs the coordinator sees {sees}"
    if facts.claimed == "none":
        return text
    whose = "one example" if facts.claimed == "example" else "everything on this device"
    return f"{text}. The coordinator says that it adds noise, which protects {whose} against who sees the model"
