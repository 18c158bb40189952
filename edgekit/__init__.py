"""edgekit: federated and edge deployment toolkit with a neuromorphic backend."""

__version__ = "0.1.0"
