"""When a network changes, and what cannot be asked for."""

import pytest

from edgekit import experiment as experiments
from edgekit.compression.phases import phases
from edgekit.compression.settings import Compression
from edgekit.errors import ExperimentError


def _phases(rounds, **settings):
    return [(one.until, one.change, round(one.amount, 4)) for one in phases(Compression(**settings), rounds)]


def test_nothing_asked_is_one_phase():
    assert _phases(7) == [(7, "", 0.0)]
    assert _phases(7, stages=["distil"], distil={"teacher": "r"}) == [(7, "", 0.0)]


def test_cuts_come_between_begin_and_end_the_larger_first():
    found = _phases(20, stages=["prune"], prune={"sparsity": 0.8, "begin": 0.2, "end": 0.6, "steps": 2})
    assert found == [(8, "", 0.0), (12, "weights", 0.7), (20, "weights", 0.8)]
    found = _phases(20, stages=["prune"], prune={"kind": "channels", "macs": 0.5, "begin": 0.0, "end": 0.5, "steps": 2})
    assert found == [(5, "", 0.0), (10, "channels", 0.5625), (20, "channels", 0.5)]


def test_before_and_after_training():
    assert _phases(9, stages=["prune"], prune={"begin": 0.0, "end": 0.0}) == [(9, "weights", 0.8)]
    assert _phases(9, stages=["prune"], prune={"begin": 1.0, "end": 1.0}) == [(9, "", 0.0), (9, "weights", 0.8)]


def test_a_ticket_trains_twice_from_the_round_it_goes_back_to():
    found = phases(Compression(stages=["ticket"]), 20)
    assert [(one.until, one.change, one.since, one.span) for one in found] == [
        (2, "", 0, 11),
        (11, "", 0, 11),
        (20, "ticket", 9, 11),
    ]
    found = phases(Compression(stages=["ticket"], ticket={"rewind": 0}), 20)
    assert [(one.until, one.since, one.span) for one in found] == [(10, 0, 10), (20, 10, 10)]
    with pytest.raises(ExperimentError, match="too few for a ticket"):
        phases(Compression(stages=["ticket"]), 2)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ('compression.stages=["prune", "ticket"]', "take prune or ticket"),
        ('compression.stages=["prune", "prune"]', "twice"),
        ('compression.stages=["quantise", "distil"]', "quantise is the last"),
        ('compression.stages=["distil"]', "compression.distil.teacher is missing"),
        ('compression.stages=["squeeze"]', "prune"),
        ("compression.prune.begin=0.9", "after its end"),
        ('compression.prune.pattern="4:2"', "keeps all weights"),
        ("compression.prune.sparsity=1.0", "less than 1"),
    ],
)
def test_what_makes_no_sense_is_one_line(override, told):
    with pytest.raises(ExperimentError, match=told) as error:
        experiments.load(None, [override])
    assert "\n" not in str(error.value)


def test_a_network_rounds_last_and_its_ranges_are_taken_anew():
    once = {"times": 1}
    assert _phases(10, stages=["quantise"], quantise=once) == [(7, "", 0.0), (10, "quantise", 0.0)]
    assert _phases(10, stages=["quantise"]) == [(7, "", 0.0), (9, "quantise", 0.0), (10, "quantise", 0.0)]
    assert _phases(10, stages=["quantise"], quantise={"begin": 0, "times": 1}) == [(10, "quantise", 0.0)]
    assert _phases(10, stages=["quantise"], quantise={"begin": 1}) == [(10, "", 0.0), (10, "quantise", 0.0)]
    both = {"stages": ["prune", "quantise"], "prune": {"steps": 1, "begin": 0, "end": 0}}
    assert _phases(10, **both, quantise={"begin": 0, "times": 1}) == [(0, "weights", 0.8), (10, "quantise", 0.0)]
    asked = {"stages": ["prune", "quantise"], "prune": {"steps": 1, "begin": 0.5, "end": 0.5}, "quantise": once}
    found = phases(Compression(**asked), 10)
    assert [(one.number, one.until, one.change, one.last) for one in found] == [
        (0, 5, "", False),
        (1, 7, "weights", False),
        (2, 10, "quantise", True),
    ]
    with pytest.raises(ExperimentError, match="changes until round 7: begin it at 0.7 or later"):
        phases(Compression(stages=["prune", "quantise"], quantise={"begin": 0.5}), 10)
