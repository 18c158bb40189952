"""From a run to report.html: one file, no network, light and dark, wide and narrow."""

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from edgekit.data import FederatedDataset
from edgekit.data.unlabelled import kind_of
from edgekit.devices.population.clock import read_played
from edgekit.experiment import Experiment
from edgekit.guarantee import Plan, Statement
from edgekit.privacy.statement import covered, not_covered
from edgekit.report import by_objective, closer, compression, devices, pictures
from edgekit.runfolder import RunFolder, measure_of, read_lines, write_whole
from edgekit.server.engines.fleet.nodes import by_kind

if TYPE_CHECKING:
    from torch import nn

SHOWN_CLIENTS = 1000
PART_BEGIN, PART_END = "<!-- {} -->", "<!-- /{} -->"


@dataclass(frozen=True)
class SpikingSample:
    """One test example on its way through the spiking network.

    Attributes:
        example: as the network takes it.
        label: its class.
        layer_names: of the layers of neurons.
        spikes: of each layer, (steps, neurons).
        membranes: of each layer, voltages of a few neurons in units of their threshold, (steps, shown).
        voltages: of the readout, (steps, classes).
    """

    example: NDArray[np.float32]
    label: str
    layer_names: list[str]
    spikes: list[NDArray[np.bool_]]
    membranes: list[NDArray[np.float64]]
    voltages: NDArray[np.int32]


