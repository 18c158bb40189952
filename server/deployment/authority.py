"""The coordinator's own certificate authority and keys: made on first use, renewed by themselves, never sent."""

import base64
import datetime
import hashlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgekit.errors import ServeError
from edgekit.runfolder import write_whole

AUTHORITY_DAYS, SERVER_DAYS = 3650, 90
RENEW_DAYS = 30
"""A server certificate that ends sooner is made anew."""


class Authority:
    """Keys and certificates of one coordinator, in a folder that only its user can read.

    Args:
        folder: where they are, or will be.

    Raises:
        ServeError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _load_or_make(folder / "authority.key", lambda: ec.generate_private_key(ec.SECP256R1()))
        self._server_key = _load_or_make(folder / "server.key", lambda: ec.generate_private_key(ec.SECP256R1()))
        self._signing = _load_or_make(folder / "signing.key", ed25519.Ed25519PrivateKey.generate)
        path = folder / "authority.crt"
        if not path.exists():
            write_whole(path, self._make_authority())
        self.certificate = path.read_bytes()
        """The authority's certificate, PEM: what nodes trust."""
        try:
            self._issuer = x509.load_pem_x509_certificate(self.certificate)
        except ValueError:
            raise ServeError(f"{path} is not a certificate: restore it, or move {folder} away to begin anew") from None
        if self._issuer.public_key() != self._key.public_key():
            raise ServeError(f"{path} does not belong to authority.key: restore both, or move {folder} away")

    @property
    def server_files(self) -> tuple[Path, Path]:
        """Certificate and key of the server, as files."""
        return self.folder / "server.crt", self.folder / "server.key"

    def server_keys(self) -> tuple[bytes, bytes]:
        """Return the server's key and certificate, PEM, as they are now."""
        certificate, key = self.server_files
        return key.read_bytes(), certificate.read_bytes()

    @property
    def signing_key(self) -> bytes:
        """Public key (Ed25519, 32 bytes) that delivered models are signed with."""
        public: bytes = self._signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return public

    def sign(self, content: bytes) -> bytes:
        """Sign what is delivered to nodes."""
        signature: bytes = self._signing.sign(content)
        return signature

    def server_pin(self) -> str:
        """Return the server key's pin, as `curl --pinnedpubkey` takes it."""
        public = self._server_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256//" + base64.b64encode(hashlib.sha256(public).digest()).decode()

    def renew(self, hosts: Sequence[str]) -> bool:
        """See that the server's certificate is of these hosts and holds for a while; return whether it was made anew.

        Args:
            hosts: names and addresses under which devices reach the server.
        """
        path, _ = self.server_files
        wanted = sorted({*hosts, "localhost", "127.0.0.1", "::1"})
        if path.exists() and self._still_good(path.read_bytes(), wanted):
            return False
        write_whole(path, self._make_server(wanted))
        return True

    def _still_good(self, content: bytes, hosts: list[str]) -> bool:
        try:
            found = x509.load_pem_x509_certificate(content)
            named = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            found.verify_directly_issued_by(self._issuer)
        except Exception:  # whatever is wrong with it, a new one is made
            return False
        names = [*named.get_values_for_type(x509.DNSName), *map(str, named.get_values_for_type(x509.IPAddress))]
        left = found.not_valid_after_utc - _now()
        return (
            sorted(names) == hosts
            and left > datetime.timedelta(days=RENEW_DAYS)
            and (found.public_key() == self._server_key.public_key())
        )

    def _make_authority(self) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgekit coordinator {socket.gethostname()}"[:64])])
        usage = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            _builder(name, name, self._key.public_key(), AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(Encoding.PEM)

    def _make_server(self, hosts: list[str]) -> bytes:
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = (
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgekit coordinator")]),
                self._issuer.subject,
                self._server_key.public_key(),
                SERVER_DAYS,
            )
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    # An hour back, for devices whose clock is a little behind.
    start = _now() - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load_or_make(path: Path, make: Callable[[], Any]) -> Any:
    """Read a private key, or make it; its file is for its owner alone."""
    if path.exists():
        try:
            return serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ServeError(f"{path} is not a readable private key ({error}): restore it") from None
    key = make()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_whole(path, content, mode=0o600)
    return key


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
