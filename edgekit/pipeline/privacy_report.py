"""What was spent of data's privacy, in a run or on a device: the ledger, read again, beside what it is a ledger of."""

from pathlib import Path
from typing import Any

from edgekit import algorithms
from edgekit import experiment as experiments
from edgekit.clients.budget import ACCOUNTANT, Budget
from edgekit.clients.node.agreement import agreed
from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import UsageError
from edgekit.privacy import Ledger
from edgekit.privacy.accounting import History
from edgekit.privacy.filter import Filter
from edgekit.privacy.statement import always_open
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint


def of(path: Path) -> dict[str, Any]:
    """Return what was spent in a run folder, on a node, or by all runs that name a ledger.

    Raises:
        UsageError: this is none of these.
        PrivacyError: the ledger's lines do not follow from each other.
    """
    if (path / "experiment.toml").exists():
        return _of_run(RunFolder.open(path))
    if NodeFolder(path).joined or (path / "agreement.json").exists():
        return _of_node(NodeFolder(path))
    if path.is_file():
        return _of_filter(Filter(path))
    raise UsageError(
        f"{path} is neither a run folder nor a node's, nor a ledger of several runs: give one, such as runs/NAME or "
        "~/.local/share/edgekit/node"
    )


def _of_run(folder: RunFolder) -> dict[str, Any]:
    experiment = experiments.load(folder.experiment)
    found = checkpoint.latest(folder.checkpoint)  # before the ledger, which a run under way goes on writing
    privacy, ledger = experiment.privacy, Ledger(folder.privacy)
    mechanism = algorithms.mechanism_of(privacy, experiment.split)
    if mechanism is None:
        return {"run": experiment.name, "protected": "nothing: privacy.unit is none", "open": [], "holds": []}
    statement = mechanism.statement()
    return {
        "run": experiment.name,
        "protected": f"{statement.whose}, noise added by the {statement.by}",
        "neighbours": statement.neighbours,
        "epsilon": round(ledger.epsilon(privacy.delta, privacy.accountant), 4),
        "of": privacy.epsilon,
        "delta": privacy.delta,
        "accountant": privacy.accountant,
        "rounds": ledger.rounds,
        "charges": _charges(ledger.most_charged(privacy.delta, privacy.accountant)),
        "whole": found is None or ledger.holds(found.ledger),
        "holds": list(statement.holds),
        "open": [*statement.open, *always_open(privacy.ledger)],
    }


def _of_filter(shared: Filter) -> dict[str, Any]:
    whose = "one example" if shared.total.unit == "example" else "everything that one client owns"
    return {
        "ledger": shared.path.name,
        "protected": f"{whose}, over all runs on the same data that name it",
        "epsilon": round(shared.epsilon, 4),
        "of": shared.total.epsilon,
        "delta": shared.total.delta,
        "accountant": f"a Renyi filter of order {shared.total.order}",
        "rounds": shared.rounds,
        "charges": [],
        "runs": {run: round(share, 6) for run, share in shared.runs.items()},
        "left": round(shared.left, 6),
        "whole": True,
        "holds": [],
        "open": always_open(str(shared.path))[1:],
    }


def _of_node(folder: NodeFolder) -> dict[str, Any]:
    ledger, agreement, settings = (
        Ledger(folder.ledger, folder.ledger_head),
        agreed(folder.agreement),
        folder.node_settings(),
    )
    own = settings.epsilon or (agreement.epsilon if agreement else 0.0)
    delta = agreement.delta if agreement else settings.delta
    budget = Budget(ledger, own, delta)
    histories = budget.histories()
    return {
        "node": settings.name,
        "protected": "what this device adds noise to" if own else "nothing by this device: its owner set no limit",
        "epsilon": round(budget.spent(), 4),
        "of": round(own, 4) or None,
        "delta": delta * (2 - 0.5 ** max(0, len(histories) - 1)),
        "accountant": ACCOUNTANT,
        "rounds": ledger.rounds,
        "charges": [charge for history in histories.values() for charge in _charges(history)],
        "whole": True,
        "holds": [],
        "open": always_open(),
    }


def _charges(history: History) -> list[dict[str, float]]:
    return [{"noise_multiplier": noise, "sample_rate": rate, "steps": steps} for noise, rate, steps in history]
