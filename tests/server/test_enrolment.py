"""Joining by a code: who gets in, who does not, and what both are told."""

import secrets
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgekit.enrolment import PROTOCOL, JoinCode, enrolment_parts, is_proof, parse_url, phone_message
from edgekit.errors import JoinError, ServeError
from edgekit.server.deployment.enrolment import MOST_ATTEMPTS, Enrolment
from edgekit.version import __version__


class Coordinator:
    """An enrolment whose clock and SuperLink are the test's."""

    def __init__(self, folder):
        self.now = time.time()
        self.registered, self.log = {}, []
        self.folder = folder
        self.open()

    def open(self):
        self.enrolment = Enrolment(
            self.folder, b"the authority", b"s" * 32, self.register, self.unregister, self.log.append, lambda: self.now
        )

    def register(self, key, name):
        return self.registered.setdefault(key, 100 + len(self.registered))

    def unregister(self, node):
        self.registered = {key: value for key, value in self.registered.items() if value != node}


class Device:
    """A device that asks as `clients/node/enrol.py` does."""

    def __init__(self, coordinator, code, name="pi"):
        self.coordinator, self.code, self.name = coordinator, code, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def request(self, **changed):
        nonce = secrets.token_hex(16)
        public = changed.get("public_key", self.public)
        proof = self.code.proof(*enrolment_parts(nonce, public, self.name, "litert"))
        signature = self.key.sign(changed.get("proof", proof).encode(), ec.ECDSA(hashes.SHA256())).hex()
        made = {
            "code": self.code.name,
            "nonce": nonce,
            "public_key": public,
            "name": self.name,
            "kind": "litert",
            "version": __version__,
            "proof": proof,
            "signature": signature,
            "protocol": PROTOCOL,
            "time": self.coordinator.now,
        }
        return {**made, **changed}

    def join(self, **changed):
        return self.coordinator.enrolment.enrol(self.request(**changed))


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator(tmp_path)


@pytest.fixture
def code(coordinator):
    return coordinator.enrolment.issue(600)


def test_a_code_is_typed_as_people_type():
    code = JoinCode.new()
    assert JoinCode.parse(str(code)) == code
    assert JoinCode.parse(str(code).lower().replace("-", " ").replace("0", "o").replace("1", "l")) == code
    assert code.secret not in repr(code)
    for wrong in ("", "ABCD", str(code)[:-1], str(code) + "A", "U" * 20):
        with pytest.raises(JoinError, match="not a join code"):
            JoinCode.parse(wrong)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.168.1.1:8443",
        "ftp://h:1",
        "https://",
        "https://h:99999",
        "https://h:1/path",
        "https://h/?q",
        "https://u@h",
    ],
)
def test_a_wrong_address_is_refused_without_telling_its_code(url):
    with pytest.raises(JoinError, match="not a join address") as refused:
        parse_url(f"{url}#{'K' * 20}")
    assert "K" * 10 not in str(refused.value)


def test_an_address_without_tls_is_for_this_machine_alone():
    assert parse_url("http://127.0.0.1:8443")[0].port == 8443
    assert parse_url("https://[fd00::1]:8443")[0].netloc == "[fd00::1]:8443"
    with pytest.raises(JoinError, match="no TLS"):
        parse_url("http://192.168.1.10:8443")


def test_the_coordinator_proves_itself_by_the_code_and_nobody_else_can(coordinator, code):
    asked = {"code": code.name, "nonce": "n" * 32, "time": coordinator.now, "protocol": PROTOCOL}
    answer = coordinator.enrolment.hello(asked)
    authority = answer["authority"].encode()
    assert is_proof(answer["proof"], code.proof(b"authority", b"n" * 32, authority))
    assert not is_proof(answer["proof"], code.proof(b"authority", b"n" * 32, b"another authority"))
    assert not is_proof(answer["proof"], JoinCode.new().proof(b"authority", b"n" * 32, authority))
    assert code.secret not in str(answer)


