"""Every decoder of what comes over the network, or lies where others may write: any input, no crash, no hang.

Here it is the same few hundred inputs each time, ten thousand for each decoder in the long suite: whether a change
lands must not depend on luck. EDGEKIT_FUZZ sets how many, EDGEKIT_FUZZ_NEW=1 draws new ones.
"""

import json
import os
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit import arrays, wire
from edgekit.clients import LocalSettings
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.node.folder import NodeFolder
from edgekit.clients.node.task import Task
from edgekit.clients.node.task_facts import Planned, TaskFacts
from edgekit.clients.phone.frames import Frame, pack, unpack
from edgekit.clients.phone.handler import update_of
from edgekit.data.settings import Data
from edgekit.enrolment import PROTOCOL, JoinCode, parse_url
from edgekit.errors import EdgekitError
from edgekit.flower import begin_run
from edgekit.flower.parcel import Parcel
from edgekit.models.settings import Model
from edgekit.server.deployment.enrolment import Enrolment

INPUTS = int(os.environ.get("EDGEKIT_FUZZ", "500"))
many = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    derandomize="EDGEKIT_FUZZ_NEW" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
DECODERS = (
    "arrays", "tasks", "deliveries", "a_rounds_settings", "join_addresses", "join_codes", "requests_to_join",
    "messages", "parcels", "frames_of_phones", "a_nodes_settings",
)  # fmt: skip

WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
FACTS = TaskFacts(
    run="r",
    seed=0,
    model=Model(),
    data=Data(),
    shape=(1, 8, 8),
    classes=["a", "b"],
    parameters={"w": (2, 3)},
    planned=Planned(noise_multiplier=1.0, sample_rate=0.5, steps=3, reports=0, reports_noise=8.0, delta=1e-5),
    counts=True,
)
DELIVERY = Delivery(b"model", 1, "r", 0.9, np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32), 0.1)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def spoilt(content):
    """A valid input with bytes cut, changed and put in; and plain noise."""

    def spoil(edits):
        made = bytearray(content)
        for kind, place, value in edits:
            place %= max(1, len(made))
            if kind == 0:
                made[place : place + 1] = bytes([value])
            elif kind == 1:
                del made[place : place + value % 9 + 1]
            else:
                made[place:place] = bytes([value]) * (value % 5 + 1)
        return bytes(made)

    edits = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10**6), st.integers(0, 255)), max_size=6)
    return edits.map(spoil) | st.binary(max_size=200)


def harmless(decode, value):
    """Call a decoder: it returns, or refuses in one line."""
    try:
        return decode(value)
    except EdgekitError:
        return None


@many
@given(spoilt(arrays.to_bytes(WEIGHTS, {"a": 1})))
def test_arrays(content):
    harmless(arrays.from_bytes, content)


@many
@given(spoilt(Task(FACTS, b"graph").to_bytes()))
def test_tasks(content):
    harmless(Task.from_bytes, content)


@many
@given(spoilt(DELIVERY.to_bytes()))
def test_deliveries(content):
    harmless(Delivery.from_bytes, content)


@many
@given(
    st.dictionaries(st.sampled_from([*vars(LocalSettings()), "x"]), json_values, max_size=5).map(json.dumps)
    | spoilt(LocalSettings().to_json().encode()).map(lambda content: content.decode("latin-1"))
)
def test_a_rounds_settings(text):
    harmless(LocalSettings.from_json, text)


@many
@given(
    st.text(max_size=60)
    | spoilt(b"https://192.168.1.10:8443#K7QM-2XR9-AAAA-BBBB-CCCC").map(lambda b: b.decode("latin-1"))
)
def test_join_addresses(text):
    harmless(parse_url, text)


@many
@given(st.text(max_size=40) | spoilt(str(JoinCode("K7QM", "2XR9" * 4)).encode()).map(lambda b: b.decode("latin-1")))
def test_join_codes(text):
    found = harmless(JoinCode.parse, text)
    assert found is None or JoinCode.parse(str(found)) == found


