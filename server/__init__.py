"""The server: the loop, the engines that it drives, and the processes that coordinate real devices.

Nothing is imported here: the SuperLink's process and `edgekit serve` itself never load torch.
"""
