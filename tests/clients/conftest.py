"""What tests of one node share: a coordinator's key, a node that has joined, and tasks for it."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgekit.clients.node.folder import Membership, NodeFolder, NodeSettings
from edgekit.clients.node.task import Task
from edgekit.clients.node.task_facts import Planned, TaskFacts
from edgekit.clients.torch_trainer import state
from edgekit.data.settings import Data
from edgekit.flower import begin_run
from edgekit.models import build
from edgekit.models.settings import Model

PLANNED = Planned(noise_multiplier=2.0, sample_rate=0.5, steps=4, reports=0, reports_noise=8.0, delta=1e-5)


@pytest.fixture(scope="module")
def model(digits):
    return build(Model(name="mlp"), digits.shape, 10, 0)


@pytest.fixture
def signer():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path, signer):
    made = NodeFolder(tmp_path / "node")
    public = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    made.keep_membership(Membership(node_id=7, signing_key=public.hex(), secure=True), b"authority")
    made.keep_node_settings(NodeSettings(url="https://h:1", name="pi", client=0, trainer="torch"))
    begin_run(1)
    return made


@pytest.fixture
def make_task(digits, model):
    def make(**changed):
        facts = {
            "run": "digits",
            "seed": 0,
            "model": Model(name="mlp"),
            "data": Data(clients=6),
            "shape": digits.shape,
            "classes": digits.classes,
            "parameters": {name: array.shape for name, array in state(model).items()},
            "planned": PLANNED,
            "counts": False,
        }
        return Task(TaskFacts(**{**facts, **changed}), None)

    return make
