"""The loop: rounds of a federated method over an engine, with privacy, metrics and checkpoints."""
