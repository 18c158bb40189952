"""The guarantee in plain words, for reports, cards and owners of devices: what it covers, and what it does not."""

from edgekit.experiment import Experiment
from edgekit.privacy.plan import Plan

BETWEEN_PARTIES = (
    "Learning with other parties is not private: whoever runs the coordinator sees what this device's network makes of "
    "its people and may rebuild their features from it, learns how many there are and whom of those that it asks about "
    "this device knows, and may ask about anybody"
)
"""What the owner of a device is told that is one of several parties."""


def summary(plan: Plan | None, spent: float, rounds: int, *, seeded: bool) -> str:
    """Return the guarantee in one sentence.

    Args:
        plan: the plan, None without privacy.
        spent: epsilon that the ledger counts.
        rounds: that the ledger counts.
        seeded: whether the noise comes from the experiment's seed.
    """
    if plan is None:
        return "No differential privacy: the updates and the model may tell of single examples."
    whose = "one example" if plan.unit == "example" else "everything that one client owns"
    whom = plan.noise
    if plan.split:
        whom = "devices" if plan.noise == "client" else "devices and the server, who is trusted"
    simulated = " Simulated: the noise comes from the experiment's seed." if seeded else ""
    return (
        f"({spent:.2f}, {plan.delta:g})-differential privacy for {whose}, noise added by the {whom}, "
        f"counted by the {plan.accountant.upper()} accountant over {rounds} rounds.{simulated}"
    )


def covered(plan: Plan | None, spent: float) -> list[str]:
    """Return what the guarantee covers, with the epsilon that was spent."""
    if plan is None:
        return []
    lines = []
    if plan.split and plan.noise == "client":
        lines.append(
            "Replacing any single training example by any other changes the probability of what its device sends by a "
            f"factor of at most e^{spent:.2f}, except with probability {plan.delta:g}."
        )
    elif plan.unit == "example":
        lines.append(
            "Adding or removing any single training example changes the probability of any outcome by a factor of at "
            f"most e^{spent:.2f}, except with probability {plan.delta:g}."
        )
    elif plan.noise == "server":
        lines.append(
            "Adding or removing all data of any single client changes the probability of any outcome by a factor of "
            f"at most e^{spent:.2f}, except with probability {plan.delta:g}."
        )
    else:
        lines.append(
            "Replacing all data of any single client by any other changes the probability of what it sends by a "
            f"factor of at most e^{spent:.2f}, except with probability {plan.delta:g}."
        )
    if plan.split and plan.noise == "server":
        lines.append(
            "It holds against everybody but the server: other devices, and whoever gets the model or files made of it. "
            "Devices add noise to the gradients of their parts of the network, the server to those of its own."
        )
    elif plan.split:
        lines.append(
            "It holds against the server too: activations, the gradients that devices send, and their parts' weights "
            "are clipped and noised before they leave the device, and counted together."
        )
    elif plan.noise == "server":
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
        if experiment.split.parties:
            return [
                "Nothing is protected: the coordinator sees what each party's network makes of its people and may "
                "rebuild features from it, learns how many people a party has and which of those that it asks about; "
                "a party learns which of its own are trained on and how many the coordinator asks about, and may tell "
                "labels from the gradients. Ids that nobody asks about stay hidden."
            ]
        return ["Nothing is protected; set privacy.unit to example or client."]
    lines = []
    if plan.split and plan.noise == "server":
        lines.append(
            "The server itself: it sees what the devices' part of the network makes of every example, without noise, "
            "and can rebuild examples from it; `edgekit split attack` shows how well."
        )
        lines.append(
            "The bytes that were moved, in metrics.jsonl, nodes.json, result.json and on this page: they tell how "
            "large the drawn batches were; keep them with the data."
        )
    elif plan.noise == "server":
        lines.append("The server is trusted: it sees the clients' clipped contributions before it adds the noise.")
    if plan.unit == "example":
        lines.append(
            "A client's data as a whole: a client with many similar examples is protected less than one example."
        )
    if (plan.unit, plan.noise) == ("client", "server"):
        lines.append(
            "Who takes part in which round must stay secret, since the count relies on it: metrics.jsonl and the "
            "messages of a run show each round's cohort; keep them with the data."
        )
    else:
        lines.append("Who takes part, and how many examples each client has, is taken as public.")
    lines.append("Settings chosen by looking at results of earlier runs are not counted.")
    if experiment.privacy.randomness == "seed":
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


def for_owners(plan: Plan | None, cut: bool = False) -> str:
    """Say to a device's owner what its updates tell, and to whom; `cut` is of split learning."""
    if plan is None and cut:
        return (
            "Split learning is not private: whoever runs the coordinator sees what this device's part of the network "
            "makes of every example, and may rebuild examples and labels from it"
        )
    if plan is not None and cut:
        guarantee = f"({plan.epsilon:.2f}, {plan.delta:g})-differential privacy for one example "
        if plan.noise == "client":
            return f"This device adds noise to all that it sends: {guarantee}against everybody, the coordinator too"
        return (
            f"{guarantee}against who sees the model; but whoever runs the coordinator sees what this device's part of "
            "the network makes of every example, and may rebuild examples and labels from it"
        )
    if plan is None:
        return "Updates are not private: whoever runs the coordinator may learn of single examples from them"
    whose = "one example" if plan.unit == "example" else "everything on this device"
    if plan.noise == "client":
        return (
            f"This device adds the noise itself: ({plan.epsilon:.2f}, {plan.delta:g})-differential privacy for {whose} "
            "against everybody, the coordinator too"
        )
    return (
        f"The coordinator adds the noise: ({plan.epsilon:.2f}, {plan.delta:g})-differential privacy for {whose} "
        "against who sees the model; who runs the coordinator sees this device's own updates"
    )
