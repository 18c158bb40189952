"""The phones' gateway, piece by piece: frames, tickets, the line that breaks, and what a page's update must be."""

import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.clients.node.folder import NodeFolder, NodeSettings
from edgekit.clients.node.task_facts import TaskFacts
from edgekit.clients.phone import line as lines
from edgekit.clients.phone.activity import activity_of
from edgekit.clients.phone.frames import Frame, pack, unpack
from edgekit.clients.phone.handler import update_of
from edgekit.clients.phone.line import Line, PausedError
from edgekit.clients.phone.members import Members, NotKnownError
from edgekit.data.settings import Data
from edgekit.errors import JoinError, RefusedError
from edgekit.models.settings import Model
from edgekit.throttle import Throttle

GOLDEN = json.loads((Path(__file__).parent / "phone_frames.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["good"], ids=lambda case: case["name"])
def test_frames_are_as_the_golden_vectors_have_them(case):
    arrays = {a["name"]: np.array(a["values"], a["dtype"]).reshape(a["shape"]) for a in case["arrays"]}
    content = bytes.fromhex(case["hex"])
    assert pack(Frame(case["type"], case["facts"], arrays)) == content
    found = unpack(content)
    assert (found.type, found.facts) == (case["type"], case["facts"])
    assert list(found.arrays) == list(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
        assert found.arrays[name].shape == array.shape


@pytest.mark.parametrize("case", GOLDEN["bad"], ids=lambda case: case["name"])
def test_what_is_no_frame_is_refused(case):
    with pytest.raises(RefusedError):
        unpack(bytes.fromhex(case["hex"]))


def test_a_ticket_lets_one_phone_in_and_expires(tmp_path):
    now = [0.0]
    members = Members(tmp_path, lambda: now[0])
    first, second = members.issue(60), members.issue(60)
    members.redeem(first, "a")
    with pytest.raises(NotKnownError, match="used already"):
        members.redeem(first, "b")
    assert (members.came_by(first), members.came_by(second), members.came_by("\ud800")) == ("a", "", "")
    with pytest.raises(NotKnownError, match="not known here"):
        members.redeem("guessed", "a")
    assert members.is_open(second)
    now[0] = 61
    assert not members.is_open(second)
    with pytest.raises(JoinError, match="expired"):
        members.redeem(second, "b")
    third = members.issue(60)
    members.redeem(third, "c")
    members.give_back(third)
    members.redeem(third, "d")


def test_a_phone_comes_back_by_its_secret_alone(tmp_path):
    members = Members(tmp_path)
    identity, phone = members.new("Android <Chrome>")
    assert re.fullmatch(r"phone-[0-9a-f]{4} Android Chrome", phone.name)
    secret = "s" * 32
    members.keep(identity, phone, secret)
    with pytest.raises(JoinError, match="not known here"):  # it has not joined the coordinator
        members.find(identity, secret)
    phone.folder.keep_node_settings(NodeSettings(url="https://127.0.0.1:1", name="n"))
    phone.folder.membership_file.write_text("{}")
    found = members.find(identity, secret)
    assert (found.name, found.folder.path) == (phone.name, phone.folder.path)
    assert secret not in (tmp_path / identity / "phone.json").read_text()
    for wrong in ((identity, secret[:-1]), (identity[::-1], secret), ("../" + identity, secret), ("", "")):
        with pytest.raises(JoinError, match="not known here"):
            members.find(*wrong)
    members.forget(phone)
    assert not NodeFolder(tmp_path / identity).path.exists()


class Wire:
    """A connection that notes what is sent, and answers if it is told to."""

    def __init__(self, line, answer=None):
        self.line, self.answer, self.sent, self.ended = line, answer, [], ""

    def post(self, frame):
        self.sent.append(frame)
        if self.answer is not None:
            threading.Thread(target=self.line.answer, args=(self.answer(frame),)).start()

    def end(self, reason, code=4409):
        self.ended = reason


def _answered(frame):
    return Frame("update", {"id": frame.facts["id"]})


def test_a_question_is_asked_again_on_the_next_connection():
    line = Line()
    silent = Wire(line)
    line.connect(silent)
    line.ready(True)
    found = []
    asking = threading.Thread(
        target=lambda: found.append(line.ask(Frame("train", {"id": "a"}), time.time() + 30, lambda: False))
    )
    asking.start()
    while not silent.sent:
        time.sleep(0.01)
    line.disconnect(silent)
    second = Wire(line, _answered)
    line.connect(second)
    time.sleep(0.05)
    assert not second.sent  # a page that was reloaded says first that it is ready
    line.ready(True)
    asking.join(10)
    assert found[0].facts == {"id": "a"}
    assert not line.answer(Frame("update", {"id": "a"}))  # a second answer is nobody's
    third = Wire(line)
    line.connect(third)
    assert second.ended == "the page was opened anew"


def test_a_question_without_an_answer_ends(monkeypatch):
    monkeypatch.setattr(lines, "RECONNECT_SECONDS", 0.1)
    line = Line()
    with pytest.raises(PausedError, match="its page is closed"):
        line.ask(Frame("train", {"id": "a"}), time.time() + 30, lambda: False)
    wire = Wire(line)
    line.connect(wire)
    line.ready(True)
    timer = threading.Timer(0.2, line.disconnect, args=(wire,))
    timer.start()
    with pytest.raises(RefusedError, match="went away"):
        line.ask(Frame("train", {"id": "a"}), time.time() + 30, lambda: False)
    monkeypatch.setattr(lines, "RECONNECT_SECONDS", 0.0)  # it has been away for as long as one waits: no more waiting
    with pytest.raises(PausedError, match="its page is closed"):
        line.ask(Frame("train", {"id": "b"}), time.time(), lambda: False)
    line.connect(Wire(line))
    line.ready(True)
    with pytest.raises(RefusedError, match="did not answer in time"):
        line.ask(Frame("train", {"id": "a"}), time.time() + 0.2, lambda: False)
    with pytest.raises(RefusedError, match="left"):
        line.ask(Frame("train", {"id": "a"}), time.time() + 30, lambda: True)
    timer = threading.Timer(0.2, line.fail, args=("garbage",))
    timer.start()
    failed = line.ask(Frame("train", {"id": "a"}), time.time() + 30, lambda: False)
    assert (failed.type, failed.facts["problem"]) == ("failed", "garbage")


WEIGHTS = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}


def test_an_update_becomes_named_arrays():
    found = update_of(Frame("update", {}, {"w": np.arange(10, dtype=np.float32)}), WEIGHTS)
    assert np.array_equal(found["a"], [[0, 1, 2], [3, 4, 5]])
    assert np.array_equal(found["b"], [6, 7, 8, 9])


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"w": np.zeros(9, np.float32)},
        {"w": np.zeros((1, 10), np.float32)},
        {"w": np.zeros(10, np.int32)},
        {"w": np.full(10, 2e6, np.float32)},
        {"w": np.zeros(10, np.float32), "more": np.zeros(1, np.float32)},
    ],
)
def test_an_update_that_does_not_fit_is_refused(arrays):
    with pytest.raises(RefusedError, match="the page's update"):
        update_of(Frame("update", {}, arrays), WEIGHTS)


@pytest.mark.parametrize(
    ("source", "shape", "expected"),
    [
        ("digits", (1, 8, 8), "draw"),
        ("npz:mnist.npz", (1, 28, 28), "draw"),
        ("audio:words", (1, 32, 31), "speak"),
        ("gestures", (3, 8, 8), "move"),
        ("npz:table.npz", (12,), None),
        ("images:photos", (3, 224, 224), None),
        ("moving-digits", (4, 2, 16, 16), None),
    ],
)
def test_the_activity_follows_from_the_data(source, shape, expected):
    facts = TaskFacts(
        run="r",
        seed=0,
        model=Model(),
        data=Data(source=source),
        shape=shape,
        classes=["0"],
        parameters={},
        planned=None,
        counts=True,
    )
    assert activity_of(facts) == expected


def test_a_throttle_counts_each_by_the_minute():
    now = [0.0]
    throttle = Throttle(2, lambda: now[0])
    assert [throttle.too_often("a") for _ in range(3)] == [False, False, True]
    assert not throttle.too_often("b")
    now[0] = 61
    assert not throttle.too_often("a")
