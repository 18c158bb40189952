"""The server: the coordinator, its crews and grids, and the processes that coordinate real devices.

Nothing is imported here: the SuperLink's process and `edgekit serve` itself never load torch.
"""