def test_a_device_joins_once_and_may_repeat_a_lost_answer(coordinator, code):
    device = Device(coordinator, code)
    first = device.join()
    assert first["node_id"] == 100
    assert device.join()["node_id"] == 100
    assert coordinator.enrolment.with_key(device.public) == 100
    with pytest.raises(JoinError, match="was used already"):
        Device(coordinator, code, "thief").join()
    assert any("tried a second time" in line for line in coordinator.log)
    coordinator.open()  # a restart forgets nothing
    assert coordinator.enrolment.with_key(device.public) == 100
    with pytest.raises(JoinError, match="was used already"):
        Device(coordinator, code, "thief").join()


def test_a_code_expires_and_wrong_guesses_void_it(coordinator, code):
    guess = JoinCode(code.name, JoinCode.new().secret)
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(JoinError, match="secret part is wrong"):
            Device(coordinator, guess).join()
    with pytest.raises(JoinError, match="has expired"):
        Device(coordinator, code).join()
    assert any("guessing" in line for line in coordinator.log)
    late = coordinator.enrolment.issue(60)
    coordinator.now += 61
    with pytest.raises(JoinError, match="has expired"):
        Device(coordinator, late).join()
    assert coordinator.registered == {}
    assert coordinator.enrolment.open_codes() == []


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"code": "ZZZZ"}, "is unknown here"),
        ({"code": 7}, "lacks 'code'"),
        ({"name": "x" * 65}, "at most 64"),
        ({"name": "a\nb"}, "at most 64"),
        ({"kind": "toaster"}, "kind is torch, litert, supernode"),
        ({"protocol": 99}, "install the same edgekit on both"),
        ({"time": None}, "does not say the device's time"),
        ({"proof": "0" * 64}, "secret part is wrong"),
        ({"signature": "00"}, "not signed by the key"),
        ({"signature": "zz"}, "not signed by the key"),
        ({"public_key": "no key"}, "not signed by the key"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(coordinator, code, changed, complaint):
    with pytest.raises(JoinError, match=complaint):
        Device(coordinator, code).join(**changed)
    assert coordinator.registered == {}


def test_a_clock_that_is_off_is_told_before_signatures_fail(coordinator, code):
    for seconds, complaint in ((60, "60 s ahead of"), (-400, "400 s behind")):
        with pytest.raises(JoinError, match=complaint):
            Device(coordinator, code).join(time=coordinator.now + seconds)
    assert Device(coordinator, code).join(time=coordinator.now - 200)["node_id"] == 100


def test_nobody_joins_with_another_ones_key(coordinator, code):
    """The proof is of the code, the signature of the key: a thief of the code cannot take over a node's identity."""
    owner = Device(coordinator, code)
    owner.join()
    second = coordinator.enrolment.issue(600)
    thief = Device(coordinator, second)
    with pytest.raises(JoinError, match="not signed by the key"):
        thief.join(public_key=owner.public)


def test_a_superlink_that_is_away_leaves_the_code_usable(coordinator, code):
    def away(key, name):
        raise ServeError("the SuperLink does not answer")

    enrolment = coordinator.enrolment
    before, enrolment._register = enrolment._register, away
    with pytest.raises(JoinError, match="try again"):
        Device(coordinator, code).join()
    enrolment._register = before
    assert Device(coordinator, code).join()["node_id"] == 100


def test_a_node_leaves_by_its_own_signature_alone(coordinator, code):
    device = Device(coordinator, code)
    node = device.join()["node_id"]

    def leave(key, when):
        signature = key.sign(f"leave {node} {when}".encode(), ec.ECDSA(hashes.SHA256())).hex()
        return coordinator.enrolment.leave_signed({"node_id": node, "time": when, "signature": signature})

    with pytest.raises(JoinError, match="not signed"):
        leave(ec.generate_private_key(ec.SECP256R1()), coordinator.now)
    with pytest.raises(JoinError, match="too old"):
        leave(device.key, coordinator.now - 1000)
    assert leave(device.key, coordinator.now) == {"left": True}
    assert coordinator.registered == {}
    with pytest.raises(JoinError, match="does not know this node"):
        leave(device.key, coordinator.now)


def _phone(coordinator, gateway, node, **changed):
    """Bring a phone, as `enrol.join_phone` does."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    message = phone_message(node, public, "phone", coordinator.now)
    request = {
        "gateway": node,
        "public_key": public,
        "name": "phone",
        "version": __version__,
        "time": coordinator.now,
        "protocol": PROTOCOL,
        "signature": gateway.key.sign(message, ec.ECDSA(hashes.SHA256())).hex(),
        "proof": key.sign(message, ec.ECDSA(hashes.SHA256())).hex(),
        **changed,
    }
    return coordinator.enrolment.enrol_phone(request)["node_id"]


def _as_gateway(coordinator, code):
    gateway = Device(coordinator, code, "gate")
    nonce = secrets.token_hex(16)
    proof = code.proof(*enrolment_parts(nonce, gateway.public, "gate", "gateway"))
    signature = gateway.key.sign(proof.encode(), ec.ECDSA(hashes.SHA256())).hex()
    return gateway, gateway.request(kind="gateway", nonce=nonce, proof=proof, signature=signature)


def test_only_a_gateway_that_was_allowed_brings_phones_and_they_go_with_it(tmp_path):
    coordinator = Coordinator(tmp_path)
    stranger, request = _as_gateway(coordinator, coordinator.enrolment.issue())
    with pytest.raises(JoinError, match="lets in one device, not a gateway"):
        coordinator.enrolment.enrol(request)
    gateway, request = _as_gateway(coordinator, coordinator.enrolment.issue(gateway=True))
    node = coordinator.enrolment.enrol(request)["node_id"]
    phones = [_phone(coordinator, gateway, node) for _ in range(3)]
    kinds = {n: member.kind for n, member in coordinator.enrolment.members.items()}
    assert kinds == {node: "gateway", **dict.fromkeys(phones, "phone")}
    with pytest.raises(JoinError, match="not signed by the key"):
        _phone(coordinator, stranger, node)
    with pytest.raises(JoinError, match="not signed by the key"):
        _phone(coordinator, gateway, node, proof="00")
    for wrong in (phones[0], 7, "x", True):
        with pytest.raises(JoinError, match="only a gateway"):
            _phone(coordinator, gateway, wrong)
    coordinator.open()  # it survives a restart
    coordinator.enrolment.leave(node)
    assert coordinator.enrolment.members == {}
    assert coordinator.registered == {}


def test_a_superlink_that_remembers_nobody_is_told_all_members(coordinator, code):
    node = Device(coordinator, code)
    before = node.join()["node_id"]
    coordinator.registered = {"somebody else": 100}
    coordinator.enrolment.register_anew()
    after = coordinator.enrolment.with_key(node.public)
    assert after != before
    assert set(coordinator.enrolment.members) == {after} == set(coordinator.registered.values()) - {100}
    coordinator.open()
    assert set(coordinator.enrolment.members) == {after}


@pytest.mark.parametrize(("version", "fits"), [("0.1.7", True), ("0.2.0", False), ("1.1.0", False), ("x" * 99, False)])
def test_versions_that_differ_in_more_than_a_patch_are_told_what_to_install(
    coordinator, code, version, fits, monkeypatch
):
    monkeypatch.setattr("edgekit.enrolment.__version__", "0.1.2")
    if fits:
        assert Device(coordinator, code).join(version=version)
        return
    with pytest.raises(JoinError, match=r"has edgekit .*, here is 0.1.2: install edgekit==0.1.\* on both") as told:
        Device(coordinator, code).join(version=version)
    assert len(str(told.value)) < 200
