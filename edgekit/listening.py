"""Where a server of ours listens, and under which names others reach it."""

import socket
from dataclasses import dataclass

from edgekit.enrolment import is_loopback
from edgekit.errors import ServeError


@dataclass(frozen=True)
class Listening:
    """Where a server listens.

    Attributes:
        host: address to bind.
        port: of everything that others need.
        reached_as: names and addresses under which they reach it, the best first.
        insecure: without TLS; on loopback only.
    """

    host: str
    port: int
    reached_as: tuple[str, ...]
    insecure: bool

    @classmethod
    def on(cls, host: str, port: int, names: list[str], insecure: bool) -> "Listening":
        """Find out under which names devices reach this machine.

        Raises:
            ServeError: it would be reached from elsewhere without TLS.
        """
        if insecure and not is_loopback(host):
            raise ServeError(
                f"--insecure is for this machine alone (--host 127.0.0.1): on {host} others would read the updates"
            )
        everywhere = host in ("0.0.0.0", "::")
        found = names or (addresses() if everywhere else [host]) or ["127.0.0.1"]
        return cls(host, port, tuple(dict.fromkeys(found)), insecure)

    @property
    def url(self) -> str:
        """The address that people give to their devices."""
        host = self.reached_as[0]
        return f"{'http' if self.insecure else 'https'}://{f'[{host}]' if ':' in host else host}:{self.port}"


def addresses() -> list[str]:
    """Return the addresses under which this machine is likely reached, the best first; no packet is sent."""
    found = []
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
                found.append(str(probe.getsockname()[0]).partition("%")[0])
            except OSError:
                continue
    return found


def check_port(host: str, port: int, what: str, option: str = "--port") -> None:
    """See that a port can be listened on, before anything is begun that needs it.

    Args:
        host: address to bind.
        port: wanted.
        what: would listen there.
        option: that chooses another port.

    Raises:
        ServeError: somebody else does.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"cannot listen on {host} port {port} ({error.strerror}): is another {what} running? "
                f"Choose another with {option}"
            ) from None
