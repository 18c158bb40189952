"""What the server reads of an experiment: the sections of the rooms below, whatever composes them."""

from typing import Protocol

from edgekit.algorithms.settings import Federation
from edgekit.algorithms.split.settings import Split
from edgekit.clients.settings import Training
from edgekit.data.settings import Data
from edgekit.devices.settings import Devices
from edgekit.export.settings import Export
from edgekit.models.settings import Model
from edgekit.privacy.settings import Privacy
from edgekit.server.attacks.settings import Attack
from edgekit.server.engines.fleet.settings import Serve


class Sections(Protocol):
    """An experiment, as far as the server knows one."""

    @property
    def name(self) -> str:
        """Names the run."""

    @property
    def seed(self) -> int:
        """Of all that need not be secret."""

    @property
    def data(self) -> Data:
        """Where the data comes from."""

    @property
    def model(self) -> Model:
        """The network."""

    @property
    def training(self) -> Training:
        """How clients train."""

    @property
    def federation(self) -> Federation:
        """The method."""

    @property
    def privacy(self) -> Privacy:
        """Whose data is protected."""

    @property
    def export(self) -> Export:
        """The files."""

    @property
    def serve(self) -> Serve:
        """Rounds with real devices."""

    @property
    def attack(self) -> Attack:
        """Who attacks."""

    @property
    def devices(self) -> Devices:
        """What simulated clients run on."""

    @property
    def split(self) -> Split:
        """How a network is cut."""
