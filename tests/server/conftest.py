"""What the tests of real fleets share: a node of an attacker's."""

import time

import pytest

from edgekit import wire
from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import LinkDownError, StaleError
from edgekit.flower.fleet import FleetLink
from edgekit.flower.parcel import begin
from edgekit.version import __version__


class Impostor:
    """A node with a real identity that answers as it is told to.

    Args:
        one: the federation, which waits for this node's code.
        client: the number of its examples.

    Attributes:
        tells: what it says otherwise in its first answers, one after the other.
    """

    name = "evil"

    def __init__(self, one, client):
        self.tells = []
        one.join(self.name, "--client", str(client), "--enrol-only")
        one.wait(lambda: one.nodes[self.name].poll() is not None, 60, "enrolment")
        one.nodes.pop(self.name)
        self.folder = NodeFolder(one.node_folder(self.name))
        self.link = FleetLink(f"127.0.0.1:{one.port}", self.folder.authority(), self.folder.key())
        self.link.activate()

    def asked(self, seconds):
        """Yield (message, letter) of each round it is asked to train in, and each alignment with other parties; all
        else it answers as other nodes do."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.link.heartbeat()  # or it counts as gone, half a minute after it came
                parcel = self.link.pull()
            except (LinkDownError, StaleError):
                continue
            if parcel is None:
                continue
            message = begin(parcel, self.link.node_id)
            letter = wire.read(message)
            if message.metadata.message_type == "query" and letter.facts["action"] != "align":
                told = {
                    "version": __version__,
                    "kind": "torch",
                    "name": self.name,
                    "holds": True,
                    "problem": "",
                    "examples": 10,
                }
                told |= self.tells.pop(0) if self.tells else {}
                self.link.push(wire.answer(told, message))
            else:
                yield message, letter

    def leave(self):
        """Go offline; more than once does no harm."""
        self.link.close()
        self.link.node_id = 0


@pytest.fixture
def impostor():
    made = []

    def make(one, client):
        made.append(Impostor(one, client))
        return made[-1]

    yield make
    for one in made:
        one.leave()
