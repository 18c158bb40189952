"""Runs whose network gets smaller: their rounds, privacy, resumption, and what is made of them."""

import json
import shutil

import pytest
from safetensors.numpy import save_file

import edgekit as ek
from edgekit import arrays
from edgekit import experiment as experiments
from edgekit.compression.record import rebuilt
from edgekit.errors import EdgekitError, ExperimentError, ModelError, RunFolderError
from edgekit.pipeline import compressing, job
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder
from edgekit.server.loop.sync import Coordinator

QUICK = (
    "data.clients=5", "federation.rounds=6", "training.epochs=1", "model.name=mlp", "model.norm=none",
    "model.arguments={}", "export.presets=[]", "spiking.enabled=false",
)  # fmt: skip
PRUNE = ('compression.stages=["prune"]', "compression.prune.steps=2")
PLAIN = "privacy.unit=none"


def _run(out, listener, *overrides):
    return job.run(experiments.load(None, [*QUICK, *overrides]), out, listener)


def _trained(out, listener, *overrides):
    """The rounds alone, from the newest checkpoint on: what training ends with, its weights and its lines."""
    experiment = experiments.load(None, [*QUICK, *overrides])
    dataset = load_dataset(experiment)
    folder = RunFolder.open(out) if out.exists() else RunFolder.create(out)
    experiments.save(experiment, folder.experiment)

    def coordinator(model, phase):
        return Coordinator(experiment, dataset, model, folder, listener.round_ended, listener.notice, phase=phase)

    model = build_network(experiment, dataset, dataset.calibration.x)
    return compressing.train(experiment, dataset, model, folder, coordinator, listener.notice)


class _StopsError(Exception):
    pass


class _Listens:
    """Keeps what it hears, and ends the process, so to say, after a round."""

    def __init__(self, after=0):
        self.notices, self.lines, self._after = [], [], after

    def notice(self, line):
        self.notices.append(line)

    def round_ended(self, metrics):
        self.lines.append(metrics)
        if metrics.round == self._after:
            raise _StopsError


def _killed(out, after, *overrides):
    """Training that dies after a round, and is gone on with."""
    with pytest.raises(_StopsError):
        _trained(out, _Listens(after), *overrides)
    return _trained(out, _Listens(), *overrides)


def _bytes(trained):
    return {name: array.tobytes() for name, array in trained.outcome.weights.items()}


def test_weights_that_are_zeros_are_not_sent_and_stay_zeros(tmp_path):
    heard = _Listens()
    trained = _trained(tmp_path / "a", heard, PLAIN, *PRUNE)
    assert [line.round for line in heard.lines] == [1, 2, 3, 4, 5, 6]
    sent = [line.bytes_up for line in heard.lines]
    assert sent[0] == sent[2] > sent[3] > sent[4] == sent[5]  # of a fifth of the weights and all biases
    before, first, last, end = trained.rows
    assert [row["round"] for row in trained.rows] == [3, 3, 4, 6]
    weights = trained.outcome.weights
    assert before["nonzero"] <= before["parameters"] == end["parameters"] == sum(w.size for w in weights.values())
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    assert end["parameters"] - end["nonzero"] == zeros
    assert zeros == pytest.approx(0.8 * sum(w.size for w in weights.values() if w.ndim > 1), abs=2)
    assert first["nonzero"] > last["nonzero"] >= end["nonzero"]
    assert trained.record == []  # an ordinary network, with zeros
    assert any("pruned weights" in line for line in heard.notices)
    for after in (1, 3, 5):
        assert _bytes(_killed(tmp_path / f"k{after}", after, PLAIN, *PRUNE)) == _bytes(trained)


def test_channels_that_are_cut_stay_away_in_everything_that_is_made_of_the_run(tmp_path, heard):
    channels = (PLAIN, *PRUNE, "compression.prune.kind=channels", "compression.prune.macs=0.4")
    result = _run(
        tmp_path / "a", heard, *channels, 'export.presets=["float32"]', "spiking.enabled=true", "spiking.steps=4"
    )
    before, *_, end = result["compression"]
    assert result["macs"] == end["macs"] <= 0.4 * before["macs"]
    assert result["parameters"] == end["parameters"] < before["parameters"]
    assert result["tflite"]["float32"]["accuracy"] == pytest.approx(result["accuracy"], abs=0.01)
    assert result["spiking"]["accuracy_loihi"] > 0.3
    run = ek.open(tmp_path / "a")
    assert run.evaluate()["accuracy"] == pytest.approx(result["accuracy"], abs=1e-6)
    assert sum(p.numel() for p in run.model().parameters()) == end["parameters"]
    weights, told = arrays.load(tmp_path / "a/model.safetensors")
    again = _bytes(_killed(tmp_path / "k", 5, *channels))
    assert again == {name: array.tobytes() for name, array in weights.items()}
    # A file that tells of cuts of another network is refused.
    told["compression"][-1]["history"] = [["elsewhere", True, [0]]]
    arrays.save(tmp_path / "a/model.safetensors", weights, told)
    with pytest.raises(ModelError, match="do not fit"):
        ek.open(tmp_path / "a").model()


