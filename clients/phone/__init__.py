"""Phones: a gateway that gives each browser page its own Flower node, and the page that trains (`page/`)."""
