"""A device takes part as often as its owner wants, whoever coordinates."""

import pytest

from edgekit.clients.node.folder import NodeSettings
from edgekit.clients.node.limits import Limits
from edgekit.errors import EdgekitError


def _limits(tmp_path, **wanted):
    return Limits(tmp_path / "run.json", NodeSettings(url="http://here:1", name="n", **wanted))


def test_at_most_so_many_rounds_and_so_many_apart(tmp_path):
    taken = []
    limits = _limits(tmp_path, most_rounds=3, rounds_apart=4)
    for number in range(1, 40):
        if limits.obstacle(number, f"ask {number}") is None:
            limits.keep(number, f"ask {number}")
            taken.append(number)
    assert taken == [1, 5, 9]
    assert "took part 3 times; its owner has it take part at most 3 times" in limits.obstacle(13)
    assert limits.obstacle(5, "ask 5") is None  # asked again, since its answer was lost
    assert "took part 3 times" in limits.obstacle(5, "something else")  # under the number of a round that was
    assert "took part 3 times" in limits.obstacle(5)
    assert "took part in round 9; its owner has it take part 4 rounds apart" in _limits(
        tmp_path, rounds_apart=4
    ).obstacle(11)


def test_without_limits_nothing_is_kept_and_a_damaged_file_is_not_guessed(tmp_path):
    limits = _limits(tmp_path)
    limits.keep(1)
    assert limits.obstacle(1) is None
    assert not (tmp_path / "run.json").exists()
    (tmp_path / "run.json").write_text('{"1": true}')
    with pytest.raises(EdgekitError, match="does not tell which rounds this device took part in: rounds by what"):
        _limits(tmp_path, most_rounds=1).obstacle(2)
