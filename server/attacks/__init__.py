"""Attackers of simulations: what some clients do to the model, and what comes of it."""
