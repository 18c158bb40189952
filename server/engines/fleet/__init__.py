"""The fleet: clients are real devices, each with a node of its own on Flower's SuperLink.

`engine.py` is what the loop sees; `streams.py` is split learning's side of it, `parties.py` that of features that lie
with several; `nodes.py` is what is known of nodes, `drift.py` looks for changed inputs.
"""