@pytest.mark.parametrize("privacy", ["unit=example", pytest.param("unit=client", marks=pytest.mark.long)])
def test_under_privacy_the_rounds_are_one_plan_and_noise_is_of_what_is_left(tmp_path, privacy):
    asked = (f"privacy.{privacy}", "privacy.epsilon=20", "privacy.delta=5e-4", "training.momentum=0")
    trained = _trained(tmp_path / "a", _Listens(), *asked, *PRUNE)
    plan, ledger = trained.coordinator.plan, trained.coordinator.charging.ledger
    assert ledger.rounds == plan.rounds == 6
    assert ledger.epsilon(plan.delta, plan.accountant) == pytest.approx(20, rel=0.02)
    weights = list(trained.outcome.weights.values())
    assert sum(int((w == 0).sum()) for w in weights) > 0.7 * sum(w.size for w in weights)


@pytest.mark.long
def test_a_method_that_remembers_begins_anew_with_each_network(tmp_path):
    asked = (PLAIN, *PRUNE, "federation.algorithm=scaffold", "training.momentum=0")
    trained = _trained(tmp_path / "a", _Listens(), *asked)
    assert trained.outcome.rounds == 6
    assert _bytes(_killed(tmp_path / "k", 4, *asked)) == _bytes(trained)


def test_tickets_go_back_and_their_controls_differ(tmp_path):
    asked = (PLAIN, 'compression.stages=["ticket"]', "compression.ticket.rewind=1")
    begun, early = {}, {}
    for name, more in {
        "ticket": (), "random": ("compression.ticket.mask=random",),
        "other": ("compression.ticket.start=reinitialised",),
    }.items():  # fmt: skip
        _trained(tmp_path / name, _Listens(), *asked, *more)
        begun[name], told = arrays.load(tmp_path / f"{name}/checkpoint/phase-002.safetensors")
        early[name], _ = arrays.load(tmp_path / f"{name}/checkpoint/phase-001.safetensors")
    for layer in told["record"][-1]["kept"]:
        start = early["ticket"][f"{layer}.weight"].ravel()
        kept = {name: one[f"{layer}.kept"] for name, one in begun.items()}
        taken = {name: one[f"{layer}.taken"] for name, one in begun.items()}
        assert (kept["ticket"] == start[taken["ticket"]]).all()  # the values of round 1
        assert (kept["random"] == start[taken["random"]]).all()
        assert (kept["other"] != kept["ticket"]).any()
        assert (taken["other"] == taken["ticket"]).all()
        assert len(taken["random"]) == len(taken["ticket"])
        assert (taken["random"] != taken["ticket"]).any()


@pytest.mark.long
def test_a_student_learns_of_its_teacher(tmp_path, trained_run, heard):
    asked = (PLAIN, 'compression.stages=["distil"]', f"compression.distil.teacher={trained_run}", "data.clients=5")
    result = _run(tmp_path / "a", heard, *asked, "compression.distil.share=1.0")
    assert result["accuracy"] > 0.6  # of the teacher's answers alone
    assert any("learns from" in line for line in heard.notices)
    widths = ("federation.algorithm=heterofl", "federation.arguments.widths=[1.0, 0.5]", "federation.rounds=12")
    students = _run(tmp_path / "w", heard, *asked, *widths, "compression.distil.share=1.0")["widths"]
    assert min(row["accuracy"] for row in students.values()) > 0.6  # of several sizes in one run
    maps = ("compression.distil.features=10", "model.name=cnn")
    with pytest.raises(ModelError, match="has no layer that gives a map"):  # the teacher
        _run(tmp_path / "m", heard, *asked, *maps)
    _run(tmp_path / "t", heard, PLAIN, "model.name=cnn", "model.norm=group", "data.clients=5")
    taught = (PLAIN, asked[1], f"compression.distil.teacher={tmp_path / 't'}", *maps)
    with pytest.raises(ExperimentError, match=r"unequal widths, but compression\.distil\.features"):
        _run(tmp_path / "u", heard, *taught, *widths)
    _run(
        tmp_path / "p",
        heard,
        "privacy.unit=example",
        "privacy.epsilon=20",
        "privacy.delta=5e-4",
        "training.momentum=0",
        *asked[1:],
    )
    with pytest.raises(ExperimentError, match="they must be the same"):
        _run(tmp_path / "b", heard, *asked, "data.source=moving-digits", "data.clients=4", "model.name=spiking-mlp")


