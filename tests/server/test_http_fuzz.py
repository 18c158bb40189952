"""What strangers ask of the coordinator's and the gateway's ports, over real sockets: refused without a traceback."""

import json
import os
import random
import socket

import pytest

REQUESTS = 100_000
OF_ONE = 100
"""Requests a connection, each from an address of its own."""
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW", "get", "")
PATHS = (
    "/", "/join/time", "/join/hello", "/join/enrol", "/join/phone", "/join/leave", "/edgekit/state", "/edgekit/codes",
    "/phone/", "/phone/app.js", "/phone/../app.py", "/phone/%2e%2e/%2e%2e/app.py", "/phone/%00", "/phone/\xff", "/line",
    "/progress", "/dashboard", "/install", "/bundle.tar", "/v1/fleet/pull-messages", "/v1/fleet/activate-node",
    "/v1/control/list-runs", "/v1/runtime/push-logs", "/edgekit/next", "/edgekit/reply", "//", "/%", "*", "http://[::1",
)  # fmt: skip
NAMES = (
    "host", "content-length", "transfer-encoding", "flwr-public-key", "flwr-signature", "flwr-timestamp", "origin",
    "accept-encoding", "range", "x-forwarded-for", "content-type", "edgekit-has", "upgrade", "connection", "cookie",
    "a" * 300,
)  # fmt: skip
ODD = (
    1e400, -1e400, float("nan"), 10**400, -1, 2**63, 2**64, 0, True, None, "", "\0", "\ud800", "\x1b[31m", "a" * 5000,
    "ä😀", "\n2026-01-01 forged", "../../etc/passwd", "%s%n{0}", [], {}, [[[[]]]], {"a": {"b": {}}}, "0" * 64,
    "torch", "gateway",
)  # fmt: skip
KEYS = (
    "code", "nonce", "public_key", "name", "kind", "version", "time", "protocol", "proof", "signature", "gateway",
    "node_id",
)  # fmt: skip


def _value(rng):
    found = rng.choice(ODD)
    return found if rng.random() < 0.8 else {rng.choice(KEYS): found, "x": [found] * rng.randrange(5)}


def _body(rng):
    kind = rng.random()
    if kind < 0.1:
        return rng.randbytes(rng.randrange(200))
    if kind < 0.2:
        return rng.choice(
            (b"[" * 8000, b'{"a":' * 3000, b'"', b"{}", b"[]", b"null", b"1e400", b"\xef\xbb\xbf{}", b"\xff\xfe")
        )
    asked = {key: _value(rng) for key in KEYS if rng.random() < 0.7}
    if rng.random() < 0.7:
        asked |= {"protocol": 1, "time": rng.choice((0, 1e400, 10**400, "now", 2**63, -1.5))}
    return json.dumps(asked).replace("Infinity", "1e400").encode(errors="surrogatepass")


def _request(rng):
    """Return a request, and whether its connection goes on after it."""
    method, path = (rng.choice(("GET", "POST")), rng.choice(PATHS[:8])) if rng.random() < 0.6 else (
        rng.choice(METHODS),
        rng.choice(PATHS) + ("?" + rng.choice(("a=" * 500, "%00", "seconds=nan", "x")) if rng.random() < 0.2 else ""),
    )  # fmt: skip
    body = _body(rng) if rng.random() < 0.8 else b""
    headers = [b"host: h", b"content-length: %d" % len(body)]
    regular = method in METHODS[:2]
    for _ in range(rng.randrange(3)):
        if rng.random() < 0.2:
            value = str(rng.choice(ODD)).encode("utf-8", "surrogatepass")
            headers.append(rng.choice(NAMES).encode() + b": " + value)
            regular = False
    head = f"{method} {path} HTTP/1.1".encode("latin-1", "replace")
    return b"\r\n".join([head, *headers, b"", body]), regular and path.isascii()


def _status(file):
    """Read one response; return its status, None at the end of the connection."""
    line = file.readline()
    if not line:
        return None
    length = 0
    while (header := file.readline().strip()) != b"":
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    file.read(length)
    return int(line.split()[1])


def _ask(port, rng, number):
    """Send requests of one connection; return the statuses."""
    address = f"127.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}"
    found = []
    while len(found) < number:
        try:
            with socket.create_connection(("127.0.0.1", port), 30, (address, 0)) as connection:
                file = connection.makefile("rb")
                while len(found) < number:
                    request, regular = _request(rng)
                    connection.sendall(request)
                    if not regular:  # it may want more of the body, or have had enough
                        connection.shutdown(socket.SHUT_WR)
                    status = _status(file)
                    found.append(status)
                    if status is None or not regular:
                        break
        except OSError:  # it was ended meanwhile
            found.append(None)
    return found


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_whatever_strangers_ask_is_refused_without_a_traceback(federation):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve_phones("--insecure")
    one.phone_link()
    pids = one.superlink(), one.gateway()
    rng = random.Random(None if os.environ.get("EDGEKIT_FUZZ_NEW") else 0)
    statuses = []
    for number in range(REQUESTS // OF_ONE):
        statuses += _ask((one.port, one.phones_port)[number % 2], rng, OF_ONE)
    assert {status for status in statuses if status is not None and status >= 500} <= {501}
    assert statuses.count(None) < len(statuses) / 2  # most are answered
    assert (one.superlink(), one.gateway()) == pids
    for name in ("superlink", "phones", "superexec"):
        log = (one.run / "logs" / f"{name}.log").read_text(errors="replace")
        assert "Traceback" not in log
        assert max(map(len, log.splitlines())) < 2500
        assert not any(line.startswith("2026-01-01 forged") for line in log.splitlines())
