"""Split learning with parties that hold different features of the same people, as a method.

Vepakomma et al. 2018, section 3 (vertically partitioned data); Ceballos et al. 2020, section 3. No torch: see `split`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.algorithms.base import Half
from edgekit.algorithms.interactive import Interactive
from edgekit.algorithms.split.device import half
from edgekit.algorithms.split.settings import Split
from edgekit.asks import Ask, Client
from edgekit.errors import ExperimentError, PrivacyError
from edgekit.guarantee import UNPROTECTED
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.privacy.settings import Privacy
from edgekit.transforms.base import Mechanism

if TYPE_CHECKING:
    from torch import nn

    from edgekit.algorithms.parties.simulated import PartiesTogether
    from edgekit.data import FederatedDataset
    from edgekit.data.federated import Floats
    from edgekit.data.settings import Data
    from edgekit.local_settings import LocalSettings
    from edgekit.models.settings import Model


class Parties(Interactive):
    """Parties that train together or not at all.

    Args:
        inner: makes the next model of the update.
        split: the experiment's section, with parties.
    """

    unprotected = replace(
        UNPROTECTED,
        open=(
            "Nothing is protected: the coordinator sees what each party's network makes of its people and may rebuild "
            "features from it, learns how many people a party has and which of those that it asks about; a party "
            "learns which of its own are trained on and how many the coordinator asks about, and may tell labels from "
            "the gradients. Ids that nobody asks about stay hidden.",
        ),
        owners="Learning with other parties is not private: whoever runs the coordinator sees what this device's "
        "network makes of its people and may rebuild their features from it, learns how many there are and whom of "
        "those that it asks about this device knows, and may ask about anybody",
    )

    @staticmethod
    def mechanism(privacy: Privacy, split: Split) -> Mechanism:
        """Refuse: there is none yet.

        Raises:
            PrivacyError: always.
        """
        raise PrivacyError("what parties with features of the same people send is not protected yet")

    @staticmethod
    def dataset(
        data: "Data",
        split: Split,
        seed: int,
        *,
        whole_groups: bool,
        private: bool = False,
        objective: Objective = PLAIN,
    ) -> "FederatedDataset":
        """Return the parties' tables, and the labels."""
        from edgekit.data.sources import load_vertical

        return load_vertical(data, split.parties, split.coverage, seed)

    @staticmethod
    def network(
        model: "Model",
        split: Split,
        dataset: Any,
        seed: int,
        calibration: "Floats | None" = None,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> "nn.Module":
        """Return a network for each party, and what joins them."""
        from edgekit.models.vertical import build_vertical

        if model.weights:
            raise ExperimentError("model.weights is of one network, but each party has its own: leave it out")
        shape, classes = dataset.shape, len(dataset.classes)
        return build_vertical(model, shape, dataset.widths, split.embedding, classes, seed, calibration)

    def local(self, ask: Ask, client: Client) -> Half:
        """Do a party's half of a round: as a device of split learning does, without labels."""
        return half(ask, client)

    def counterpart(
        self, model: Any, dataset: Any, settings: "LocalSettings", seed: int, say: Callable[[str], None]
    ) -> "PartiesTogether":
        """Return the coordinator's side for parties in the same process.

        Raises:
            TrainingError: nobody is known to all.
        """
        from edgekit.algorithms.parties.simulated import PartiesTogether

        return PartiesTogether(self.split, model, dataset, seed, say)
