"""The contract with flwr 1.41's private names, all of which live in edgekit/flower/."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from edgekit import flower
from edgekit.errors import LinkDownError
from edgekit.flower.fleet import FleetLink
from edgekit.flower.superlink import allow_spaces, app_bundle

ROOT = Path(__file__).parent.parent
PRIVATE = re.compile(r"flwr\.(supercore|supernode|superlink|common|proto|cli|server\.superlink)\b")


def test_no_other_module_touches_private_names():
    ours = [
        file
        for top in ("edgekit", "server", "clients", "privacy", "neuromorphic", "devices")
        for file in (ROOT / top).rglob("*.py")
    ]
    touching = {str(file.parent) for file in ours if PRIVATE.search(file.read_text())}
    assert touching == {str(ROOT / "edgekit/flower")}


def test_a_node_speaks_with_flowers_own_superlink(tmp_path, fleet):
    """The stock `flower-superlink`, which knows nothing of edgekit's gate."""
    port = fleet.free_port()
    program = Path(sys.executable).parent / "flower-superlink"
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "FLWR_HOME": str(tmp_path)}
    command = [str(program), "--insecure", "--host", "127.0.0.1", "--port", str(port), "--isolation", "process"]
    with open(tmp_path / "log", "wb") as log:
        superlink = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        link = FleetLink(f"127.0.0.1:{port}", None, ec.generate_private_key(ec.SECP256R1()))
        end = time.monotonic() + 60
        while True:
            try:
                link.register()
                break
            except LinkDownError:
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.2)
        node = link.activate()
        link.heartbeat()
        assert link.pull() is None
        assert not link.waits  # it found that there is no gate, and asks as Flower's node does
        assert link.activate(node) == node  # as after a crash: it still counts as online
        link.close()
    finally:
        superlink.terminate()
        superlink.wait(20)


def test_the_app_bundle_is_flowers(tmp_path):
    from flwr.cli.config_utils import get_fab_config, get_fab_metadata

    name, content = app_bundle({"folder": "x"})
    assert len(name) == 64
    assert get_fab_metadata(content) == ("edgekit/edgekit-federation", "1.0.0")
    components = get_fab_config(content)["tool"]["flwr"]["app"]["components"]
    for path in components.values():
        module, _, attribute = path.partition(":")
        assert hasattr(importlib.import_module(module), attribute)


def test_a_process_that_began_a_run_can_make_messages_and_replies():
    flower.begin_run(77)
    message = Message(RecordDict(), 1001, "train")
    flower.begin_any_run()  # leaves it the run that it has
    assert (message.metadata.run_id, Message(RecordDict(), 1002, "train").metadata.run_id) == (77, 77)
    reply = Message(Error(flower.CLIENT_RAISED, "why"), reply_to=message)
    assert reply.has_error()
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


def test_flower_makes_its_database_where_it_is_installed_in_a_folder_with_a_space(tmp_path, monkeypatch):
    from flwr.supercore.state.alembic import utils
    from sqlalchemy import create_engine, inspect

    place = tmp_path / "a b" / "alembic"
    shutil.copytree(utils.ALEMBIC_DIR, place)
    monkeypatch.setattr(utils, "ALEMBIC_DIR", place)
    monkeypatch.setattr(utils, "build_alembic_config", utils.build_alembic_config)  # as it is now, afterwards
    allow_spaces()
    engine = create_engine(f"sqlite:///{tmp_path / 'superlink.db'}")
    utils.run_migrations(engine)
    assert "task" in inspect(engine).get_table_names()
