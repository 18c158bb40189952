"""The page of a run while it trains: on this machine, for whoever has its token; what it tells, and to whom."""

import json
import re
import threading
from types import SimpleNamespace

import httpx
import pytest

from edgekit.errors import ServeError
from edgekit.report.live import LivePage, kept_token, prometheus

ROUND = {
    "round": 3, "loss": 0.5, "accuracy": 0.75, "cohort": 4, "replies": 3, "failures": 1, "bytes_up": 100,
    "bytes_down": 50, "seconds": 0.2, "epsilon": None, "metrics": {}, "measure": "accuracy",
}  # fmt: skip


@pytest.fixture
def page(tmp_path):
    made = LivePage("tried", tmp_path)
    yield made
    made.close()


def _events(client, last=None):
    """Read events until the end of the run."""
    found = []
    headers = {} if last is None else {"last-event-id": str(last)}
    with client.stream("GET", "/events", headers=headers, timeout=10) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if "finished" in found[-1]:
                    return found
    return found


def test_strangers_other_names_and_wrong_tokens_see_nothing(page):
    base = page.address.partition("?")[0]
    for path in ("", "events", "metrics", "report.html"):
        assert httpx.get(base + path).status_code == 403
    assert httpx.get(f"{base}?token=guessed").status_code == 403
    assert httpx.get(f"{base}metrics", headers={"authorization": "Bearer guessed"}).status_code == 403
    assert httpx.get(base, headers={"host": "elsewhere.example"}).status_code == 400
    assert httpx.get(f"{base}healthz").text == "running\n"
    assert base.startswith("http://127.0.0.1:")


def test_a_browser_with_the_token_is_told_all_from_where_it_was(page, tmp_path):
    with httpx.Client(base_url=page.address.partition("/?")[0], follow_redirects=True) as client:
        first = client.get(page.address)
        assert "token" not in str(first.url)
        assert "script-src 'nonce-" in first.headers["content-security-policy"]
        assert client.get("/report.html").status_code == 404
        page.stage("training")
        page.round(SimpleNamespace(**ROUND), 10)
        page.notice("</script><b>bold</b>")
        for seen in (1.0, 2.0):  # a federation tells of its nodes each second, for days
            page.nodes(
                [{"name": "pi", "kind": "litert", "online": True, "rounds": 1, "failures": 0, "last_seen": seen}]
            )
        (tmp_path / "report.html").write_text("<p>the report</p>")
        threading.Timer(0.3, page.finished, [{"rounds": 10}]).start()
        told = _events(client)
        assert told[0] == {"stage": "training"}
        assert told[1]["round"]["accuracy"] == 0.75
        assert sum("nodes" in event for event in told) == 1
        assert _events(client, last=1) == told[2:]
        assert client.get("/report.html").text == "<p>the report</p>"
        assert client.get("/healthz").text == "finished\n"


def test_prometheus_reads_numbers_by_name():
    text = prometheus('a "run"', {"state": "running", "round": ROUND, "rounds": 10, "up": 5, "down": 6, "failures": 1})
    text += prometheus("b", {"state": "failed", "nodes": [{"online": True}, {"online": False}, {"online": False}]})
    form = re.compile(
        r'(# TYPE [a-z_]+ (gauge|counter))|([a-z_]+\{run="(\\.|[^"\\])*"(,[a-z]+="[^"]*")*\} -?[\d.e+-]+)'
    )
    for line in text.splitlines():
        assert form.fullmatch(line), line
    assert 'edgekit_score{run="a \\"run\\"",measure="accuracy"} 0.75' in text
    assert 'edgekit_nodes{run="b",state="away"} 2' in text
    assert "edgekit_epsilon" not in text  # None is no number


def test_a_failed_run_says_so_and_a_taken_port_is_refused(page, tmp_path):
    page.failed("nobody came")
    base = page.address.partition("?")[0]
    assert httpx.get(f"{base}healthz").status_code == 503
    with pytest.raises(ServeError, match="give another --port"):
        LivePage("other", tmp_path, int(base.rpartition(":")[2].strip("/")))


def test_the_token_of_a_coordinator_stays_and_is_its_owners(tmp_path):
    token = kept_token(tmp_path / "token")
    assert kept_token(tmp_path / "token") == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