@pytest.fixture(scope="module")
def enrolment(tmp_path_factory):
    made = Enrolment(tmp_path_factory.mktemp("state"), b"authority", b"s" * 32, lambda key, name: 1, lambda node: None)
    made.issue(600)
    return made


@many
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: json_values | st.just(PROTOCOL) | st.just(time.time())
            for name in (
                *("code", "nonce", "public_key", "name", "kind", "version", "protocol", "time", "proof", "signature"),
                "node_id",
            )
        },
    ),
    st.booleans(),
)
def test_requests_to_join(enrolment, request_, known):
    if known:
        request_ = {
            **request_,
            "code": enrolment.open_codes()[0] if enrolment.open_codes() else "x",
            "protocol": PROTOCOL,
        }
    for answer in (enrolment.hello, enrolment.enrol, enrolment.leave_signed):
        harmless(answer, request_)
    assert enrolment.members == {}


@many
@given(
    st.text(max_size=80) | spoilt(b'{"action": "prepare", "x": {"bytes": "AAAA"}}').map(lambda b: b.decode("latin-1")),
    st.none() | st.binary(max_size=30) | st.text(max_size=10) | st.integers(-(2**62), 2**62),
)
def test_messages(facts, content):
    begin_run(1)
    record = ConfigRecord({"facts": facts})
    if content is not None:
        record["content"] = content
    letter = harmless(wire.read, Message(RecordDict({wire.RECORD: record}), 7, "query"))
    if letter is not None:
        harmless(lambda found: found.weights(), letter)


def _parcel():
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    begin_run(1)
    message = Message(wire.Message({"action": "prepare"}, b"content").record(), 7, "query")
    return message.object_id, {name: thing.deflate() for name, thing in get_all_nested_objects(message).items()}


@many
@given(st.data())
def test_parcels(data):
    name, objects = PARCEL
    chosen = data.draw(st.sampled_from(sorted(objects)))
    content = data.draw(spoilt(objects[chosen]))
    message = harmless(lambda parcel: parcel.open(), Parcel(name, {**objects, chosen: content}))
    if message is not None:
        harmless(wire.read, message)


PARCEL = _parcel()
FRAME = Frame("update", {"id": "a", "examples": 3}, {"w": np.arange(6, dtype=np.float32), "b": np.zeros(3, np.uint8)})


@many
@given(spoilt(pack(FRAME)))
def test_frames_of_phones(content):
    frame = harmless(unpack, content)
    if frame is not None:
        assert all(np.isfinite(array).all() for array in frame.arrays.values())
        update = harmless(lambda found: update_of(found, {"a": np.zeros((2, 3), np.float32)}), frame)
        assert update is None or list(frame.arrays) == ["w"]


@many
@given(spoilt(b'url = "https://h:1"\nname = "pi"\nshare = ["load"]\nepsilon = 1.0\nclient = 3\n'))
def test_a_nodes_settings(tmp_path_factory, content):
    folder = NodeFolder(PLACE)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.node_settings_file.write_bytes(content)
    node_settings = harmless(lambda found: found.node_settings(), folder)
    if node_settings is not None:
        assert tomllib.loads(content.decode())["url"] == node_settings.url


def test_every_decoder_is_in_the_list():
    assert {f"test_{name}" for name in DECODERS} == {
        name for name, value in globals().items() if hasattr(value, "hypothesis")
    }


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", DECODERS)
def test_ten_thousand_inputs(name):
    """In a process of its own, as its inputs are drawn when it starts; what failed is printed with its input."""
    test = f"{__file__}::test_{name}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=1100", test]
    environment = {**os.environ, "EDGEKIT_FUZZ": "10000", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "1 passed" in done.stdout


@pytest.fixture(autouse=True, scope="module")
def _place(tmp_path_factory):
    global PLACE
    PLACE = tmp_path_factory.mktemp("node")
