"""The guarantee in plain words: what it covers, and what it does not."""

from edgekit.experiment import Experiment
from edgekit.privacy.plan import Plan


def summary(plan: Plan | None) -> str:
    """Return the guarantee in one sentence."""
    if plan is None:
        return "No differential privacy: the updates and the model may tell of single examples."
    whose = "one example" if plan.unit == "example" else "everything that one client owns"
    return (
        f"({plan.epsilon:.2f}, {plan.delta:g})-differential privacy for {whose}, noise added by the {plan.noise}, "
        f"counted by the {plan.accountant.upper()} accountant over {plan.rounds} rounds."
    )


def covered(plan: Plan | None) -> list[str]:
    """Return what the guarantee covers."""
    if plan is None:
        return []
    lines = []
    if plan.unit == "example":
        lines.append(
            "Adding or removing any single training example changes the probability of any outcome by a factor of at "
            f"most e^{plan.epsilon:.2f}, except with probability {plan.delta:g}."
        )
    elif plan.noise == "server":
        lines.append(
            "Adding or removing all data of any single client changes the probability of any outcome by a factor of "
            f"at most e^{plan.epsilon:.2f}, except with probability {plan.delta:g}."
        )
    else:
        lines.append(
            "Replacing all data of any single client by any other changes the probability of what it sends by a "
            f"factor of at most e^{plan.epsilon:.2f}, except with probability {plan.delta:g}."
        )
    if plan.noise == "server":
        lines.append(
            "It holds for everything that leaves the server: every round's global model, the final model, and all "
            "files made from it."
        )
    else:
        lines.append("It holds against the server too: each client's messages are protected before they leave it.")
    lines.append(
        "Quantisation, spiking thresholds and tuning use only the server's own calibration examples, which no client "
        "owns, so they spend nothing."
    )
    return lines


def not_covered(plan: Plan | None, experiment: Experiment) -> list[str]:
    """Return what the guarantee does not cover."""
    if plan is None:
        return ["Nothing is protected; set privacy.unit to example or client."]
    lines = []
    if plan.noise == "server":
        lines.append("The server is trusted: it sees the clients' clipped contributions before it adds the noise.")
    if plan.unit == "example":
        lines.append(
            "A client's data as a whole: a client with many similar examples is protected less than one example."
        )
    lines.append(
        "Who takes part, how many clients and examples there are, and settings chosen by looking at results are taken "
        "as public."
    )
    if experiment.privacy.randomness == "seed":
        lines.append(
            "The random numbers come from the experiment's seed, so that the run can be repeated; whoever knows the "
            'seed can take the noise off again. For a model to be released, set privacy.randomness = "system".'
        )
    lines.append(
        "This page and metrics.jsonl: test accuracies come from the server's test set, but the picture of the clients' "
        "data shows it as it is. It is for simulations; keep it with the data."
    )
    return lines
