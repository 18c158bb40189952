"""Sentences with figures, made of a mechanism's statement: for reports, cards and owners of devices."""

from pathlib import Path

from edgekit.guarantee import Plan, Statement


def summary(statement: Statement, plan: Plan | None, spent: float, rounds: int, *, seeded: bool) -> str:
    """Return the guarantee in one sentence.

    Args:
        statement: in words.
        plan: None without privacy.
        spent: epsilon that the ledger counts.
        rounds: that the ledger counts.
        seeded: whether the noise comes from the experiment's seed.
    """
    if plan is None:
        return "No differential privacy: the updates and the model may tell of single examples."
    simulated = " Simulated: the noise comes from the experiment's seed." if seeded else ""
    return (
        f"{_figures(spent, plan.delta)} for {statement.whose}, noise added by the {statement.by}, "
        f"counted by the {plan.accountant.upper()} accountant over {rounds} rounds.{simulated}"
    )


def covered(statement: Statement, plan: Plan | None, spent: float) -> list[str]:
    """Return what the guarantee covers, with the epsilon that was spent."""
    if plan is None:
        return []
    return [
        f"{statement.neighbours} by a factor of at most e^{spent:.2f}, except with probability {plan.delta:g}.",
        *statement.holds,
        "Quantisation, spiking thresholds and tuning use only the server's own calibration examples, which no client "
        "owns, so they spend nothing.",
    ]


def not_covered(statement: Statement, plan: Plan | None, randomness: str, ledger: str = "") -> list[str]:
    """Return what the guarantee does not cover; `randomness` and `ledger` are of [privacy]."""
    if plan is None:
        return list(statement.open)
    lines = [*statement.open, *always_open(ledger)]
    if randomness == "seed":
        lines.append(
            "The random numbers come from the experiment's seed, so that the run can be repeated; whoever knows the "
            'seed can take the noise off again. For a model to be released, set privacy.randomness = "system".'
        )
    else:
        lines.append(
            "The noise comes from a counter-based generator (Philox) that the system's entropy seeds once a run."
        )
    lines.append(
        "This page and metrics.jsonl: test accuracies come from the server's test set, but the picture of the clients' "
        "data shows it as it is. It is for simulations; keep it with the data."
    )
    return lines


def always_open(ledger: str = "") -> list[str]:
    """Return what no guarantee here covers; `ledger` is the file that counts all runs on the same data, if one does."""
    others = (
        "Other runs on the same data: what they spend adds up, and this figure is of this run alone. Settings chosen "
        "by looking at their results are not counted."
    )
    if ledger:
        others = (
            f"This figure is of this run alone; what all runs spend of the same data that name {Path(ledger).name} is "
            "limited there, also of settings chosen by looking at results. Runs that do not name it are not counted."
        )
    return [
        others,
        "Statistics of inputs that devices share are counted by the devices themselves, not here.",
        "Which clients failed, when each answered and how long it took.",
        "Noise is drawn and added in floating point, whose gaps can tell more than real numbers would (Mironov 2012); "
        "nothing is done against that.",
    ]


def for_owners(statement: Statement, plan: Plan | None) -> str:
    """Say to a device's owner what its updates tell, and to whom."""
    guarantee = "" if plan is None else _figures(plan.epsilon, plan.delta)
    return statement.owners.replace("{guarantee}", guarantee)


def _figures(epsilon: float, delta: float) -> str:
    return f"({epsilon:.2f}, {delta:g})-differential privacy"
