"""Whether a cohort's common steps are faster than one client after the other: by the shapes alone, never by a clock.

A step of one client costs torch about as much for each layer, whatever its size; a common step pays that once (twice
over) for all clients. In turn each client's weights and gradients leave the cache in a common step, which costs more
for each parameter. So a cohort is faster where

    parameters < 110,000 * layers * (1 - 2 / clients)

Fitted to measured steps of ten networks with 1 to 50 clients (`benchmarks/trainers.py`). Under the same seed the same
experiment takes the same trainer, and ends with the same bits, under any load.
"""

from torch import nn

PARAMETERS_A_LAYER = 110_000


def slower(model: nn.Module, clients: int) -> str:
    """Say why one client after the other is faster for plain steps; "" if a cohort is.

    Args:
        model: the network.
        clients: of a round.
    """
    layers = sum(1 for layer in model.modules() if not any(True for _ in layer.children()))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trained < PARAMETERS_A_LAYER * layers * max(0.0, 1 - 2 / clients):
        return ""
    return f"faster so, with {trained:,} trained parameters in {layers} layers and {clients} clients a round"
