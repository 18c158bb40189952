"""Recurrent layers of torch as steps of a training graph, one frame after the other (torch.nn.GRU, LSTM and RNN)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekit.errors import ExportError
from edgekit.export.training import operators

if TYPE_CHECKING:
    from edgekit.export.training.rules import Rules

Affine = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]


def _gru(seen: Tensor, again: Tensor, states: States) -> States:
    """Return h (Cho et al. 2014, in torch's form: the reset gate acts behind the product)."""
    (h,) = states
    (reset, update, new), (reset_again, update_again, new_again) = seen.chunk(3, -1), again.chunk(3, -1)
    keep = torch.sigmoid(update + update_again)
    new = torch.tanh(new + torch.sigmoid(reset + reset_again) * new_again)
    return (new + keep * (h - new),)


def _lstm(seen: Tensor, again: Tensor, states: States) -> States:
    """Return h and c (Hochreiter and Schmidhuber 1997, with Gers et al.'s forget gate)."""
    _, c = states
    into, forget, new, out = (seen + again).chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(into) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(c), c


def _rnn_tanh(seen: Tensor, again: Tensor, states: States) -> States:
    return (torch.tanh(seen + again),)


def _rnn_relu(seen: Tensor, again: Tensor, states: States) -> States:
    return (torch.relu(seen + again),)


def _affine(rules: "Rules", weight: Tensor, bias: Tensor | None) -> Affine:
    """Return a layer as a function that may be applied many times, with one gradient for all."""
    matrix = rules.own(weight), rules.each(weight)
    offset = None if bias is None else (rules.own(bias), rules.each(bias))

    def layer(x: Tensor) -> Tensor:
        y = operators.apply(operators.Linear, x, *matrix)
        return y if offset is None else operators.apply(operators.Offset, y, *offset, 0)

    return layer


def _along(
    x: Tensor, states: States, into: Affine, again: Affine, step: Callable[..., States]
) -> tuple[Tensor, States]:
    """Run a layer over (batch, time, features), and return its (batch, time, hidden) and last states."""
    seen, outputs = into(x), []
    for frame in range(x.shape[1]):
        states = step(seen[:, frame], again(states[0]), states)
        outputs.append(states[0])
    return torch.stack(outputs, 1), states


def _recurrent(name: str, step: Callable[..., States]) -> Callable[..., Any]:
    def rule(
        rules: "Rules",
        input: Tensor,
        hx: Any,
        params: Any,
        has_biases: Any = None,
        num_layers: int = 1,
        dropout: float = 0.0,
        train: bool = True,
        bidirectional: bool = False,
        batch_first: bool = False,
    ) -> Any:
        if not isinstance(params, Sequence) or input.dim() != 3:
            raise ExportError(f"{name} of packed sequences, or of one without a batch, has no training graph: pad them")
        if dropout and train and num_layers > 1:
            raise ExportError(f"{name} draws random numbers, which a training graph cannot: set its dropout to 0")
        first = tuple(hx) if isinstance(hx, Sequence) else (hx,)
        x = input if batch_first else input.transpose(0, 1)
        ways, last = 2 if bidirectional else 1, []
        size = 4 if has_biases else 2
        for layer in range(num_layers):
            outputs = []
            for way in range(ways):
                place = layer * ways + way
                weights = params[place * size : (place + 1) * size]
                into, again = (_affine(rules, weights[i], weights[2 + i] if has_biases else None) for i in range(2))
                seen = torch.stack(x.unbind(1)[::-1], 1) if way else x
                y, states = _along(seen, tuple(s[place] for s in first), into, again, step)
                outputs.append(torch.stack(y.unbind(1)[::-1], 1) if way else y)
                last.append(states)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        ends = tuple(torch.stack(states) for states in zip(*last, strict=True))
        return x if batch_first else x.transpose(0, 1), *ends

    return rule


RULES: dict[Any, Callable[..., Any]] = {
    torch.gru: _recurrent("GRU", _gru),
    torch.lstm: _recurrent("LSTM", _lstm),
    torch.rnn_tanh: _recurrent("RNN", _rnn_tanh),
    torch.rnn_relu: _recurrent("RNN", _rnn_relu),
}
