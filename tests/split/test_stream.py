"""The gRPC stream: the same bits as in one process, over links that break, and nobody who may not take part."""

import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest

from edgekit.algorithms.interactive import steps, trained_alike
from edgekit.algorithms.split import split_pb2 as pb
from edgekit.algorithms.split import split_pb2_grpc as stubs
from edgekit.algorithms.split.device import half
from edgekit.algorithms.split.messages import Forward
from edgekit.algorithms.split.server import split_cohort
from edgekit.algorithms.split.service import SplitService, listen
from edgekit.algorithms.split.settings import Split
from edgekit.algorithms.split.stream import StreamLine
from edgekit.algorithms.split.wire import OPTIONS, PROTOCOL, TOKEN, pack_asked
from edgekit.clients import LocalSettings, LocalTask
from edgekit.clients.torch_trainer import state
from edgekit.errors import LinkDownError, RefusedError, ServeError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.server.deployment.authority import Authority

WORK = LocalSettings(batch_size=8, epochs=2, learning_rate=0.1, momentum=0.9)
CUT = "layers.5"


@pytest.fixture
def made(digits):
    """A network that is cut, its service, and a function that admits clients."""
    running = []

    def make(clients=1, keys=None, **split):
        model = build(Model(name="dscnn", norm="group", width=0.5), (1, 8, 8), 10, 0)
        settings = Split(cut=CUT, **split)
        trainer = split_cohort(settings, model, digits)
        trainer.server.begin(state(model), WORK, 0)
        service = SplitService(trainer.server, settings.codec, settings.window)
        server, port = listen(service, "127.0.0.1:0", clients, keys)
        running.append(server)
        return model, trainer, service, port

    yield make
    for server in running:
        server.stop(0)


def _task(block):
    return LocalTask(block, np.random.default_rng(1), np.random.default_rng(2))


def _round(model, trainer, line, block, between=lambda step: None):
    device = trainer.plan.begin(state(model), _task(block), WORK)
    for step, _ in enumerate(filter(None, steps(device.exchanges(), line)), 1):
        between(step)
    return device.update().arrays


def _same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize(("codec", "window"), [("float32", 1), ("float32", 4), ("float16", 1), ("int8", 4)])
def test_a_client_over_grpc_ends_with_the_bits_of_one_in_process(made, blocks, labels, codec, window):
    (block,) = blocks(50)
    model, trainer, service, port = made(labels=labels, codec=codec, window=window)
    (direct,) = trained_alike(half, trainer, state(model), WORK, [_task(block)])
    trainer.server.begin(state(model), WORK, 0)
    with StreamLine(f"127.0.0.1:{port}", service.admit(0), codec, 60) as line:
        ours = _round(model, trainer, line, block) | trainer.server.weights(0)
        line.finish()
    if window == 1 or labels == "server":
        assert _same(ours, direct.arrays)
    else:  # how far the server is when a gradient comes depends on the link
        for name, array in direct.arrays.items():
            assert np.abs(ours[name] - array).max() < 0.2, name


def test_a_link_that_breaks_again_and_again_costs_no_step(made, blocks, proxy):
    (block,) = blocks(60)
    model, trainer, service, port = made()
    (direct,) = trained_alike(half, trainer, state(model), WORK, [_task(block)])
    trainer.server.begin(state(model), WORK, 0)
    link = proxy(port)
    with StreamLine(link.address, service.admit(0), "float32", 60) as line:
        ours = _round(model, trainer, line, block, lambda step: link.cut() if step % 3 == 0 else None)
        ours |= trainer.server.weights(0)
        line.finish()
    assert link.cuts >= 4
    assert _same(ours, direct.arrays)  # momentum included: no step was made twice, none is missing


def test_over_tls_and_only_with_the_right_authority(made, blocks, tmp_path):
    (block,) = blocks(20)
    authority, other = Authority(tmp_path / "keys"), Authority(tmp_path / "other")
    authority.renew(["127.0.0.1"])
    certificate, key = (path.read_bytes() for path in authority.server_files)
    model, trainer, service, port = made(keys=lambda: (key, certificate))
    with StreamLine(f"localhost:{port}", service.admit(0), "float32", 60, authority.certificate) as line:
        _round(model, trainer, line, block)
        line.finish()
    for wrong in (other.certificate, None):
        with pytest.raises(LinkDownError, match="cannot be reached"):
            StreamLine(f"localhost:{port}", service.admit(0), "float32", 1, wrong)