def test_a_network_that_is_cut_between_machines_is_not_compressed(tmp_path, heard):
    with pytest.raises(ExperimentError, match="cut between machines"):
        _run(tmp_path / "a", heard, PLAIN, *PRUNE, "split.cut=auto")
    assert not heard.rounds


def test_the_report_tells_each_stage(tmp_path, heard):
    _run(tmp_path / "a", heard, PLAIN, *PRUNE, 'export.presets=["float32"]')
    page = (tmp_path / "a/report.html").read_text()
    assert "Compression" in page
    result = json.loads((tmp_path / "a/result.json").read_text())
    assert f"{result['compression'][-1]['nonzero']:,}" in page


def test_a_trained_network_is_pruned_before_its_first_round_or_after_its_last(tmp_path, trained_run):
    for place, first in (("0.0", 0), ("1.0", 6)):
        at = (f"compression.prune.begin={place}", f"compression.prune.end={place}")
        trained = _trained(tmp_path / place, _Listens(), PLAIN, *PRUNE, *at, f"model.weights={trained_run}")
        assert [row["round"] for row in trained.rows] == [first, first, 6]
        assert trained.rows[0]["score"] > 0.6
        weights = list(trained.outcome.weights.values())
        assert sum(int((w == 0).sum()) for w in weights) > 0.7 * sum(w.size for w in weights)


@pytest.mark.long
def test_what_torch_pruning_cannot_cut_gets_narrower_and_all_that_is_made_of_it(tmp_path, heard):
    channels = (PLAIN, *PRUNE, "compression.prune.kind=channels", "compression.prune.macs=0.4", "model.name=mixer")
    first = _run(tmp_path / "a", heard, *channels, 'export.presets=["float32"]')
    assert first["macs"] <= 0.4 * first["compression"][0]["macs"]
    assert any("keeps its leading ones" in line for line in heard.notices)
    assert ek.open(tmp_path / "a").evaluate()["accuracy"] == pytest.approx(first["accuracy"], abs=1e-6)
    assert first["tflite"]["float32"]["accuracy"] == pytest.approx(first["accuracy"], abs=0.01)
    whole, _ = arrays.load(tmp_path / "a/model.safetensors")
    assert _bytes(_killed(tmp_path / "k", 4, *channels)) == {name: array.tobytes() for name, array in whole.items()}
    second = _run(tmp_path / "b", heard, *channels, f"model.weights={tmp_path / 'a'}")
    assert second["macs"] <= 0.4 * first["macs"]


@pytest.mark.long
def test_a_run_goes_on_from_one_that_lost_channels(tmp_path, heard):
    channels = (PLAIN, *PRUNE, "compression.prune.kind=channels", "compression.prune.steps=1")
    first = _run(tmp_path / "a", heard, *channels)
    weights = f"model.weights={tmp_path / 'a'}"
    second = _trained(tmp_path / "b", _Listens(), PLAIN, weights, "federation.rounds=1")
    assert sum(w.size for w in second.outcome.weights.values()) == first["parameters"]
    third = _run(tmp_path / "c", heard, *channels, weights)
    assert third["macs"] <= 0.5 * first["macs"]
    assert ek.open(tmp_path / "c").evaluate()["accuracy"] == pytest.approx(third["accuracy"], abs=1e-6)
    again = _bytes(_killed(tmp_path / "k", 5, *channels, weights))
    whole, _ = arrays.load(tmp_path / "c/model.safetensors")
    assert again == {name: array.tobytes() for name, array in whole.items()}


def test_what_is_asked_for_is_tried_before_hours_are_spent(tmp_path, trained_run):
    pruned = f"model.weights={trained_run}"
    ticket = 'compression.stages=["ticket"]'
    channels = "compression.prune.kind=channels"
    for overrides, told in (
        ((*PRUNE, 'compression.prune.keep=["layer.1"]'), "no layer is called 'layer.1'; did you mean 'layers.1'"),
        ((*PRUNE, 'compression.prune.keep=["*"]'), "make compression's keep shorter"),
        ((ticket, 'compression.ticket.keep=["*"]'), "make compression's keep shorter"),
        ((*PRUNE, channels, "compression.prune.macs=0.001"), "set compression.prune.macs to 0.0"),
    ):
        heard = _Listens()
        with pytest.raises(EdgekitError, match=told):
            _trained(tmp_path / "a", heard, PLAIN, *overrides)
        assert not heard.lines
    early = (*QUICK, PLAIN, *PRUNE, "federation.rounds=1")
    with pytest.raises(ExperimentError, match="has learnt nothing"):
        compressing.check(experiments.load(None, early), real=False)
    compressing.check(experiments.load(None, [*early, pruned]), real=False)
    with pytest.raises(ExperimentError, match="real devices train one network"):
        compressing.check(experiments.load(None, [*QUICK, PLAIN, *PRUNE]), real=True)


