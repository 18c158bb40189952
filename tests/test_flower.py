"""The contract with flwr 1.41's private names, all of which live in edgekit/flower.py."""

import re
from pathlib import Path

from flwr.app import Error, Message, RecordDict

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
