"""Phones in a federation of real processes. Here they are scripts; tests/devices/test_phones.py has the pages."""

import json
import os
import ssl
import struct
import subprocess
import threading
import time
import urllib.request

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from edgekit.clients.phone.frames import Frame, pack


def test_phones_take_part_leave_come_back_and_get_the_model(federation, fleet, scripted_phone):
    """Two phones and a LiteRT node, with what `edgekit serve --phones` starts and nothing else."""
    one = federation("federation.rounds=6", "serve.nodes=3", 'export.presets=["int8"]')
    one.serve_phones("--once", codes=1)
    (part,) = fleet.write_digits(one.folder, 1)
    one.join("board", "--data", f"npz:{part}", "--trainer", "litert")
    first = scripted_phone.ScriptedPhone(one.phone_link())
    first.take_part()
    second = scripted_phone.ScriptedPhone(one.phone_link())
    second.take_part()
    one.wait_for_round(2)
    # One goes, and comes back with its secret: the same node, no new ticket.
    first.close()
    back = scripted_phone.ScriptedPhone(first.url.replace("/line", "/phone/").replace("wss", "https"))
    back.identity = first.identity
    back.take_part()
    one.wait_for_end()
    one.coordinator.wait(120)
    assert all(line["replies"] == 3 or line["failures"] for line in one.rounds())
    assert one.rounds()[-1]["replies"] == 3
    assert len([frame for frame in second.heard if frame.type == "deliver"]) == 1
    assert second.task.facts["task"]["activity"] == "draw"
    kinds = {line["kind"]: line for line in json.loads((one.run / "nodes.json").read_text())}
    assert set(kinds) == {"litert", "phone", "gateway"}
    assert sum(line["kind"] == "phone" for line in json.loads((one.run / "nodes.json").read_text())) == 2
    assert kinds["phone"]["model"]["version"] == 6
    told = json.loads((one.run / "result.json").read_text())["nodes"]
    assert (told["phone"]["nodes"], told["litert"]["nodes"]) == (2, 1)
    assert told["phone"]["updates"] + told["litert"]["updates"] == sum(line["replies"] for line in one.rounds())
    assert "The nodes" in (one.run / "report.html").read_text()
    logs = (one.run / "logs" / "phones.log").read_text()
    assert first.identity["secret"] not in logs + one.output("coordinator")
    second.close()
    back.close()


@pytest.mark.long
def test_strangers_garbage_and_impossible_updates_cost_nobody_else_a_round(federation, scripted_phone):
    one = federation("federation.rounds=1000", "serve.nodes=1", "federation.cohort=2")
    one.serve_phones()
    link = one.phone_link()
    good = scripted_phone.ScriptedPhone(link)
    good.take_part()
    one.wait_for_round(1)

    # A ticket that was used, one that nobody gave, an identity that is none, another protocol.
    assert "used already" in scripted_phone.ScriptedPhone(link).hello().facts["reason"]
    assert "not known here" in scripted_phone.ScriptedPhone(link[:-3] + "abc").hello().facts["reason"]
    thief = scripted_phone.ScriptedPhone(link)
    thief.identity = {"phone": good.identity["phone"], "secret": "guessed"}
    assert "scan a new code" in thief.hello().facts["reason"]
    other = scripted_phone.ScriptedPhone(link)
    assert "version 1" in other.hello(protocol=7).facts["reason"]

    def closed_after(*contents):
        phone = scripted_phone.ScriptedPhone(link)
        connection = phone.open()
        try:
            for content in contents:
                connection.send(content)
            while True:
                connection.recv(timeout=30)
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd else 1006  # it went without a word

    assert closed_after("text") == 4400
    assert closed_after(b"garbage of some length") == 4400
    assert closed_after(b"EKPH\1\0\0\0" + struct.pack("<I", 1 << 30) + b"{}") == 4400
    assert closed_after(pack(Frame("hello", {"protocol": 1, "ticket": "x" * 5000}))) == 4400
    assert closed_after(b"\0" * ((64 << 20) + 1)) in (1009, 1006)  # refused by its length, not read

    # A member that sends what no page sends: its own round fails, nobody else's.
    def bad(make):
        def work(asked):
            return Frame("update", {"id": asked.facts["id"], "examples": 16}, make(asked.arrays["w"].copy()))

        return work

    def nan(w):
        w[3] = np.nan
        return {"w": w}

    rounds = len(one.rounds())
    works = [
        bad(nan),
        bad(lambda w: {"w": w[:-1]}),
        bad(lambda w: {"w": w + 1e9}),
        bad(lambda w: {}),
        lambda asked: Frame("nonsense"),
    ]
    for work in works:
        phone = scripted_phone.ScriptedPhone(one.phone_link(), work)
        phone.take_part()
        scripted_phone.wait(lambda phone=phone: phone.rounds >= 1, 60, "the bad phone's round")
        phone.close()
    one.wait_for_round(rounds + 30)
    lines = one.rounds()
    assert sum(line["failures"] for line in lines) >= len(works)
    assert all(line["replies"] >= 1 for line in lines)
    weights = [np.isfinite(line["loss"]) for line in lines]
    assert all(weights)
    assert good.close_code is None
    log = (one.run / "logs" / "phones.log").read_text()
    for said in ("not finite", "not one float32 array", "beyond 1e+06", "does not know 'nonsense'", "used already"):
        assert said in log, said
    good.close()