@pytest.mark.long
def test_a_ticket_of_a_trained_network_begins_with_what_the_run_began_with(tmp_path, trained_run):
    """The run keeps that: the file it came from may have gone, and other first weights are really others."""
    source = tmp_path / "source"
    shutil.copytree(trained_run, source)
    ticket = (PLAIN, 'compression.stages=["ticket"]', "compression.ticket.rewind=0", f"model.weights={source}")
    rewound = _trained(tmp_path / "a", _Listens(), *ticket)
    other = _trained(tmp_path / "b", _Listens(), *ticket, "compression.ticket.start=reinitialised")
    assert rewound.rows[1]["score"] > 0.5 > 0.35 > other.rows[1]["score"]


def test_a_phase_of_another_program_is_refused_in_a_line(tmp_path):
    _trained(tmp_path / "a", _Listens(), PLAIN, *PRUNE)
    path = sorted((tmp_path / "a/checkpoint").glob("phase-*.safetensors"))[-1]
    flat, _ = arrays.load(path)
    save_file(flat, path)
    with pytest.raises(RunFolderError, match="does not tell what was done"):
        _trained(tmp_path / "a", _Listens(), PLAIN, *PRUNE)


ROUNDS = ('compression.stages=["prune", "quantise"]', "compression.prune.steps=1", "compression.prune.begin=0.3",
          "compression.prune.end=0.4", "compression.quantise.begin=0.5", "compression.quantise.ranges=learnt",
          'export.presets=["float32", "int8"]')  # fmt: skip


@pytest.mark.long
def test_a_network_that_rounds_is_delivered_as_it_was_trained(tmp_path, heard):
    """A sparse one whose ranges are trained, in a cohort: killed and gone on with, exported, and trained further."""
    whole = _trained(tmp_path / "whole", _Listens(), *ROUNDS, PLAIN)
    assert whole.outcome.trainer.startswith("whole cohort")
    assert _bytes(_killed(tmp_path / "killed", 5, *ROUNDS, PLAIN)) == _bytes(whole)
    assert [row["stage"] for row in whole.rows] == ["before", "weights", "quantise", "at the end"]
    assert whole.rows[-1]["nonzero"] < 0.5 * whole.rows[0]["nonzero"]
    assert whole.rows[-1]["files"]["int8"]["within_one_quantum"] >= 0.99
    out = tmp_path / "run"
    result = _run(out, heard, *ROUNDS, PLAIN, "federation.rounds=3")
    told = json.loads((out / "result.json").read_text())["compression"]
    assert told == result["compression"]
    record = arrays.load(out / "model.safetensors")[1]["compression"]
    assert [step["step"] for step in record] == ["integers"]
    assert ek.open(out).evaluate()["accuracy"] == pytest.approx(result["accuracy"])
    further = _run(tmp_path / "further", heard, PLAIN, f"model.weights={out}", "federation.rounds=1")
    assert "compression" not in (arrays.load(tmp_path / "further" / "model.safetensors")[1] or {})
    assert further["rounds"] == 1


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (('export.presets=["float32"]',), "not among export.presets: add it"),
        (("compression.quantise.format=int16", 'export.presets=["int16"]'), "take int8, int8-full or int4"),
        (("compression.quantise.begin=0",), "has learnt nothing: begin it later"),
        (("compression.quantise.format=int9",), "int9"),
    ],
)
def test_what_cannot_be_trained_to_round_is_one_line_before_training(tmp_path, heard, overrides, told):
    asked = ('compression.stages=["quantise"]', 'export.presets=["float32", "int8"]')
    with pytest.raises(EdgekitError, match=told) as error:
        _run(tmp_path / "run", heard, *asked, *overrides)
    assert "\n" not in str(error.value)
    assert not heard.rounds


@pytest.mark.parametrize(
    "step",
    [
        {"step": "quantise", "format": "int8", "learnt": False, "grids": {}},
        {"step": "quantise", "learnt": False, "plan": {"grids": [[1e-3, 900]], "calls": [], "given": -1}},
        {"step": "integers", "format": "int8", "grids": {"a": [-1.0, 0]}},
        {"step": "integers", "format": "int8", "grids": [1]},
        {"step": "integers", "grids": {}},
    ],
)  # fmt: skip
def test_a_damaged_record_of_integers_is_refused_in_words(step):
    experiment = experiments.load(None, list(QUICK))
    model = build_network(experiment, load_dataset(experiment))
    with pytest.raises(ModelError) as error:
        rebuilt(model, (1, 8, 8), [step])
    assert "\n" not in str(error.value)
