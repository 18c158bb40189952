"""Parties with different features of the same people; the coordinator has the labels."""
