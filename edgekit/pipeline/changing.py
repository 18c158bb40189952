"""A run's network as it changes between its phases: what goes, what is kept of each, and what it gains."""

import copy
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit import arrays
from edgekit import experiment as experiments
from edgekit.arrays import is_of
from edgekit.clients.torch_trainer import figures_of, load_weights, state
from edgekit.compression import channels, narrower, sparse
from edgekit.compression.attention import Watched, attending, mapped
from edgekit.compression.distil import distilled
from edgekit.compression.phases import Phase
from edgekit.compression.record import Record, done_to, rebuilt, without_sparse
from edgekit.compression.sensitivity import sensitivity
from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError, ExperimentError, ModelError, RunFolderError, nearest
from edgekit.experiment import Experiment
from edgekit.export.memory import needs
from edgekit.export.tflite import Subject, export
from edgekit.models.cost import macs
from edgekit.models.fake_quantisation import plain as unrounded
from edgekit.models.norm import fold_weight_standardisation
from edgekit.objectives import objective_of
from edgekit.pipeline.rounding import agreement, rounding
from edgekit.pipeline.subjects import build_network, load_run
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder
from edgekit.server.loop.evaluation import outputs_of

LOSES = 1.0
"""How much a file on the way may lose: it is measured, not delivered."""


