"""The contract with flwr 1.41's private names, all of which live in edgekit/flower.py."""

import re
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from edgekit import flower

ROOT = Path(__file__).parent.parent
PRIVATE = re.compile(r"flwr\.(supercore|supernode|superlink|common|proto|server\.superlink)")


def test_no_other_module_touches_private_names():
    ours = [
        file
        for top in ("edgekit", "server", "clients", "privacy", "neuromorphic", "devices")
        for file in (ROOT / top).rglob("*.py")
    ]
    assert [str(file) for file in ours if PRIVATE.search(file.read_text())] == [str(ROOT / "edgekit/flower.py")]


def test_a_process_that_began_a_run_can_make_messages_and_replies():
    run = flower.begin_run(77)
    message = Message(RecordDict(), 1001, "train")
    assert flower.give_id(message) == message.metadata.message_id
    assert (message.metadata.run_id, run.run_id) == (77, 77)
    reply = Message(Error(flower.CLIENT_RAISED, "why"), reply_to=message)
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert reply.metadata.src_node_id == 1001


@pytest.mark.parametrize("array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(3), np.zeros((0, 2))])
def test_an_array_within_the_process_is_flowers_array_without_the_bytes(array):
    ours, theirs = flower.InProcessArray(array), Array(array)
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    assert "_bytes" not in vars(ours)
    assert ours.data == theirs.data
    assert np.array_equal(ours.numpy(), theirs.numpy())
    record = ArrayRecord()
    record["a"] = ours
    assert np.array_equal(record.to_numpy_ndarrays()[0], array)
    # Wherever Flower copies it, it becomes Flower's own.
    assert np.array_equal(ArrayRecord({"a": ours})["a"].numpy(), array)


def test_a_strategy_that_writes_into_what_it_got_harms_nobody():
    array = np.ones(3, np.float32)
    ours = flower.InProcessArray(array)
    ours.numpy()[:] = 7
    assert array.tolist() == [1, 1, 1]
    assert ours.numpy().tolist() == [1, 1, 1]