@pytest.mark.long
def test_a_phone_that_leaves_in_a_round_and_a_gateway_that_is_killed_cost_no_round(federation, fleet, scripted_phone):
    one = federation("federation.rounds=1000", "serve.nodes=1", "serve.deadline_seconds=60")
    one.serve_phones()
    there, leaving = threading.Event(), threading.Event()

    def leave(asked):
        leaving.set()
        there.wait(30)
        return Frame("leave")

    good = scripted_phone.ScriptedPhone(one.phone_link())
    good.take_part()
    gone = scripted_phone.ScriptedPhone(one.phone_link(), leave)
    gone.take_part()
    assert leaving.wait(60)
    rounds = len(one.rounds())
    there.set()
    one.wait_for_round(rounds + 2, 30)
    refused = scripted_phone.ScriptedPhone(one.phone_link())
    refused.identity = gone.identity
    assert "not known here" in refused.hello().facts["reason"]
    members = json.loads((one.folder / "home" / "coordinator" / "members.json").read_text())
    assert sum(member["kind"] == "phone" for member in members.values()) == 1

    rounds = len(one.rounds())
    os.kill(one.gateway(), 9)
    scripted_phone.wait(lambda: any("gateway for phones ended" in n for n in one.notices()), 30, "the notice")
    back = scripted_phone.ScriptedPhone(good.url.replace("wss", "https").replace("/line", "/phone/"))
    back.identity = good.identity
    end = time.monotonic() + 60
    while True:  # the gateway is being started again
        try:
            back.take_part()
            break
        except (OSError, TimeoutError):
            assert time.monotonic() < end
            time.sleep(0.3)
    one.wait_for_round(rounds + 3, 90)

    # Removed by whoever runs the group, it is told.
    environment = {**os.environ, "EDGEKIT_HOME": str(one.folder / "home")}
    members = json.loads((one.folder / "home" / "coordinator" / "members.json").read_text())
    (node,) = (node for node, member in members.items() if member["kind"] == "phone")
    subprocess.run([*fleet.PROGRAM, "devices", "remove", node], check=True, env=environment, capture_output=True)
    scripted_phone.wait(lambda: back.close_code == 4401, 60, "the farewell")
    assert "was removed from the group" in back.heard[-1].facts["reason"]


@pytest.mark.long
def test_the_page_and_the_dashboard_are_served_with_care(federation, scripted_phone):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve_phones()
    link = one.phone_link()
    base = link.partition("/phone/")[0]
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    def get(path, **headers):
        request = urllib.request.Request(base + path, headers=headers)
        try:
            return urllib.request.urlopen(request, context=trusting, timeout=20)
        except urllib.error.HTTPError as error:
            return error

    page = get("/phone/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "server" not in page.headers
    assert "strict-transport-security" not in page.headers  # the certificate is ours
    assert page.headers["cross-origin-embedder-policy"] == "require-corp"
    packed = get("/phone/litert/litert_wasm_internal.wasm", **{"Accept-Encoding": "gzip"})
    assert (packed.headers["content-encoding"], packed.headers["content-type"]) == ("gzip", "application/wasm")
    for path in ("/phone/../gateway.py", "/phone/%2e%2e/members.py", "/phone/nothing.js", "/phone/litert/", "/node"):
        assert get(path).status == 404, path
    phone = scripted_phone.ScriptedPhone(link)
    phone.take_part()
    one.wait_for_round(2)
    scripted_phone.wait(lambda: json.load(get("/progress")).get("done"), 30, "progress")
    told = json.load(get("/progress"))
    assert told["rounds"] == 1000
    assert told["here"] == {"torch": 0, "litert": 0, "phone": 1}
    assert "phone-" not in json.dumps(told)  # no names
    # A page of another origin may not use a phone's line.
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus):
        connect(phone.url, ssl=trusting, origin="https://elsewhere.example")
    phone.close()


def test_a_gateway_that_cannot_be_says_why(federation, edgekit, tmp_path):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve("--allow-gateways")
    url = one.code()
    folder = tmp_path / "gateway"

    def phone(*options, host="127.0.0.1"):
        done = edgekit("phone", *options, "--folder", folder, "--host", host, cwd=tmp_path)
        assert done.stderr.count("\n") <= 1, done.stderr
        return done

    for options, complaint in (
        ((), "give the address that edgekit serve shows"),
        ((url.split("#")[0],), "give the whole address with its code"),
        (("https://nonsense",), "with its code"),
        ((url, "--certificate", "nowhere.pem"), "belong together"),
        ((url, "--certificate", "nowhere.pem", "--key", "x"), "does not exist"),
        ((url[:-1] + ("0" if url[-1] != "0" else "1"),), "cannot prove that it showed this code"),
        ((url, "--port", str(one.port)), "cannot listen on 127.0.0.1"),
    ):
        done = phone(*options)
        assert done.returncode in (1, 2), options
        assert complaint in done.stderr, (options, done.stderr)
    insecure = phone("--insecure", host="0.0.0.0")
    assert "--insecure is for this machine alone" in insecure.stderr


@pytest.mark.parametrize("public", [False, True])
def test_only_with_a_certificate_that_browsers_trust_are_they_told_to_stay_encrypted(public):
    import anyio
    import httpx
    from starlette.applications import Starlette

    from edgekit.clients.phone.pages import Guarded, page_routes

    async def headers():
        transport = httpx.ASGITransport(Guarded(Starlette(routes=page_routes()), public=public))
        async with httpx.AsyncClient(transport=transport, base_url="https://h") as client:
            return (await client.get("/phone/")).headers

    found = anyio.run(headers)
    assert ("strict-transport-security" in found) == public
    assert "default-src 'self'" in found["content-security-policy"]
