"""Loihi's arithmetic, exactly: spike for spike, current for current and voltage for voltage as Lava 0.10 computes it.

The rules are those of Lava's fixed-point models (`PyDenseModelBitAcc`, `PySparseModelBitAcc`,
`PyDelayDenseModelBitAcc`, `PyConvModelFixed`, `AbstractPyLifModelFixed`, `sdn.models`). `edgekit spike verify` and
tests/neuromorphic hold them against Lava itself. A layer runs all its time steps before the next one starts, so that
its synapses are one product over steps and examples (`products`), and its neurons one compiled loop (`scans`).
"""

from edgekit.neuromorphic.emulator.run import Activity, Emulator, Record, run

__all__ = ["Activity", "Emulator", "Record", "run"]