class Changing:
    """Changes a run's network between its phases, and keeps each as it began.

    Args:
        experiment: the experiment.
        dataset: its data.
        folder: the run.
        say: told of each change.
        model: the network as the run begins.

    Attributes:
        record: what was done to the network so far.
        rows: of the network before and after each change.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: FederatedDataset,
        folder: RunFolder,
        say: Callable[[str], None],
        model: nn.Module,
    ) -> None:
        self._experiment, self._dataset, self._folder, self._say = experiment, dataset, folder, say
        self._begins = copy.deepcopy(model)
        self.record: Record = done_to(model)
        self.rows: list[dict[str, Any]] = []

    def teach(self, model: nn.Module) -> None:
        """Give the network a teacher."""
        asked = self._experiment.compression.distil
        folder = RunFolder.open(Path(asked.teacher))
        teacher, data = load_run(folder, experiments.load(folder.experiment))
        for what, own, theirs in (
            ("classes", list(self._dataset.classes), list(data.classes)),
            ("examples of shape", self._dataset.shape, data.shape),
        ):
            if own != theirs:
                raise ExperimentError(
                    f"the teacher {asked.teacher} has the {what} {theirs}, the student {own}: they must be the same"
                )
        watched, what = None, ""
        if asked.features:
            x = torch.zeros(1, *self._dataset.shape)
            with torch.no_grad():
                if model.eval()(x).dim() != 2:
                    raise ModelError("compression.distil.features is of networks with one answer: set it to 0")
            layer, size = mapped(model, x)
            other, _ = mapped(teacher, x)
            watched, what = Watched(teacher, other, size), f"; its {layer} looks where the teacher's {other} does"
            attending(model, layer)
        made = distilled(objective_of(model), teacher, asked.temperature, asked.share, asked.features, watched)
        model.objective = made  # type: ignore[assignment]
        self._say(f"learns from {asked.teacher} too, for {100 * asked.share:.0f} % of the loss{what}")

    def foresee(self, model: nn.Module) -> None:
        """See that the changes asked for can be made of this network: it is tried, before hours are spent.

        Raises:
            ExperimentError: no layer is of a name that shall stay, or none is left to change.
            ModelError: its channels cannot be cut so far.
        """
        stages = self._experiment.compression.stages
        if "quantise" in stages:
            self._rounded(fold_weight_standardisation(model), lambda line: None)
        if not {"prune", "ticket"} & set(stages):
            return
        prune = self._experiment.compression.prune
        keep = prune.keep if "prune" in stages else self._experiment.compression.ticket.keep
        names = [name for name, _ in model.named_modules() if name]
        for pattern in keep:
            if not any(is_of(name, [pattern]) for name in names):
                raise ExperimentError(f"compression's keep: no layer is called {pattern!r}; {nearest(pattern, names)}")
        folded = fold_weight_standardisation(model)
        if not sparse.weights_of(folded, keep):
            raise ExperimentError("no layer is left that anything can go from: make compression's keep shorter")
        if "prune" in stages and prune.kind == "channels":
            self._narrowed(folded, prune.macs)

    def newest(self) -> int | None:
        """Return the number of the newest phase that was begun, None of a run that begins."""
        found = sorted(self._folder.checkpoint.glob("phase-[0-9][0-9][0-9].safetensors"))
        return int(found[-1].stem.partition("-")[2]) if found else None

    def save(self, model: nn.Module, number: int) -> None:
        """Keep the network that a phase begins with."""
        arrays.save(self._path(number), state(model), {"record": self.record, "rows": self.rows})

    def load(self, model: nn.Module, number: int) -> nn.Module:
        """Return the network that a phase began with.

        Args:
            model: as the experiment says; its objective stays.
            number: of the phase.
        """
        weights, told = arrays.load(self._path(number))
        try:
            self.record, self.rows = list(told["record"]), list(told["rows"])
        except (TypeError, KeyError, ValueError):
            raise RunFolderError(
                f"{self._path(number)} does not tell what was done to the network: it was written by another program"
            ) from None
        made = rebuilt(model, self._dataset.shape, self.record[len(done_to(model)) :])
        if problem := arrays.problem_with(weights, state(made)):
            raise RunFolderError(f"{self._path(number)} is not of this network: {problem}")
        load_weights(made, weights)
        return made

    def changed(self, model: nn.Module, phase: Phase, at: int) -> nn.Module:
        """Return the network that a phase trains; it begins after a round."""
        if not self.rows:
            row = self.told(model, "before", at)
            row["files"] = self.files(model)
            if phase.change != "quantise":
                row["sensitivity"] = self._sensitivity(model, phase.change)
        folded = fold_weight_standardisation(model)
        if set(state(folded)) != set(state(model)):
            self.record.append({"step": "fold"})
        if phase.change == "quantise":
            made, step = self._rounded(unrounded(folded), self._say)
            self.record = [*(one for one in self.record if one["step"] != "quantise"), step]
        else:
            made = self._cut(folded, phase) if phase.change == "channels" else self._sparse(folded, phase)
        made.objective = objective_of(model)  # type: ignore[assignment]
        made.compression = list(self.record)  # type: ignore[assignment]
        row = self.told(made, phase.change, at)
        if phase.change == "quantise":
            self._say(
                f"rounds as its {step['format']} file does, at {len(step['plan']['calls'])} places; "
                f"{row['measure']} {row['score']:.4f}"
            )
            return made
        self._say(
            f"{_NAMES[phase.change]}: {row['nonzero']:,} of {self.rows[0]['parameters']:,} weights, "
            f"{row['macs']:,} of {self.rows[0]['macs']:,} multiply-adds; {row['measure']} {row['score']:.4f}"
        )
        return made

    def told(self, model: nn.Module, what: str, at: int, trained: nn.Module | None = None) -> dict[str, Any]:
        """Return the figures of a network as it is, and remember them; its score is that of `trained`, if given."""
        plain, data = sparse.dense(unrounded(model)), self._dataset
        found = figures_of(data.objective, outputs_of(trained or model, data.test), data.test)
        row = {
            "stage": what,
            "round": at,
            "measure": found.measure,
            "score": round(found.score, 6),
            "parameters": sum(p.numel() for p in plain.parameters()),
            "nonzero": sum(int(p.count_nonzero()) for p in plain.parameters()),
            "macs": macs(plain, data.shape),
            "files": {},
        }
        self.rows.append(row)
        return row

    def files(self, model: nn.Module, trained: nn.Module | None = None) -> dict[str, Any]:
        """Return what a network is as float32 and integer files: bytes, memory, latency on this machine, score.

        Args:
            model: the network.
            trained: the same as it was trained; of one that rounds its file's nearness is told too.
        """
        asked = self._experiment.compression
        wanted = {"float32", "int8", *([asked.quantise.format] if "quantise" in asked.stages else [])}
        presets = [preset for preset in self._experiment.export.presets if preset in wanted]
        found: dict[str, Any] = {}
        plain = sparse.dense(unrounded(model))
        plain.objective = self._dataset.objective  # type: ignore[assignment]
        for preset in presets:
            try:
                with tempfile.TemporaryDirectory() as place:
                    subject = Subject.of(plain, self._dataset)
                    made = export(subject, [preset], Path(place), {}, LOSES)[preset]
                    content = made.path.read_bytes()
            except EdgekitError as error:
                self._say(f"the {preset} file of the network on its way cannot be measured: {error}")
                continue
            needed, latency = needs(content), next(iter(made.latency_us.values()))
            found[preset] = {
                "bytes": len(content),
                "gzip": len(gzip.compress(content, mtime=0)),
                "activations": needed["activations"],
                "latency_us": latency.median,
                made.measure: round(made.score, 6),
            }
            if trained is not None and preset == asked.quantise.format and unrounded(trained) is not trained:
                found[preset] |= agreement(trained, self._dataset.test, content)
        return found

    def _sensitivity(self, model: nn.Module, change: str) -> dict[str, float]:
        """Return what is left of the measure on the server's own examples, when one layer alone is pruned as asked."""
        asked, own, objective = self._experiment.compression, self._dataset.calibration, self._dataset.objective
        share, keep = asked.prune.sparsity, asked.prune.keep
        if change == "ticket":
            share, keep = asked.ticket.sparsity, asked.ticket.keep
        if change == "channels":
            share = 1 - asked.prune.macs
        plain = fold_weight_standardisation(sparse.dense(model))
        found = sensitivity(
            plain, share, change == "channels", keep, lambda one: figures_of(objective, outputs_of(one, own), own).score
        )
        return {name: round(score, 4) for name, score in found.items()}

    def _rounded(self, model: nn.Module, say: Callable[[str], None]) -> tuple[nn.Module, dict[str, Any]]:
        asked = self._experiment
        return rounding(model, self._dataset, asked.compression.quantise, asked.export.percentile, say)

    def _cut(self, model: nn.Module, phase: Phase) -> nn.Module:
        share = phase.amount * self.rows[0]["macs"] / macs(model, self._dataset.shape)
        made, step, told = self._narrowed(model, min(share, 1.0))
        if step["step"] == narrower.STEP:
            self.record = [one for one in self.record if one["step"] != narrower.STEP]
            self._say(told)
        self.record.append(step)
        return made

    def _narrowed(self, model: nn.Module, share: float) -> tuple[nn.Module, dict[str, Any], str]:
        """Return a network with fewer channels, what was done to it, and a line on it.

        Raises:
            ModelError: neither by torch-pruning nor by our own rule.
        """
        keep, shape = self._experiment.compression.prune.keep, self._dataset.shape
        if not any(step["step"] == narrower.STEP for step in self.record):
            try:
                made, history = channels.cut(model, shape, share, keep)
                return made, {"step": "channels", "history": history}, ""
            except ModelError as error:
                problem = error
            if keep:
                raise problem
        else:
            problem = ModelError("it was built narrower before")
        try:
            made, width = narrower.cut(model, shape, share, self.record)
        except ModelError as error:
            raise ModelError(f"{problem}; {error}") from None
        what = f"channels cannot go by importance here: each layer keeps its leading ones, {width:.2f} of its width"
        return made, {"step": narrower.STEP, "width": width}, what

    def _sparse(self, model: nn.Module, phase: Phase) -> nn.Module:
        ticket = phase.change == "ticket"
        asked = self._experiment.compression.ticket if ticket else self._experiment.compression.prune
        weights = sparse.weights_of(model, asked.keep)
        pattern = "" if ticket else self._experiment.compression.prune.pattern
        masks: sparse.Masks = sparse.largest(weights, phase.amount, asked.scope, pattern)
        start = sparse.dense(model)
        if ticket:
            start, masks = self._ticket(start, masks)
        made = sparse.sparse(start, masks)
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        self.record = [*without_sparse(model, self.record)[1], {"step": "sparse", "kept": kept}]
        return made

    def _ticket(self, model: nn.Module, masks: sparse.Masks) -> tuple[nn.Module, sparse.Masks]:
        """Return what a ticket begins with, and its masks."""
        asked, seed = self._experiment.compression.ticket, self._experiment.seed
        if asked.mask == "random":
            drawn = torch.Generator().manual_seed(int(generator(seed, "mask").integers(2**62)))
            masks = sparse.by_chance(masks, drawn)
        if asked.start == "reinitialised":
            plain = self._experiment.model.model_copy(update={"weights": "", "new": []})
            other = self._experiment.model_copy(update={"seed": (seed + 1) % 2**63, "model": plain})
            drawn_anew = build_network(other, self._dataset, self._dataset.calibration.x)
            before = done_to(self._begins)
            return fold_weight_standardisation(rebuilt(drawn_anew, self._dataset.shape, before)), masks
        begun, _ = arrays.load(self._path(1 if asked.rewind else 0))
        again = copy.deepcopy(self._begins)
        load_weights(again, begun)
        return fold_weight_standardisation(again), masks

    def _path(self, number: int) -> Path:
        return self._folder.checkpoint / f"phase-{number:03d}.safetensors"


_NAMES = {
    "weights": "pruned weights",
    "channels": "cut channels",
    "ticket": "took the ticket",
}
