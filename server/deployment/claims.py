"""What who wants to join claims, and how it is checked: texts, names, keys and signatures."""

import hashlib
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edgekit.errors import JoinError


def text(request: Any, name: str, most: int = 4096) -> str:
    """Return a text of a request.

    Raises:
        JoinError: it is not there, or too long.
    """
    value = request.get(name) if isinstance(request, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise JoinError(f"the request lacks {name!r}, or it is too long")
    return value


def check_label(label: str) -> None:
    """See that a node may be called so.

    Raises:
        JoinError: it may not.
    """
    if len(label) > 64 or not all(letter.isalnum() or letter in "-_. " for letter in label):
        raise JoinError("a node's name has at most 64 letters, digits, spaces, dashes, dots and underscores")


def check_signature(key: str, message: bytes, request: Any) -> None:
    """See that a request is signed by the key that it shows.

    Raises:
        JoinError: it is not.
    """
    try:
        public = load_pem_public_key(key.encode())
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise JoinError("a node's key must be of a NIST curve (P-256)")
        public.verify(bytes.fromhex(text(request, "signature")), message, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature):
        raise JoinError("the request is not signed by the key that it shows") from None


def fingerprint(key: str) -> str:
    """Return what stands for a key."""
    return hashlib.sha256(key.encode()).hexdigest()
