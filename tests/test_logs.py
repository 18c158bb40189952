"""Logs: strangers' words on one line, in few letters; files that begin anew. JSON that nobody stumbles over."""

import io
import logging

import pytest

from edgekit import strict_json
from edgekit.logs import KEPT, Formatter, rotate


@pytest.fixture
def log():
    """A logger of its own, and what it writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(Formatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, written


def test_what_is_quoted_is_one_line_of_few_letters(log):
    logger, written = log
    logger.warning("refused %s: %s, %d", "a\n2026-01-01 forged\x1b[31m\u202e", ValueError("b" * 10_000), 7)
    (line,) = written.getvalue().splitlines()
    assert r"refused a\n2026-01-01 forged\x1b[31m\u202e: bbb" in line
    assert line.endswith("b…, 7")
    assert len(line) < 300
    logger.error(f"{'c' * 10_000}\n")
    assert len(written.getvalue().splitlines()) == 2
    assert len(written.getvalue()) < 2500


def test_a_log_that_is_long_begins_anew_and_whoever_appends_goes_on(tmp_path):
    path = tmp_path / "a.log"
    with open(path, "ab", buffering=0) as file:  # as a child process holds it
        for number in range(KEPT + 2):
            file.write(b"%d" % number * 100)
            rotate(path, 50)
        file.write(b"last")
        rotate(path, 50)
    assert path.read_bytes() == b"last"
    older = sorted(tmp_path.glob("a.log.*"))
    assert [one.read_bytes()[:1] for one in older] == [b"6", b"5", b"4", b"3"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"time": 1e400}', b'{"time": -1e999}', b"[NaN]", b"[Infinity]", b'["\\ud800"]', b'{"\\udfff": 1}',
        b'["\\u0000"]', b'["\xff"]', b"[1%s]" % (b"0" * 400), b"[18446744073709551616]", b"[" * 10_000, b"", b"{",
    ],
)  # fmt: skip
def test_odd_json_is_refused(content):
    with pytest.raises(ValueError, match=r"."):
        strict_json.loads(content)


def test_json_is_read():
    content = '{"node": 18446744073709551615, "time": 1.5e3, "name": "ä😀\\n", "many": [true, null, -3]}'
    found = {"node": 2**64 - 1, "time": 1500.0, "name": "ä😀\n", "many": [True, None, -3]}
    assert strict_json.loads(content) == strict_json.loads(content.encode()) == found
    assert strict_json.loads('{"a": {"b": 1}}', lambda made: b"x") == b"x"
