"""What is left of a run whose coordinator is stopped, once and again; the devices' own stops."""

import json
import signal

import pytest
from safetensors.numpy import load_file


def _stopped(one, *signals):
    """Stop the coordinator; return what it said at last, and the rounds done."""
    coordinator = one.coordinator
    for number in signals:
        coordinator.send_signal(number)
    coordinator.wait(60)
    return one.notices()[-1], len(one.rounds())


@pytest.mark.long
def test_each_stop_leaves_the_result_of_the_rounds_done_and_says_how_to_go_on(federation, fleet, tmp_path):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve()
    (data,) = fleet.write_digits(tmp_path, 1)
    one.join("pi", "--data", f"npz:{data}")
    one.wait_for_round(2)
    before = 0
    for signals in ((signal.SIGTERM,), (signal.SIGINT,)):
        said, rounds = _stopped(one, *signals)
        result = json.loads((one.run / "result.json").read_text())
        assert result["rounds"] == rounds > before
        assert result["interrupted"] is True
        assert result["data"]["clients"] == 1  # the fleet's, not those of the coordinator's own data
        assert load_file(one.run / "model.safetensors")
        assert said.startswith(f"stopped after round {rounds}; their model is {one.run}")
        assert f"go on with: edgekit serve --out {one.run}" in said
        before, one.overrides = rounds, []  # the folder knows its experiment
        one.serve()
        one.wait_for_round(rounds + 1)
    # A SuperLink that remembers nobody: its members are made known again.
    _, rounds = _stopped(one, signal.SIGTERM)
    database = one.folder / "home" / "coordinator" / "superlink.db"
    database.write_bytes(b"SQLite format 3\0" + bytes(10_000))
    one.serve()
    one.wait_for_round(rounds + 2)
    assert database.with_name("superlink.db.damaged").exists()
    assert "is damaged" in (one.run / "logs" / "superlink.log").read_text()
    # Twice, at once: nothing is lost but the result.
    _, rounds = _stopped(one, signal.SIGINT, signal.SIGINT)
    assert rounds > before
    node = one.nodes["pi"]
    node.send_signal(signal.SIGTERM)
    assert node.wait(20) == 0
