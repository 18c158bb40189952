"""Narrower networks that a run's clients trained beside the whole one: measured, kept and exported each by itself."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from edgekit import arrays
from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.slices import Sliced
from edgekit.arrays import Weights
from edgekit.clients.torch_trainer import figures_of, load_weights, state
from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError
from edgekit.experiment import Experiment
from edgekit.models import build
from edgekit.models.cost import macs
from edgekit.models.settings import Model
from edgekit.objectives import objective_of
from edgekit.pipeline.exporting import write_files
from edgekit.server.loop.evaluation import outputs_of
from edgekit.server.loop.metrics import rounded_all

if TYPE_CHECKING:
    from edgekit.pipeline.job import Job

WIDTHS = "widths"
"""Key of result.json, and the folder of a run with their weights."""


def networks_of(
    algorithm: Algorithm, weights: Weights, experiment: Experiment, dataset: FederatedDataset
) -> dict[str, nn.Module]:
    """Return the narrower networks of a method by name, with their part of a model's weights; {} of other methods."""
    if not isinstance(algorithm, Sliced):
        return {}
    parts = algorithm.delivered(weights)
    return {name: _built(section, own, experiment, dataset) for name, (section, own) in parts.items()}


def _built(section: Model, weights: Weights, experiment: Experiment, dataset: FederatedDataset) -> nn.Module:
    network = build(section, dataset.shape, len(dataset.classes), experiment.seed, objective=dataset.objective)
    load_weights(network, weights)
    return network.eval()


def keep_widths(
    job: "Job", dataset: FederatedDataset, algorithm: Sliced, weights: Weights, say: Callable[[str], None]
) -> list[EdgekitError]:
    """Write each narrower network's weights and files, and its facts into `result`; return what went wrong.

    Args:
        job: the run.
        dataset: its data.
        algorithm: its method.
        weights: trained ones of the whole network.
        say: told of each.
    """
    result, failures = job.result, []
    whole = algorithm.names[0]
    taken = dict(zip(algorithm.names, algorithm.settings.widths, strict=True))
    measure = dataset.objective.measure
    rows: dict[str, dict[str, Any]] = {
        "1": {key: result[key] for key in (measure, "parameters", "macs")}
        | {"bytes_sent": algorithm.bytes_of(whole), "model_width": job.experiment.model.width}
    }
    trained = {name: weights[name] for name in algorithm.shapes}
    for name, (section, part) in algorithm.delivered(trained).items():
        network = _built(section, part, job.experiment, dataset)
        found = figures_of(objective_of(network), outputs_of(network, dataset.test), dataset.test)
        row = {
            **rounded_all({measure: found.score}),
            "parameters": sum(p.numel() for p in network.parameters()),
            "macs": macs(network, dataset.shape),
            "bytes_sent": algorithm.bytes_of(name),
            "model_width": section.width,
        }
        rows[f"{taken[name]:g}"] = row
        say(f"width {taken[name]:g}: {measure} {found.score:.4f}, {row['parameters']:,} weights")
        path = job.folder.path / WIDTHS / f"{taken[name]:g}.safetensors"
        arrays.save(path, state(network), {"model": section.model_dump()})
        settings = job.experiment.export
        if "export" in job.skipped or not settings.presets:
            continue
        own = {"privacy_statement": result["privacy_statement"]}
        try:
            write_files(
                network,
                dataset,
                job.experiment,
                job.folder,
                own,
                settings.presets,
                False,
                say,
                place=job.folder.export / f"width-{taken[name]:g}",
            )
        except EdgekitError as error:
            failures.append(error)
        row["tflite"] = own["tflite"]
    result[WIDTHS] = rows
    return failures
