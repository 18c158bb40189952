"""The door of a web server: silent strangers go, and take nobody's place."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time

import pytest

from edgekit.door import Door, known, one_of
from edgekit.errors import ServeError
from edgekit.webserver import Server


async def _answer(scope, receive, send):
    """Answer; whoever asks for /me is known by his port."""
    if scope["type"] != "http":
        return
    if scope["path"].startswith("/me"):
        known(scope, scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def served():
    """Serve with a door of few places; return the port, and what is inside."""
    server = Server(_answer, "127.0.0.1", 0, None, timeout_keep_alive=600)
    now = [0.0]
    server.door = Door(strangers=30, from_one=20, of_one=3, clock=lambda: now[0])
    server.config.app._door = server.door
    sockets = server.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets)), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield sockets[0].getsockname()[1], server.door, now
    server.should_exit = True
    thread.join()


def _asks(port, path="/", source="127.0.0.1"):
    """Ask, and keep the connection."""
    there = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(source, 0))
    there.request("GET", path)
    assert there.getresponse().read() == b"ok"
    return there


def _silent(port, number, source="127.0.0.1"):
    return [socket.create_connection(("127.0.0.1", port), 5, (source, 0)) for _ in range(number)]


def _settled(door, number, away=0):
    """Wait until so many are inside, and so many were sent away."""
    end = time.monotonic() + 30
    while len(door._inside) != number or sum(door._sent_away.values()) < away:
        assert time.monotonic() < end, len(door._inside)
        time.sleep(0.01)


def _ended(connection):
    """Whether the server has ended a connection; it sent nothing."""
    connection.settimeout(0.2)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_a_crowd_of_one_address_goes_and_whoever_is_known_stays(served):
    port, door, now = served
    member = _asks(port, "/me")
    crowd = _silent(port, 60)
    _settled(door, 21, 40)  # 20 strangers of one address, and the member
    now[0] = 1.0
    assert _asks(port).sock is not None  # the newest gets a word in
    assert all(_ended(one) for one in crowd[:40])
    assert not _ended(crowd[-1])
    member.request("GET", "/me")  # on the same connection
    assert member.getresponse().read() == b"ok"


@pytest.mark.long
def test_a_crowd_of_many_addresses_takes_no_place_of_others(served):
    port, door, now = served
    honest = _asks(port, source="127.0.0.99")
    now[0] = 1.0
    crowd = [one for last in range(2, 10) for one in _silent(port, 10, f"127.0.0.{last}")]
    _settled(door, 30, 51)
    honest.request("GET", "/")
    assert honest.getresponse().read() == b"ok"
    assert sum(not _ended(one) for one in crowd) == 29


def test_who_says_nothing_for_long_goes_unless_he_is_known_or_is_answered(served):
    port, door, now = served
    member, stranger = _asks(port, "/me"), _asks(port)
    (silent,) = _silent(port, 1)
    _settled(door, 3)
    now[0] = 9.0
    stranger.request("GET", "/")
    assert stranger.getresponse().read() == b"ok"
    now[0] = 11.0
    door.look()
    assert _ended(silent)
    _settled(door, 2)
    time.sleep(0.1)  # until its last answer has ended here, too
    now[0] = 40.0
    door.look()
    _settled(door, 1)
    member.request("GET", "/me")
    assert member.getresponse().read() == b"ok"
    with contextlib.suppress(OSError, http.client.HTTPException):
        stranger.request("GET", "/")
        pytest.fail(f"answered: {stranger.getresponse().status}")


def test_one_who_is_known_has_few_places(served):
    port, _, now = served
    mine, other = [], _asks(port, "/me-too")
    for second in range(4):
        now[0] = float(second)
        mine.append(_asks(port, "/me"))
    assert [_ended(one.sock) for one in mine] == [True, False, False, False]
    assert not _ended(other.sock)


def test_an_ipv6_network_is_one_address_and_a_port_in_use_is_told(served):
    assert one_of("2001:db8::1") == one_of("2001:db8::ffff:1") != one_of("2001:db8:0:1::1")
    assert one_of("::ffff:192.0.2.1") == "192.0.2.1" != one_of("192.0.2.2")
    with pytest.raises(ServeError, match="cannot listen on 127.0.0.1"):
        Door().listen("127.0.0.1", served[0])
