"""The kinds of differential privacy, one a file: whose data one step protects, and who adds the noise."""

from edgekit.privacy.mechanisms.base import GaussianMechanism
from edgekit.privacy.mechanisms.client_by_client import ClientByClient
from edgekit.privacy.mechanisms.client_by_server import ClientByServer
from edgekit.privacy.mechanisms.example_by_client import ExampleByClient
from edgekit.privacy.mechanisms.example_by_server import ExampleByServer
from edgekit.privacy.settings import Privacy

KINDS: dict[tuple[str, str], type[GaussianMechanism]] = {
    ("example", "server"): ExampleByServer,
    ("example", "client"): ExampleByClient,
    ("client", "server"): ClientByServer,
    ("client", "client"): ClientByClient,
}
"""By `privacy.unit` and `privacy.noise`."""


def make(settings: Privacy) -> GaussianMechanism | None:
    """Return an experiment's mechanism; None without privacy."""
    return KINDS[settings.unit, settings.noise](settings) if settings.on else None
