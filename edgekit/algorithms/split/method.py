"""Split learning as a method: devices train a part of the network each, and exchange activations with the server.

Gupta and Raskar 2018, section 3; Thapa et al. 2022, SplitFed. What is made of the clients' updates is another method's.
No torch: devices without it run their half of it too.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.algorithms.base import Half
from edgekit.algorithms.interactive import Interactive
from edgekit.algorithms.split.device import half
from edgekit.algorithms.split.settings import Split
from edgekit.asks import Ask, Client
from edgekit.guarantee import UNPROTECTED
from edgekit.privacy.settings import Privacy
from edgekit.transforms.base import Mechanism

if TYPE_CHECKING:
    from torch import nn

    from edgekit.algorithms.split.simulated import SplitCohort
    from edgekit.data import FederatedDataset
    from edgekit.local_settings import LocalSettings


class SplitLearning(Interactive):
    """Split learning.

    Args:
        inner: makes the next model of the clients' updates.
        split: the experiment's section, with a cut.
    """

    unprotected = replace(
        UNPROTECTED,
        owners="Split learning is not private: whoever runs the coordinator sees what this device's part of the "
        "network makes of every example, and may rebuild examples and labels from it",
    )

    @staticmethod
    def mechanism(privacy: Privacy, split: Split) -> Mechanism:
        """Return what protects examples."""
        from edgekit.algorithms.split.codec import LARGEST
        from edgekit.algorithms.split.device import RELEASES
        from edgekit.algorithms.split.mechanisms import SplitByDevices, SplitByServer

        if privacy.noise == "server":
            return SplitByServer(privacy)
        return SplitByDevices(privacy, RELEASES, split.activation_clip, LARGEST)

    def local(self, ask: Ask, client: Client) -> Half:
        """Do a device's half of a round."""
        return half(ask, client)

    def counterpart(
        self,
        model: "nn.Module",
        dataset: "FederatedDataset",
        settings: "LocalSettings",
        seed: int,
        say: Callable[[str], None],
    ) -> "SplitCohort":
        """Return the server's side for clients in the same process.

        Raises:
            ModelError: the network cannot be cut so.
        """
        from edgekit.algorithms.split.server import split_cohort

        made = split_cohort(self.cut(model, dataset, settings, say), model, dataset)
        if dataset.total_examples is not None:
            share = dataset.total_examples / dataset.clients
            stream = made.bytes_an_example * share * settings.epochs + 2 * made.device_bytes
            all_of_it = 2 * sum(tensor.nbytes for tensor in model.state_dict().values())
            say(
                f"split learning moves about {stream / 1e6:.2g} MB a client and round, federated averaging would move "
                f"{all_of_it / 1e6:.2g} MB"
            )
        return made

    def cut(self, model: "nn.Module", dataset: Any, settings: "LocalSettings", say: Callable[[str], None]) -> Split:
        """Return the experiment's section with its cut chosen, where it says `auto`."""
        from edgekit.algorithms.split.server import choose_cut

        return choose_cut(self.split, settings, model, dataset, say) if self.split.cut == "auto" else self.split
