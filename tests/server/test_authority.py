"""The coordinator's certificates, held against Python's own TLS."""

import datetime
import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgekit.errors import ServeError
from edgekit.flower.fleet import explain, trusting
from edgekit.server.deployment import authority as authorities
from edgekit.server.deployment.authority import Authority


def handshake(authority, trusted, name="127.0.0.1"):
    """Do a TLS handshake with this authority's server certificate, as a node would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server_files)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            try:
                connection, _ = listening.accept()
                with context.wrap_socket(connection, server_side=True):
                    pass
            except OSError:
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname()) as raw,
                trusting(trusted).wrap_socket(raw, server_hostname=name) as link,
            ):
                return link.version()
        finally:
            thread.join()


def test_a_node_trusts_its_coordinator_and_nobody_else(tmp_path):
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    ours.renew(["127.0.0.1", "coordinator.lan"])
    assert handshake(ours, ours.certificate) in ("TLSv1.2", "TLSv1.3")
    assert handshake(ours, ours.certificate, "coordinator.lan")
    with pytest.raises(ssl.SSLError) as refused:
        handshake(ours, theirs.certificate)
    assert "not of the coordinator that this node joined" in explain(refused.value)
    with pytest.raises(ssl.SSLError, match="match|mismatch"):
        handshake(ours, ours.certificate, "elsewhere.lan")


def test_keys_stay_and_are_for_their_owner_alone(tmp_path):
    first = Authority(tmp_path / "keys")
    first.renew(["a"])
    again = Authority(tmp_path / "keys")
    assert again.certificate == first.certificate
    assert again.signing_key == first.signing_key
    assert again.server_pin() == first.server_pin()
    for key in (tmp_path / "keys").glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0, key
    Ed25519PublicKey.from_public_bytes(again.signing_key).verify(first.sign(b"model"), b"model")


def test_a_certificate_is_renewed_in_time_and_for_other_names(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    assert authority.renew(["10.0.0.1"])
    assert not authority.renew(["10.0.0.1"])
    assert authority.renew(["10.0.0.2"])
    assert not authority.renew(["10.0.0.2"])
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=61)
    monkeypatch.setattr(authorities, "_now", lambda: later)
    assert authority.renew(["10.0.0.2"])
    authority.server_files[0].write_text("damaged")
    assert authority.renew(["10.0.0.2"])


def test_an_expired_certificate_is_told_in_words(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=200)
    monkeypatch.setattr(authorities, "_now", lambda: long_ago)
    (tmp_path / "authority.crt").write_bytes(authority._make_authority())
    old = Authority(tmp_path)
    old.renew(["127.0.0.1"])
    monkeypatch.undo()
    with pytest.raises(ssl.SSLError) as refused:
        handshake(old, old.certificate)
    assert "has expired; restart edgekit serve" in explain(refused.value)
    assert old.renew(["127.0.0.1"])
    assert handshake(old, old.certificate)


def test_damaged_keys_are_not_replaced_in_silence(tmp_path):
    Authority(tmp_path)
    (tmp_path / "authority.key").write_text("damaged")
    with pytest.raises(ServeError, match="not a readable private key"):
        Authority(tmp_path)
