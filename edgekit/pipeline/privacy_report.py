"""What was spent of data's privacy, in a run or on a device: the ledger, read again, beside what it is a ledger of."""

from pathlib import Path
from typing import Any

from edgekit import algorithms
from edgekit import experiment as experiments
from edgekit.clients.budget import ACCOUNTANT
from edgekit.clients.node.agreement import agreed
from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import UsageError
from edgekit.privacy import Ledger
from edgekit.privacy.accounting import History
from edgekit.privacy.statement import always_open
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint


def of(path: Path) -> dict[str, Any]:
    """Return what was spent in a run folder, or on a node.

    Raises:
        UsageError: this is neither.
        PrivacyError: the ledger's lines do not follow from each other.
    """
    if (path / "experiment.toml").exists():
        return _of_run(RunFolder.open(path))
    if NodeFolder(path).joined or (path / "agreement.json").exists():
        return _of_node(NodeFolder(path))
    raise UsageError(
        f"{path} is neither a run folder nor a node's: give one, such as runs/NAME or ~/.local/share/edgekit/node"
    )


def _of_run(folder: RunFolder) -> dict[str, Any]:
    experiment = experiments.load(folder.experiment)
    privacy, ledger = experiment.privacy, Ledger(folder.privacy)
    mechanism = algorithms.mechanism_of(privacy, experiment.split)
    if mechanism is None:
        return {"run": experiment.name, "protected": "nothing: privacy.unit is none", "open": [], "holds": []}
    found = checkpoint.latest(folder.checkpoint)
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
        "open": [*statement.open, *always_open()],
    }


def _of_node(folder: NodeFolder) -> dict[str, Any]:
    ledger, agreement, settings = Ledger(folder.ledger), agreed(folder.agreement), folder.node_settings()
    own = settings.epsilon or (agreement.epsilon if agreement else 0.0)
    delta = agreement.delta if agreement else settings.delta
    return {
        "node": settings.name,
        "protected": "what this device adds noise to" if own else "nothing by this device: its owner set no limit",
        "epsilon": round(ledger.epsilon(delta, ACCOUNTANT), 4),
        "of": round(own, 4) or None,
        "delta": delta,
        "accountant": ACCOUNTANT,
        "rounds": ledger.rounds,
        "charges": _charges(ledger.most_charged(delta, ACCOUNTANT)),
        "whole": True,
        "holds": [],
        "open": always_open(),
    }


def _charges(history: History) -> list[dict[str, float]]:
    return [{"noise_multiplier": noise, "sample_rate": rate, "steps": steps} for noise, rate, steps in history]
