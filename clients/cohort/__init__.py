"""Vectorised training of whole cohorts: one step for all clients, equal to training each alone up to rounding."""
