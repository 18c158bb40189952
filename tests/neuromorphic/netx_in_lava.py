"""Run a netx file in Lava; a script for an environment of its own (see test_netx.py).

    python netx_in_lava.py FILE.net CODES.npy OUT.npz MESSAGE_BITS

lava-dl asks for torch, which netx itself does not need: four of its modules are left empty here.
"""

import os
import sys
import types

import lava.lib.dl as dl
import numpy as np

for name in ("netx.sequential_modules", "slayer", "slayer.neuron", "slayer.neuron.rf"):
    module = types.ModuleType(f"lava.lib.dl.{name}")
    module.__path__ = []
    module.__file__ = os.path.join(next(iter(dl.__path__)), *name.split(".")) + ".py"
    sys.modules[module.__name__] = module
sys.modules["lava.lib.dl.slayer.neuron.rf"].neuron_params = None

from lava.lib.dl.netx import hdf5  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.io.sink import RingBuffer as Sink  # noqa: E402
from lava.proc.io.source import RingBuffer as Source  # noqa: E402
from lava.proc.monitor.process import Monitor  # noqa: E402


def main(path, codes, out, bits):
    """Run one sample, (steps, ...), and write every layer's spikes, (steps, neurons) in our order."""
    codes = np.load(codes)
    network = hdf5.Network(net_config=path, input_message_bits=int(bits))
    steps = len(codes)
    data = codes.transpose(3, 2, 1, 0) if codes.ndim == 4 else codes.T
    if tuple(data.shape[:-1]) != tuple(network.inp.shape):
        data = codes.reshape(steps, -1).T
    source, sink = Source(data=np.ascontiguousarray(data)), Sink(shape=network.out.shape, buffer=steps)
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    monitors = []
    for layer in network.layers:
        if hasattr(layer, "neuron"):
            monitors.append(Monitor())
            monitors[-1].probe(layer.neuron.s_out, steps)
    voltage = Monitor()
    voltage.probe(network.layers[-1].neuron.v, steps)
    network.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    found = {}
    for number, monitor in enumerate([*monitors, voltage]):
        (trace,) = next(iter(monitor.get_data().values())).values()
        trace = trace.transpose(0, 3, 2, 1) if trace.ndim == 4 else trace
        found[str(number)] = trace.reshape(steps, -1)
    network.stop()
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
