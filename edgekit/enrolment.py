"""How a device and a coordinator come to trust each other by one short code. Used by both sides; no package needed.

The coordinator shows a code once, on its own screen. Its first group names it, the rest is a secret of 80 bits. The
device proves that it has the secret, and the coordinator proves with the same secret that the certificate authority it
presents is its own, so that neither an eavesdropper nor somebody in between learns or replaces anything: the secret
itself never crosses the link, and 80 bits cannot be tried out before the code expires.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgekit.errors import JoinError
from edgekit.version import __version__

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U."""
GROUP = 4
NAME_LETTERS, SECRET_LETTERS = 4, 16
PROTOCOL = 1
"""Version of the enrolment protocol; the two sides refuse each other's other versions in words."""
CLOCK_AHEAD_SECONDS, CLOCK_BEHIND_SECONDS = 4.0, 290.0
"""How far a device's clock may be ahead of, or behind, the coordinator's; Flower refuses beyond 5 and 305."""


@dataclass(frozen=True)
class JoinCode:
    """A code that lets one device join.

    Attributes:
        name: tells the code from others; not secret.
        secret: 80 bits in base 32.
    """

    name: str
    secret: str

    def __str__(self) -> str:
        text = self.name + self.secret
        return "-".join(text[start : start + GROUP] for start in range(0, len(text), GROUP))

    def __repr__(self) -> str:  # secrets never reach logs
        return f"JoinCode({self.name}-…)"

    @classmethod
    def new(cls) -> "JoinCode":
        """Make a code nobody has seen."""
        letters = "".join(secrets.choice(ALPHABET) for _ in range(NAME_LETTERS + SECRET_LETTERS))
        return cls(letters[:NAME_LETTERS], letters[NAME_LETTERS:])

    @classmethod
    def parse(cls, text: str) -> "JoinCode":
        """Read a code as people type it.

        Raises:
            JoinError: it is not one.
        """
        letters = text.upper().replace("-", "").replace(" ", "").replace("O", "0").replace("I", "1").replace("L", "1")
        if len(letters) != NAME_LETTERS + SECRET_LETTERS or any(letter not in ALPHABET for letter in letters):
            raise JoinError(
                "this is not a join code: it has five groups of four letters and digits, as edgekit serve shows it"
            )
        return cls(letters[:NAME_LETTERS], letters[NAME_LETTERS:])

    def proof(self, *parts: bytes) -> str:
        """Return the proof (HMAC-SHA256) that whoever says these parts has the secret."""
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.new(self.secret.encode(), message, hashlib.sha256).hexdigest()


def enrolment_parts(nonce: str, public_key: str, name: str, kind: str) -> tuple[bytes, ...]:
    """Return what a device proves in enrolling: no part of it can be replaced on the way."""
    return (b"node", nonce.encode(), public_key.encode(), name.encode(), kind.encode())


def phone_message(gateway: int, public_key: str, name: str, when: float) -> bytes:
    """Return what a gateway and the phone that it brings both sign."""
    return json.dumps(["phone", gateway, public_key, name, when]).encode()


def is_proof(found: object, wanted: str) -> bool:
    """Compare a proof that came over the link, in constant time."""
    return isinstance(found, str) and hmac.compare_digest(found.encode(), wanted.encode())


@dataclass(frozen=True)
class JoinAddress:
    """Where a coordinator is.

    Attributes:
        host: name or address.
        port: of everything it offers to devices.
        secure: whether it speaks TLS.
    """

    host: str
    port: int
    secure: bool

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """`host:port`, with brackets about an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> tuple[JoinAddress, JoinCode | None]:
    """Read a join URL: `https://HOST:PORT#CODE`; the code may be missing.

    Raises:
        JoinError: it is not such a URL.
    """
    wrong = JoinError(f"{_shown(url)!r} is not a join address: it looks like https://192.168.1.10:8443#CODE")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise wrong
    if parts.username or any(letter.isspace() or not letter.isprintable() for letter in parts.hostname):
        raise wrong
    address = JoinAddress(parts.hostname, port or (443 if parts.scheme == "https" else 80), parts.scheme == "https")
    if not address.secure and not is_loopback(address.host):
        raise JoinError(f"{address} has no TLS: only a coordinator on this very machine may do without; use https://")
    return address, JoinCode.parse(parts.fragment) if parts.fragment else None


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def clock_problem(ahead: float) -> str | None:
    """Say what is wrong with a device's clock that is this many seconds ahead of the coordinator's; None if nothing."""
    if -CLOCK_BEHIND_SECONDS < ahead < CLOCK_AHEAD_SECONDS:
        return None
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"this device's clock is {abs(ahead):.0f} s {side} the coordinator's, so its signatures are refused: set it, "
        "for instance by `sudo timedatectl set-ntp true`"
    )


def version_problem(theirs: object, who: str) -> str:
    """Say why somebody of another version cannot take part here; "" if he can: patch versions train together.

    Args:
        theirs: version of the other side's edgekit.
        who: the other side, for people.
    """
    ours = __version__.split(".")[:2]
    if isinstance(theirs, str) and theirs.split(".")[:2] == ours:
        return ""
    told = theirs[:20] if isinstance(theirs, str) else "an unknown version"
    return f"{who} has edgekit {told}, here is {__version__}: install edgekit=={'.'.join(ours)}.* on both"


def _shown(url: str) -> str:
    """Return a URL without its secret part."""
    return url.partition("#")[0][:200]
