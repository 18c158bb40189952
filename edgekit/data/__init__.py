"""Data: sources of labelled examples, and how clients share them."""

from edgekit.data.federated import Examples, FederatedDataset
from edgekit.data.sources import load

__all__ = ["Examples", "FederatedDataset", "load"]
