"""What a run keeps when training has ended: the weights, and how it went, for result.json."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from edgekit import arrays
from edgekit.clients.torch_trainer import figures_of
from edgekit.data import FederatedDataset
from edgekit.models.cost import macs
from edgekit.objectives import Objective, objective_of
from edgekit.pipeline.compressing import Training
from edgekit.pipeline.subjects import COMPRESSION, input_facts
from edgekit.privacy.events import tree
from edgekit.privacy.statement import summary
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.engines.fleet.nodes import by_kind
from edgekit.server.loop.evaluation import outputs_of
from edgekit.server.loop.metrics import by_client, rounded_all
from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.pipeline.job import Job

TARGETS = 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99
"""Accuracies of which a run on simulated devices tells when they were reached."""
STATED_PACKAGES = ("torch", "flwr", "opacus", "dp-accounting", "litert-torch", "ai-edge-litert", "snntorch", "numpy")


def keep_model(job: "Job", dataset: FederatedDataset, trained: Training, *, simulated: bool) -> None:
    """Save the trained weights, and write down how training went."""
    model, coordinator, outcome = trained.model, trained.coordinator, trained.outcome
    told: dict[str, Any] = {"model": job.experiment.model.model_dump()}
    if trained.record:
        told[COMPRESSION] = trained.record
    arrays.save(job.folder.model, outcome.weights, told)
    objective = objective_of(model)
    scores, own = outputs_of(model, dataset.test), outputs_of(model, dataset.calibration)
    found = figures_of(objective, scores, dataset.test)
    decided = objective.decides(own, dataset.calibration.y, dataset.calibration.x)
    judged = objective.judged(decided, scores, dataset.test.y, dataset.test.x)
    job.scores = scores
    plan, ledger = coordinator.plan, coordinator.charging.ledger
    clients = dataset.clients if simulated else sum(kind["nodes"] for kind in by_kind(job.folder).values())
    job.result.update(
        {
            "name": job.experiment.name,
            **rounded_all(found.metrics),
            "objective": {**objective.chosen.model_dump(), "measure": objective.measure},
            "rounds": outcome.rounds,
            "interrupted": outcome.interrupted,
            "parameters": sum(p.numel() for p in model.parameters()),
            # Whoever stops a run waits for its result: what must first be imported is left out then.
            "macs": None if outcome.interrupted else macs(model, dataset.shape),
            "trainer": outcome.trainer,
            "data": {
                "description": dataset.description,
                "clients": clients,
                "test": len(dataset.test),
            },
            "input": input_facts(dataset),
            "privacy": None,
            "versions": {"edgekit": __version__, "python": platform.python_version(), **_versions()},
        }
    )
    if coordinator.attackers is not None:
        last = list(read_lines(job.folder.metrics))[-1:]
        job.result["attack"] = coordinator.attackers.facts(last[0]["metrics"] if last else {})
    if coordinator.devices is not None:
        job.result["devices"] = {**coordinator.devices.facts(), "to_reach": to_reach(job.folder, objective)}
    if trained.rows:
        job.result["compression"] = trained.rows
    if decided:
        job.result["decision"] = rounded_all({**decided, **judged})
    if coordinator.scores:
        job.result["clients"] = {
            **by_client(coordinator.scores),
            objective.measure: {str(client): round(one.score, 6) for client, one in coordinator.scores.items()},
        }
    spent = 0.0 if plan is None else ledger.epsilon(plan.delta, plan.accountant)
    seeded = simulated and job.experiment.privacy.randomness == "seed"
    job.result["privacy_statement"] = summary(coordinator.statement, plan, spent, ledger.rounds, seeded=seeded)
    if plan is not None:
        job.result["privacy"] = {
            "unit": plan.unit,
            "noise": plan.noise,
            "epsilon": round(spent, 4),
            "delta": plan.delta,
            "accountant": plan.accountant,
            "noise_multiplier": round(plan.noise_multiplier, 4),
            "adjacency": plan.adjacency,
            "events": tree(ledger.most_charged(plan.delta, plan.accountant)),
        }


def to_reach(folder: RunFolder, objective: Objective) -> dict[str, dict[str, float]]:
    """Return after how many hours of the virtual clock, rounds and joules an accuracy was reached first."""
    found: dict[str, dict[str, float]] = {}
    joules = 0.0
    if objective.measure != "accuracy":
        return {}
    for line in read_lines(folder.metrics):
        devices = line.get("devices") or {}
        joules += devices.get("joules", 0.0)
        for target in TARGETS:
            if devices and (line["accuracy"] or 0.0) >= target and str(target) not in found:
                hours = round((devices["clock"] - devices["began"]) / 3600, 4)
                found[str(target)] = {"hours": hours, "rounds": line["round"], "joules": round(joules, 3)}
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in STATED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