def test_who_may_not_take_part_is_told_so(made):
    _, trainer, service, port = made(clients=4)
    address = f"127.0.0.1:{port}"
    token = service.admit(0)
    for wrong in (b"", b"x" * 32, token[:-1]):
        with pytest.raises(RefusedError, match="no round that runs"):
            StreamLine(address, wrong, "float32", 60)
    with StreamLine(address, token, "float32", 60) as line:
        with pytest.raises(RefusedError, match="in use elsewhere"):  # two devices with one identity: the first counts
            StreamLine(address, token, "float32", 60)
        x = np.zeros((2, *trainer.server._shape), np.float32)
        line.send(Forward(1, x, None))
        assert line.receive().activation.shape[0] == 2
        line.finish()
    with pytest.raises(RefusedError, match="used up"):
        StreamLine(address, token, "float32", 60)
    late = service.admit(1)
    service.end()
    with pytest.raises(RefusedError, match="no round that runs"):
        StreamLine(address, late, "float32", 60)
    with pytest.raises(LinkDownError, match="cannot be reached"):
        StreamLine("127.0.0.1:9", token, "float32", 1)


def _stream(port, token, *messages):
    """Send raw messages; return what the server says of them."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS) as channel:
        try:
            return list(stubs.SplitStub(channel).Train(iter(messages), timeout=10, metadata=((TOKEN, token),)))
        except grpc.RpcError as error:
            return error.details()


def test_lies_are_refused_in_words(made):
    _, trainer, service, port = made(clients=8)
    shape = trainer.server._shape
    x = np.zeros((2, *shape), np.float32)

    def told(*asks, protocol=PROTOCOL, answers=0):
        hello = pb.Hello(protocol=protocol, answers=answers, attempt=1)
        return _stream(port, service.admit(0), pb.FromDevice(hello=hello), *(pb.FromDevice(ask=ask) for ask in asks))

    good = pack_asked(Forward(1, x, None), 1, "float32")
    assert len(told(good)) == 2
    lie = pack_asked(Forward(1, x, None), 1, "float32")
    lie.array.shape[0] = 3
    huge = pack_asked(Forward(1, x, None), 1, "float32")
    huge.array.shape[:] = [1 << 31, 1 << 31]
    strange = pack_asked(Forward(1, x, None), 1, "float32")
    strange.array.codec = "pickle"
    cheap = pack_asked(Forward(1, np.zeros((200_000, 1), np.float32), None), 1, "top-k")
    labelled = pack_asked(Forward(1, x, np.zeros(2, np.int64)), 1, "float32")
    for asks, problem in (
        ((lie,), "comes with"),
        ((huge,), "are expected here"),
        ((strange,), "not pickle"),
        ((cheap,), "not top-k"),
        ((labelled,), "labels stay with the device"),
        ((pack_asked(Forward(1, x * np.nan, None), 1, "float32"),), "not finite"),
        ((pack_asked(Forward(1, x[:, :1], None), 1, "float32"),), "are expected here"),
        ((pack_asked(Forward(1, np.repeat(x, 5, 0), None), 1, "float32"),), "1 to 8 x"),
        ((pack_asked(Forward(1, x, None), 2, "float32"),), "message 1 was expected"),
        ((good, pack_asked(Forward(2, x, None), 2, "float32")), "more than 1 batches are under way"),
    ):
        assert problem in told(*asks), problem
    assert "speaks version 2" in told(protocol=9)
    assert "do not agree" in told(answers=3)
    assert "hello was expected" in _stream(port, service.admit(0), pb.FromDevice(ask=good))


def test_the_end_of_a_round_outlives_a_broken_link(made, proxy):
    _, trainer, service, port = made()
    link = proxy(port)
    with StreamLine(link.address, service.admit(0), "float32", 60) as line:
        line.send(Forward(1, np.zeros((2, *trainer.server._shape), np.float32), None))
        line.receive()
        link.cut()
        line.finish()


def test_silent_streams_and_strangers_keep_nobody_out(made, blocks, monkeypatch):
    from edgekit.algorithms.split import service as split_stream

    monkeypatch.setattr(split_stream, "HELLO_SECONDS", 1.0)
    (block,) = blocks(20)
    model, trainer, service, port = made()
    silent = []
    for _ in range(1 + split_stream.SPARE_STREAMS):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS)
        stop = threading.Event()
        stream = stubs.SplitStub(channel).Train(iter(lambda stop=stop: stop.wait() and None, None))
        silent.append((channel, stop, stream))
    long = pb.FromDevice(ask=pb.Ask(array=pb.Tensor(data=bytes(60 << 20))))  # nobody reads it
    assert _stream(port, b"nobody's", long) == split_stream.UNKNOWN
    time.sleep(0.2)
    with StreamLine(f"127.0.0.1:{port}", service.admit(0), "float32", 20) as line:
        _round(model, trainer, line, block)
        line.finish()
    for channel, stop, _ in silent:
        stop.set()
        channel.close()


def test_a_round_that_ends_ends_its_streams_and_what_was_under_way(made):
    _, trainer, service, port = made()
    x = np.zeros((2, *trainer.server._shape), np.float32)
    with StreamLine(f"127.0.0.1:{port}", service.admit(0), "float32", 60) as line:
        line.send(Forward(1, x, None))
        line.receive()
        service.end()
        assert trainer.server._waiting == {}
        line.send(Forward(2, x, None))
        with pytest.raises(RefusedError, match="no round that runs"):
            line.receive()


def test_a_step_that_fails_at_the_server_is_not_tried_for_ever(made, monkeypatch):
    _, trainer, service, port = made()
    calls = []

    def fail(client, message):
        calls.append(client)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainer.server, "answer", fail)
    with StreamLine(f"127.0.0.1:{port}", service.admit(0), "float32", 20) as line:
        line.send(Forward(1, np.zeros((2, *trainer.server._shape), np.float32), None))
        with pytest.raises(RefusedError, match="the step failed at the server"):
            line.receive()
    assert len(calls) == 1


def test_a_port_in_use_is_told(made):
    _, _, service, port = made()
    with pytest.raises(ServeError, match="is another server running"):
        listen(service, f"127.0.0.1:{port}", 1, None)


def test_a_server_that_vanishes_ends_the_round_by_its_deadline(made, blocks, proxy):
    (block,) = blocks(40)
    model, trainer, service, port = made()
    link = proxy(port)
    begun = time.monotonic()
    with (
        StreamLine(link.address, service.admit(0), "float32", 3) as line,
        pytest.raises(LinkDownError),
    ):
        _round(model, trainer, line, block, lambda step: link.close() if step == 2 else None)
    assert time.monotonic() - begun < 10


def test_a_device_that_stops_sending_costs_the_others_nothing(made, blocks):
    parts = blocks(20, 20, 20)
    model, trainer, service, port = made(clients=4, halves="each")
    silent = StreamLine(f"127.0.0.1:{port}", service.admit(3), "float32", 60)

    def one(client):
        with StreamLine(f"127.0.0.1:{port}", service.admit(client), "float32", 60) as line:
            found = _round(model, trainer, line, parts[client])
            line.finish()
            return found

    with futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(one, range(3)))
    direct = split_trainer_of(trainer, model, parts)
    for client, update in enumerate(direct):
        assert _same(found[client] | trainer.server.weights(client), update.arrays)
    silent.close()


def split_trainer_of(trainer, model, parts):
    """Return the updates of the same round in one process, with a server of its own."""
    from edgekit.algorithms.split.server import SplitServer
    from edgekit.algorithms.split.simulated import SplitCohort

    there = trainer.server
    own = SplitServer(there._part, there._shape, there._classes, labels=False, shared=False, window=1)
    return trained_alike(half, SplitCohort(trainer.plan, own), state(model), WORK, [_task(part) for part in parts])


def test_the_generated_code_is_of_the_protocol(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), "edgekit/algorithms/split/split.proto"]
    command += [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "pyi")]
    subprocess.run(command, check=True, cwd=root, capture_output=True)
    for path in (tmp_path / "edgekit" / "algorithms" / "split").iterdir():
        assert path.read_text() == (root / "edgekit" / "algorithms" / "split" / path.name).read_text(), (
            f"{path.name}: make it again"
        )


def test_a_device_that_shall_stop_does_not_begin_and_one_that_waits_ends(made):
    _, _, service, port = made()
    address, stop = f"127.0.0.1:{port}", threading.Event()
    with StreamLine(address, service.admit(0), "float32", 60, stop=stop) as line:
        threading.Timer(0.5, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(LinkDownError, match="stopped in the middle"):
            line.receive()  # nothing was asked, so nothing comes
        assert time.monotonic() - begun < 10
    with pytest.raises(LinkDownError, match="stopped in the middle"):
        StreamLine(address, service.admit(1), "float32", 60, stop=stop)


def test_a_batch_that_is_too_large_is_told_at_once(made):
    _, _, service, port = made()
    with StreamLine(f"127.0.0.1:{port}", service.admit(0), "float32", 60) as line:
        line.send(Forward(1, np.zeros((17, 1024, 1024), np.float32), None))
        with pytest.raises(RefusedError, match="more than 64 MB on its way: take a smaller training.batch_size"):
            line.receive()


def test_one_devices_round_may_end_before_the_others(made):
    _, trainer, service, port = made(clients=2)
    x = np.zeros((2, *trainer.server._shape), np.float32)
    tokens = [service.admit(0), service.admit(1)]
    lines = [StreamLine(f"127.0.0.1:{port}", token, "float32", 20) for token in tokens]
    ended = service.end([0])
    assert (list(ended), ended[0].finished) == ([0], False)
    lines[0].send(Forward(1, x, None))
    with pytest.raises(RefusedError, match="of no round that runs"):
        lines[0].receive()
    lines[1].send(Forward(1, x, None))
    assert lines[1].receive().activation.shape[0] == 2
    lines[1].finish()
    ended = service.end()
    assert ended[1].finished
    assert ended[1].bytes_up == x.nbytes
    for line in lines:
        line.close()
