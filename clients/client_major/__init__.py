"""Training of small networks client after client: each makes all its steps while its weights are in the cache."""
