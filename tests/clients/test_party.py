"""A device as a party: what it refuses, and what it tells its owner to mend."""

import numpy as np
import pytest

from edgekit import wire
from edgekit.arrays import to_bytes
from edgekit.asks import Ask
from edgekit.clients import LocalSettings
from edgekit.clients.node.folder import NodeSettings
from edgekit.clients.node.party import NotAlignedError, Party
from edgekit.clients.node.task import Task
from edgekit.clients.node.task_facts import PartyFacts, TaskFacts, VerticalFacts
from edgekit.data.settings import Data
from edgekit.errors import DataError, EdgekitError, PrivacyError, RefusedError
from edgekit.models.settings import Model
from edgekit.models.vertical import party_network
from edgekit.privacy.intersection import Side

MODEL = Model(name="mlp", arguments={})
SOME = LocalSettings(batch_size=2)


SCALES = {"columns": ["age", "height"], "mean": [1.0, 1.0], "std": [2.0, 2.0]}


def _asked(*ids, **facts):
    return wire.Message({**SCALES, **facts}, to_bytes({"points": Side(ids).hidden()}))


def _task(source="digits"):
    like = party_network(MODEL, 0, (2,), 4).state_dict()
    parties = [
        PartyFacts(
            name=name, shape=(2,), parameters={k: tuple(v.shape) for k, v in like.items()},
        )
        for name in ("clinic", "laboratory")
    ]  # fmt: skip
    vertical = VerticalFacts(parties=tuple(parties), embedding=4, codec="float32", window=1, coverage=1.0)
    facts = TaskFacts(
        run="r", seed=0, model=MODEL, data=Data(source=source), shape=(4,), classes=["0", "1"], parameters={},
        planned=None, counts=False, vertical=vertical,
    )  # fmt: skip
    return Task.from_bytes(Task(facts, None).to_bytes())  # as it travels


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "clinic.csv"
    path.write_text("id,age,height\na,1,3\nb,3,5\nc,5,7\n")
    return path


def _node_settings(**more):
    return NodeSettings(url="http://here:1", name="n", **more)


def _weights():
    return {name: array.numpy() for name, array in party_network(MODEL, 0, (2,), 4).state_dict().items()}


def test_its_columns_are_scaled_as_those_that_it_shows(table):
    party = Party(_task(), "torch", _node_settings(data=f"csv:{table}", party="clinic"))
    party.align(_asked("a"))
    np.testing.assert_array_equal(party._table.x, [[0, 1], [1, 2], [2, 3]])
    for facts, complaint in (
        ({"columns": ["age", "weight"]}, "lacks the columns weight"),
        ({"columns": ["age"], "mean": [0.0], "std": [1.0]}, "has 1 columns more than were agreed on"),
        ({"columns": ["height", "age"]}, "must come in the order height, age"),
        ({"columns": [], "mean": [], "std": []}, "agreed on an .npz"),
        ({"mean": [1.0]}, "how columns are scaled cannot be read"),
        ({"std": [0.0, 1.0]}, "how columns are scaled cannot be read"),
        ({"std": "x"}, "how columns are scaled cannot be read"),
    ):
        with pytest.raises(EdgekitError, match=complaint):
            party.align(_asked("a", **facts))


@pytest.mark.parametrize(
    ("node_settings", "error", "complaint"),
    [
        ({"party": ""}, RefusedError, "say which party this device is, with --party: clinic, laboratory"),
        ({"party": "bank"}, RefusedError, "say which party"),
        ({"party": "clinic", "data": "images:x"}, DataError, "csv:FILE or npz:FILE"),
        ({"party": "clinic", "data": "csv:/nowhere.csv"}, DataError, "does not exist"),
        ({"party": "clinic", "epsilon": 3.0}, PrivacyError, "limits epsilon"),
        ({"client": 2, "data": ""}, DataError, "there are 2 parties"),
    ],
)
def test_settings_that_do_not_fit_are_told(table, node_settings, error, complaint):
    with pytest.raises(error, match=complaint):
        Party(_task(), "torch", _node_settings(**{"data": f"csv:{table}", **node_settings}))


def test_devices_without_torch_flowers_own_node_and_data_that_a_task_chooses_are_refused(table):
    mine = _node_settings(data=f"csv:{table}", party="clinic")
    with pytest.raises(RefusedError, match="join without --supernode"):
        Party(_task(), "torch", mine, lasting=False)
    with pytest.raises(RefusedError, match="need torch"):
        Party(_task(), "litert", mine)
    with pytest.raises(RefusedError, match="a task may not choose what is read"):
        Party(_task(source="npz:/etc/data.npz"), "torch", _node_settings(client=0))


def test_rounds_need_an_alignment_and_places_that_are_there(table):
    party = Party(_task(), "torch", _node_settings(data=f"csv:{table}", party="clinic"))

    def begun(settings=SOME, **facts):
        return party.begin(wire.Message(facts), Ask({"weights": _weights()}, settings=settings), None)

    with pytest.raises(NotAlignedError):
        begun(alignment="")
    with pytest.raises(RefusedError, match="hidden ids were expected"):
        party.align(wire.Message(SCALES, to_bytes({"other": np.zeros((1, 32), np.uint8)})))
    with pytest.raises(RefusedError, match="no point of the curve"):
        party.align(wire.Message(SCALES, to_bytes({"points": np.full((1, 32), 255, np.uint8)})))
    facts, points = party.align(_asked("b", "d"))
    assert points["again"].shape == (2, 32)
    assert points["own"].shape == (3, 32)
    good = {"alignment": facts["alignment"], "places": np.array([2, 0], "<i8").tobytes()}
    assert begun(**good).about == "features of 2 people"
    for bad, complaint in (
        ({"alignment": "another"}, "has not been aligned with the others"),
        ({"places": b"123"}, "places cannot be read"),
        ({"places": "0"}, "places cannot be read"),
        ({"places": np.array([3], "<i8").tobytes()}, "places among 3 ids"),
        ({"places": b""}, "none of this party's people"),
        ({"settings": LocalSettings(work="dp-sgd")}, "plain rounds alone"),
    ):
        with pytest.raises(EdgekitError, match=complaint):
            begun(**{**good, **bad})
