"""Run and write .nir files in other simulators; a script for an environment of its own (see test_nir.py).

    python nir_simulators.py run SIMULATOR FILE.nir INPUTS.npy OUT.npy    sum of the output over the steps
    python nir_simulators.py write SIMULATOR KIND FILE.nir OUT.npz        a network of its own, with input and spikes

After loading, each simulator's integrate-and-fire neurons are given the soft reset and the start at half the threshold
that NIR cannot say; these few lines are the ones that docs/spiking.md shows. INPUTS: (steps, batch, ...).
"""

import contextlib
import io
import logging
import sys
import warnings

import nir
import numpy as np
import torch

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
torch.set_num_threads(1)
torch.set_grad_enabled(False)


def stepped(net, x):
    """Run a network that takes its state and gives it back."""
    state, outputs = None, []
    for now in x:
        out, state = net(now) if state is None else net(now, state)
        outputs.append(out)
    return torch.stack(outputs)


def sorted_by_edges(net, graph):
    """Let nirtorch's executor run nodes after their sources; by itself it goes depth first."""
    sources = {}
    for source, target in graph.edges:
        sources.setdefault(target.replace(".", "_"), []).append(source.replace(".", "_"))
    order, nodes = [], {node.name: node for node in net.execution_order}

    def visit(name):
        if name not in order:
            for source in sources.get(name, []):
                visit(source)
            order.append(name)

    for name in list(nodes):
        visit(name)
    net.execution_order = [nodes[name] for name in order if name in nodes]


def norse(graph, x):
    """Norse."""
    import norse.torch
    from norse.torch.functional.iaf import IAFFeedForwardState
    from norse.torch.module.iaf import IAFCell

    net = norse.torch.from_nir(graph, ignore_warnings=True, dt=1e-4)
    sorted_by_edges(net, graph)

    def step(drive, state, p, dt):
        voltage = state.v + drive
        fired = (voltage >= p.v_th).to(drive)
        return fired, IAFFeedForwardState(v=voltage - fired * p.v_th)

    for module in net.modules():
        if isinstance(module, IAFCell):
            module.activation = step
            module.state_fallback = lambda drive, m=module: IAFFeedForwardState(
                v=torch.zeros_like(drive) + m.p.v_th / 2
            )
    return stepped(net, x)


def snntorch(graph, x):
    """snnTorch."""
    import snntorch as snn
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):
        net = import_from_nir(graph)

    def start(module, arguments):
        if module.mem.shape != arguments[0].shape:
            module.mem = torch.zeros_like(arguments[0]) + module.threshold / 2

    for module in net.modules():
        if isinstance(module, snn.Leaky):
            module.init_hidden = True
            module.beta = torch.tensor(1.0)
            module.reset_mechanism = "subtract"
            module.state_function = module._base_sub
            module.mem_reset = torch.zeros_like
            module.spike_grad = lambda excess: (excess >= 0).float()
            module.register_forward_pre_hook(start)
    return stepped(net, x)


def sinabs(graph, x):
    """Sinabs."""
    import sinabs.activation
    import sinabs.layers
    from sinabs.nir import from_nir

    steps, batch = x.shape[:2]
    net = from_nir(graph, batch_size=batch)
    sorted_by_edges(net, graph)
    for module in net.modules():
        if isinstance(module, sinabs.layers.IAFSqueeze):
            module.spike_fn = sinabs.activation.SingleSpike
            module.min_v_mem = None
            shape = (batch, *module.spike_threshold.shape)
            module.init_state_with_shape(shape)
            module.v_mem = torch.zeros(shape) + module.spike_threshold / 2
    out, _ = net(x.transpose(0, 1).flatten(0, 1))
    return out.unflatten(0, (batch, steps)).transpose(0, 1)


def spikingjelly(graph, x):
    """SpikingJelly."""
    from loguru import logger

    logger.remove()
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    net = import_from_nir(graph, dt=1.0)
    for module in net.modules():
        if isinstance(module, neuron.IFNode):
            module.v_reset = None
            module.v = module.v_threshold / 2
    return stepped(net, x)


def write_snntorch(kind, file):
    """Write a network of snnTorch's, and what it does with random input."""
    import snntorch as snn
    from snntorch.export_nir import export_to_nir

    def neurons(size):
        if kind == "cuba":
            return snn.Synaptic(
                alpha=torch.full((size,), 0.75),
                beta=torch.full((size,), 0.875),
                threshold=torch.ones(size),
                reset_mechanism="zero",
                reset_delay=False,
                init_hidden=True,
            )
        return snn.Leaky(
            beta=torch.full((size,), 0.875),
            threshold=torch.ones(size),
            reset_mechanism="zero",
            reset_delay=False,
            init_hidden=True,
        )

    bias = kind != "cuba"
    net = torch.nn.Sequential(torch.nn.Linear(6, 8, bias), neurons(8), torch.nn.Linear(8, 4, bias), neurons(4))
    for parameter in net.parameters():
        parameter.copy_(torch.round(parameter * 64) / 32)
    x = (torch.rand(16, 3, 6) < 0.5).float()
    with contextlib.redirect_stdout(io.StringIO()):
        graph = export_to_nir(net, x[0], ignore_dims=[0])
    nir.write(file, graph)
    for module in net:
        if isinstance(module, snn.Leaky | snn.Synaptic):
            module.mem_reset = torch.zeros_like
            module.reset_hidden() if hasattr(module, "reset_hidden") else module.reset_mem()
    return x, torch.stack([net(now) for now in x])


def write_spikingjelly(kind, file):
    """Write a network of SpikingJelly's, and what it does with random input."""
    from loguru import logger

    logger.remove()
    from spikingjelly.activation_based import layer, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    def neurons():
        return neuron.LIFNode(tau=8.0, v_reset=0.0) if kind == "lif" else neuron.IFNode(v_reset=0.0)

    net = torch.nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1), neurons(), layer.AvgPool2d(2), layer.Flatten(), layer.Linear(36, 5), neurons()
    )
    for parameter in net.parameters():
        parameter.copy_(torch.round(parameter * 64) / (2 if kind == "lif" else 32))
    x = (torch.rand(16, 3, 2, 6, 6) < 0.5).float()
    export_to_nir(net, x[0], save_path=file, dt=1e-4)
    for module in net:
        if hasattr(module, "reset"):
            module.reset()
    return x, torch.stack([net(now) for now in x])


def main(command, simulator, *rest):
    """Do what the command line says."""
    torch.manual_seed(0)
    if command == "run":
        file, inputs, out = rest
        x = torch.from_numpy(np.load(inputs))
        np.save(out, globals()[simulator](nir.read(file), x).sum(0).numpy())
    else:
        kind, file, out = rest
        x, spikes = globals()[f"write_{simulator}"](kind, file)
        np.savez(out, x=x.numpy(), spikes=spikes.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