def write_report(
    folder: RunFolder,
    experiment: Experiment,
    result: dict[str, Any],
    dataset: FederatedDataset,
    statement: Statement,
    plan: Plan | None,
    sample: SpikingSample | None,
    scores: NDArray[np.float32],
    model: "nn.Module | None" = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write report.html.

    Args:
        folder: the run folder; its metrics.jsonl is drawn.
        experiment: resolved.
        result: what result.json will hold.
        dataset: the clients' data, for the picture of sizes and labels.
        statement: what privacy covers, in words.
        plan: the privacy plan, None without privacy.
        sample: one example through the spiking network, None without it.
        scores: what the network gives for the test examples, (examples, outputs).
        model: the trained network, to see what an answer was based on.
        earlier: runs of the same experiment: `path`, `score`, `differs`, and `report` where it has one.
    """
    rounds = list(read_lines(folder.metrics))
    shown = range(min(dataset.clients, SHOWN_CLIENTS))
    nodes = by_kind(folder)
    parties = dataset.parties
    drawn, unreadable = {}, 0
    if not nodes and not parties:
        histogram, unreadable = _histogram(dataset, shown)
        drawn = {"clients": pictures.clients(histogram, dataset.kinds)}
    measure, score = measure_of(result)
    if rounds:
        drawn["by_round"] = pictures.by_round(rounds, measure)
        drawn["loss"], drawn["spent"] = closer.loss(rounds), closer.spent(rounds)
        if "clients" in result:
            drawn["by_client"] = pictures.by_client(list(result["clients"][measure].values()), measure)
        if plan is not None:
            drawn["epsilon"] = pictures.epsilon(rounds, plan.target_epsilon)
    page = template("page.html").render(
        result=result,
        experiment=experiment,
        settings=folder.experiment.read_text(),
        pictures=drawn,
        measure=measure,
        shown=as_shown,
        score=as_shown(measure, score),
        answers=by_objective.drawn(dataset, scores, result),
        stages=result.get("compression", []),
        widths=_with_files(result),
        width_presets=list(result.get("tflite", {})) if "widths" in result else [],
        compressed=compression.drawn(result),
        zeros_alone=compression.zeros_alone(result),
        closer={} if model is None else closer.looked(dataset, scores, model),
        earlier=earlier,
        use=_how_to_use(folder, dataset, result),
        forms=_forms_section(folder, result),
        failed=_failures(result),
        spiking=_spiking_section(result, dataset.classes, sample),
        rounds=rounds,
        simulated=devices.drawn(read_played(folder.devices), rounds),
        shown_clients=len(shown),
        unreadable=unreadable,
        clients=dataset.clients,
        nodes=nodes,
        parties=[{"name": table.name, "ids": len(table.ids), "shape": table.x.shape[1:]} for table in parties],
        plan=plan,
        covered=covered(statement, plan, result["privacy"]["epsilon"] if plan else 0.0),
        not_covered=not_covered(statement, plan, experiment.privacy.randomness, experiment.privacy.ledger),
    )
    write_whole(folder.report, page)


def _with_files(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of networks of several widths, the whole one's with the run's own files."""
    rows = {width: {"tflite": {}, **row} for width, row in result.get("widths", {}).items()}
    return {**rows, "1": {**rows["1"], "tflite": result.get("tflite", {})}} if rows else {}


def _how_to_use(folder: RunFolder, dataset: FederatedDataset, result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what to do with a run, each with the exact command."""
    data, labelled = {
        "table": ("new.csv", "labelled.csv"),
        "audio": ("recordings/", "recordings/"),
        "image": ("photos/", "photos/"),
        "array": ("new.npz", "labelled.npz"),
    }[kind_of(dataset.shape, dataset.normalisation)]
    run = shlex.quote(str(folder.path))
    found = [
        ("its answers for new examples", f"edgekit predict {run} {data} --out answers.csv"),
        ("how good it is on others", f"edgekit evaluate {run} {labelled}"),
        ("another number format", f"edgekit export {run} --preset int8-full"),
    ]
    if made := result.get("tflite"):
        path = next(iter(made.values()))["path"]
        found.append(("whether a file works here", f"edgekit inspect {shlex.quote(str(folder.path / path))} --check"))
    found.append(("in Python", f'import edgekit; edgekit.open("{folder.path}").predict(x).rows'))
    found.append(("learn on from here", f"edgekit run mine.toml model.weights={run}"))
    return found


def renew_tflite(folder: RunFolder, result: dict[str, Any]) -> None:
    """Bring an existing report's section of the model's forms up to date, after files were exported again."""
    _renew(folder, "forms", _forms_section(folder, result))


def renew_spiking(folder: RunFolder, result: dict[str, Any], classes: Sequence[str], sample: SpikingSample) -> None:
    """Bring an existing report up to date after the spiking form was made again."""
    _renew(folder, "forms", _forms_section(folder, result))
    _renew(folder, "failed", _failures(result))
    _renew(folder, "spiking", _spiking_section(result, classes, sample))


def spiking_pictures(result: dict[str, Any], classes: Sequence[str], sample: SpikingSample) -> dict[str, str]:
    """Draw what there is to see of a spiking network, as SVG text by name."""
    facts = result["spiking"]
    drawn = {
        "sample": pictures.image(sample.example),
        "raster": pictures.raster(sample.spikes, sample.layer_names),
        "membranes": pictures.membranes(sample.membranes, sample.layer_names),
        "voltages": pictures.voltages(sample.voltages, classes, sample.label),
        "rates": pictures.rates(facts["rates"]),
        "early": pictures.early(facts["early_decision"], facts["steps"], facts["accuracy_loihi"]),
    }
    if len(facts["by_steps"]) > 1:  # sequences have one number of steps, their own
        drawn["steps"] = pictures.steps(facts["by_steps"], facts["steps"], result["accuracy"])
    return drawn


def _renew(folder: RunFolder, part: str, content: str) -> None:
    if not folder.report.exists():
        return
    begin, end = PART_BEGIN.format(part), PART_END.format(part)
    before, found, rest = folder.report.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if found and ended:
        write_whole(folder.report, before + begin + content + end + after)


def _failures(result: dict[str, Any]) -> str:
    lines = result.get("failed", {}).items()
    return "".join(f'<p class="warning">The stage “{stage}” failed: {html.escape(why)}</p>\n' for stage, why in lines)


def _spiking_section(result: dict[str, Any], classes: Sequence[str], sample: SpikingSample | None) -> str:
    if sample is None:
        return ""
    drawn = spiking_pictures(result, classes, sample)
    return template("spiking.html").render(result=result, pictures=drawn, sample_label=sample.label)


def template(name: str) -> jinja2.Template:
    """Return a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = style()
    return environment.get_template(name)


def style() -> str:
    """Return the pages' and pictures' style sheet."""
    return _read("page.css")


def _read(name: str) -> str:
    return files("edgekit.report").joinpath(name).read_text()


def _forms_section(folder: RunFolder, result: dict[str, Any]) -> str:
    measure, _ = measure_of(result)
    forms = _forms(folder, result)
    leaving = pictures.exits(result["exits"]) if "exits" in result else ""
    return template("forms.html").render(result=result, forms=forms, measure=measure, shown=as_shown, leaving=leaving)


def as_shown(measure: str, value: float) -> str:
    """Return a measure's value for people: shares as percent."""
    return f"{100 * value:.2f} %" if measure == "accuracy" else f"{value:.3f}"


def _histogram(dataset: FederatedDataset, clients: Iterable[int]) -> tuple[NDArray[np.int64], int]:
    """Return the clients' examples by class, and how many clients' data could not be read (their rows are zero)."""
    rows, unreadable = [], 0
    for client in clients:
        try:
            rows.append(dataset.histogram([client])[0])
        except Exception:
            rows.append(np.zeros(len(dataset.kinds), np.int64))
            unreadable += 1
    return np.stack(rows), unreadable


def _forms(folder: RunFolder, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each form of the model: name, where it runs, bytes, score."""
    measure, score = measure_of(result)
    multiplied = f"{result['macs']:,} multiply-adds" if result.get("macs") else "–"
    rows = [
        {
            "name": "PyTorch",
            "runs_on": "servers",
            "format": "float32",
            "bytes": folder.model.stat().st_size,
            "score": score,
            "file": "model.safetensors",
            "work": multiplied,
        }
    ]
    for preset, facts in result.get("tflite", {}).items():
        rows.append(
            {
                "name": f"TFLite {preset}",
                "runs_on": "phones, boards",
                "format": preset,
                "bytes": facts["bytes"],
                "score": facts[measure],
                "file": facts["path"],
                "work": multiplied,
            }
        )
    exits = result.get("exits", {})
    for form, leaving in (("float32", exits), ("int8", exits.get("int8"))):
        if not leaving:
            continue
        rows.append(
            {
                "name": f"TFLite {form}, early exits",
                "runs_on": "phones, boards",
                "format": form,
                "bytes": leaving["bytes"],
                "score": leaving["accuracy"],
                "file": leaving["path"],
                "work": f"{leaving['mean_macs']:,} multiply-adds on average",
            }
        )
    if stream := result.get("stream"):  # held to torch's scores
        rows.append(
            {
                "name": "TFLite, a frame at a time",
                "runs_on": "phones, boards",
                "format": "float32",
                "bytes": stream["bytes"],
                "score": score,
                "file": stream["path"],
                "work": multiplied,
            }
        )
    if spiking := result.get("spiking"):
        if (folder.path / "spiking/network.nir").exists():
            rows.append(
                {
                    "name": f"Spiking, {spiking['steps']} steps",
                    "runs_on": "simulators that read NIR",
                    "format": "float32",
                    "bytes": (folder.path / "spiking/network.nir").stat().st_size,
                    "score": spiking["accuracy_float"],
                    "file": "spiking/network.nir",
                    "work": f"{spiking['synops']:,.0f} synaptic operations",
                }
            )
        rows.append(
            {
                "name": f"Loihi integers, {spiking['steps']} steps",
                "runs_on": "Loihi-style chips",
                "format": "8-bit",
                "bytes": (folder.path / "spiking/loihi.npz").stat().st_size,
                "score": spiking["accuracy_loihi"],
                "file": "spiking/loihi.npz",
                "work": f"{spiking['synops']:,.0f} synaptic operations",
            }
        )
    return rows
