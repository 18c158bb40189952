"""What a round was like, a line of metrics.jsonl; and how training ended."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from edgekit.algorithms.settings import Federation
from edgekit.arrays import Weights
from edgekit.asks import Scored
from edgekit.runfolder import read_lines, write_whole


@dataclass(frozen=True)
class RoundMetrics:
    """One line of metrics.jsonl.

    Attributes:
        round: from 1.
        loss: of the global model on the test set, None in rounds without evaluation.
        accuracy: likewise; None of other objectives than classes, whose measure is among `metrics`.
        cohort: clients asked.
        replies: updates accepted.
        failures: clients that raised, or whose update was refused.
        bytes_up: size of the arrays that came, of split learning's stream too.
        bytes_down: size of the arrays that were sent.
        seconds: the round took.
        epsilon: spent so far, None without privacy.
        metrics: the method's own, such as the clients' mean training loss.
        clients: accuracy on what clients hold back: `mean`, `worst_tenth` (the mean of the worst tenth of the clients)
            and how many `clients` told; {} where none are asked.
        measure: name of the objective's measure.
        beside: names of the metrics that are told beside it.
        problem: why a figure is missing that was measured; "" if none is.
        devices: of simulated devices: the virtual clock's seconds, joules, and how many were there, done, late or gone;
            {} without; where who took part is secret, what does not depend on that.
    """

    round: int
    loss: float | None
    accuracy: float | None
    cohort: int
    replies: int
    failures: int
    bytes_up: int
    bytes_down: int
    seconds: float
    epsilon: float | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    clients: Mapping[str, Any] = field(default_factory=dict)
    measure: str = "accuracy"
    beside: Sequence[str] = ()
    problem: str = ""
    devices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
        weights: of the model to release.
        rounds: finished rounds.
        interrupted: whether Ctrl-C ended it early.
        trainer: which trainer ran, and why.
    """

    weights: Weights
    rounds: int
    interrupted: bool
    trainer: str


def by_client(scores: Mapping[int, Scored]) -> dict[str, Any]:
    """Return what metrics tell of the measure by client; {} of none."""
    if not scores:
        return {}
    each = sorted(scored.score for scored in scores.values())
    worst = each[: max(1, len(each) // 10)]
    return {
        "mean": round(sum(each) / len(each), 6),
        "worst_tenth": round(sum(worst) / len(worst), 6),
        "clients": len(each),
    }


def rounded(x: Any) -> Any:
    """Return a number as JSON can hold it: None for what is none."""
    return (round(x, 6) if isfinite(x) else None) if isinstance(x, float) else x


def rounded_all(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as JSON can hold them."""
    return {name: rounded(value) for name, value in metrics.items()}


def skips(federation: Federation, number: int) -> bool:
    """Whether nothing is measured in a round."""
    return bool(number % federation.evaluate_every) and number != federation.rounds


def keep_rounds(path: Path, last: int) -> list[str]:
    """Drop the metrics of rounds after a checkpoint: they will be run again.

    Args:
        path: of `metrics.jsonl`.
        last: round of the checkpoint; 0 without one.

    Returns:
        What does not fit together, a line each for people.
    """
    if not path.exists():
        return [f"{path} is missing: of rounds 1 to {last} there are no metrics any more"] if last else []
    lines = [line for line in read_lines(path) if isinstance(line, dict) and isinstance(line.get("round"), int)]
    kept = {line["round"]: line for line in lines if 0 < line["round"] <= last}
    write_whole(path, "".join(json.dumps(kept[number]) + "\n" for number in sorted(kept)))
    gone = sorted(set(range(1, last + 1)) - set(kept))
    if not last and lines:
        return [f"{path} tells of {len(lines)} rounds, but no checkpoint is there: training begins anew"]
    return [f"{path} lacks {len(gone)} of {last} rounds, the first of them {gone[0]}"] if gone else []
