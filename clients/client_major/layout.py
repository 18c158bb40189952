"""Where everything lies in a client's room, for batches of up to so many examples."""

import math
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Array
from edgekit.clients.client_major import fields as f
from edgekit.clients.client_major.parts import Layer, Place
from edgekit.clients.client_major.program import Program


@dataclass(frozen=True)
class Layout:
    """Arguments of `steps.train`, as named there."""

    ops: Array
    tables: Array
    numbers: Array
    pieces: Array
    floats: int
    given: Array


class _Room:
    def __init__(self) -> None:
        self.floats = 0
        self.tables: list[Array] = []
        self._entries = 0

    def take(self, floats: int) -> int:
        """Return the place of so many floats more; whole cache lines."""
        at = self.floats
        self.floats += -(-floats // 16) * 16 + 16
        return at

    def table(self, values: Array) -> int:
        """Return the place of a table."""
        at = self._entries
        self.tables.append(values.reshape(-1).astype(np.int64))
        self._entries += values.size
        return at


def _grid(batch: int, height: int, width: int, at: int, steps: tuple[int, int, int]) -> Array:
    """Return the places of pixels: (batch, height, width)."""
    each, line, pixel = steps
    b, i, j = np.ogrid[:batch, :height, :width]
    return np.asarray(at + b * each + i * line + j * pixel)


def layout(program: Program, batch: int) -> Layout:
    """Lay out a program's activations, gradients and tables.

    Args:
        program: the network.
        batch: most examples of a step.
    """
    room = _Room()
    lines: dict[Place, tuple[int, int, int]] = {}  # first real pixel, floats to the next example, to the next line
    gradients: dict[Place, int] = {}
    written: set[Place] = set()
    for place in [program.examples, *(layer.gives for layer in program.layers)]:
        line = (place.width + 2 * place.pads[1]) * place.filled
        each = (place.height + 2 * place.pads[0]) * line
        at = room.take(batch * each) + place.pads[0] * line + place.pads[1] * place.filled
        lines[place] = (at, each, line)
        size = batch * place.height * place.width * place.filled
        gradients[place] = -1 if place is program.examples else room.take(size)
    sizes = [math.prod(one.kernel) * one.takes[0].filled * one.gives.filled for one in program.layers if one.weight]
    flipped = room.take(max(sizes, default=0))
    rows, numbers = [], [0.0]
    outer: dict[tuple[str, str], bool] = {}
    for layer in program.layers:
        row = np.zeros(f.FIELDS, np.int64)
        x, y = layer.takes[0], layer.gives
        row[f.KIND], row[f.ACT] = layer.kind, layer.act
        row[[f.X, f.X_BATCH, f.X_LINE]], row[[f.Y, f.Y_BATCH, f.Y_LINE]] = lines[x], lines[y]
        row[[f.C, f.H, f.W, f.GX]] = x.filled, x.height, x.width, gradients[x]
        row[[f.N, f.OH, f.OW, f.GY]] = y.filled, y.height, y.width, gradients[y]
        row[[f.KH, f.KW]], row[[f.SH, f.SW]], row[[f.PH, f.PW]] = layer.kernel, layer.stride, layer.pads
        if layer.kind == f.SUM:
            row[[f.X2, f.X2_BATCH, f.X2_LINE]], row[f.GX2] = lines[layer.takes[1]], gradients[layer.takes[1]]
        row[f.STANDARD], row[f.REAL] = -1, x.channels
        if layer.gain:
            row[f.GAIN], row[f.EPS] = program.packed[layer.gain].at, len(numbers)
            numbers.append(layer.eps)
        if layer.kind == f.NORM:
            row[f.BIAS], row[f.GROUPS] = program.packed[layer.bias].at, layer.groups
            row[f.MOMENTS], row[f.LEARNT] = room.take(batch * 2 * y.filled), room.take(4 * y.filled)
        if layer.weight:
            _convolution(program, layer, row, room, batch, flipped)
            outer[layer.weight, layer.bias] = bool(row[f.OUTER])
        rows.append(row)
    masked: set[Place] = set()
    for layer, row in zip(program.layers, rows, strict=True):
        maker = layer.takes[0].maker
        if layer.kind == f.MAXIMUM and maker is not None and layer.takes[0].readers == 1:
            row[f.ACT_BEFORE] = maker.act
            masked.add(layer.takes[0])
    for layer, row in zip(program.layers, rows, strict=True):
        row[f.MASKED] = layer.gives in masked
    for layer, row in zip(reversed(program.layers), reversed(rows), strict=True):
        for place, again in zip(layer.takes, (f.GX_AGAIN, f.GX2_AGAIN), strict=False):
            row[again] = place in written
            written.add(place)
    x = program.examples
    at, each, line = lines[x]
    given = np.array([at, each, line, x.width * x.filled, x.height], np.int64)
    tables = np.concatenate([*room.tables, np.zeros(1, np.int64)])
    products = {name for names, one in outer.items() if one for name in names}
    held = [(one.at, one.at + math.prod(one.filled)) for name, one in program.packed.items() if name not in products]
    pieces = np.array(held, np.int64).reshape(-1, 2)
    return Layout(np.array(rows), tables, np.array(numbers, np.float32), pieces, room.floats, given)


def _convolution(program: Program, layer: Layer, row: Array, room: _Room, batch: int, flipped: int) -> None:
    x, y = layer.takes[0], layer.gives
    (kh, kw), (sh, sw), (ph, pw) = layer.kernel, layer.stride, layer.pads
    at, each, line = row[f.X], row[f.X_BATCH], row[f.X_LINE]
    channelwise = layer.kind == f.DEPTHWISE
    first = at - ph * line - pw * x.filled
    row[f.PLACES] = room.table(_grid(batch, y.height, y.width, first, (each, sh * line, sw * x.filled)))
    row[f.OUTS] = room.table(_grid(batch, y.height, y.width, row[f.Y], (row[f.Y_BATCH], row[f.Y_LINE], y.filled)))
    row[f.SEGMENTS], row[f.LENGTH], row[f.APART] = kh, kw * x.filled, line
    i, j, c = np.ogrid[:kh, :kw, : 1 if channelwise else x.filled]
    offsets = i * line + j * x.filled + c
    row[f.OFFSETS], row[f.TERMS] = room.table(offsets), offsets.size
    row[f.WEIGHT] = program.packed[layer.weight].at
    row[f.BIAS] = program.packed[layer.bias].at if layer.bias else -1
    if channelwise:
        row[f.REAL] = 1
    if layer.gain:
        floats = math.prod(program.packed[layer.weight].filled)
        row[f.STANDARD], row[f.LEARNT] = room.take(floats), room.take(floats)
        row[f.MOMENTS] = room.take(4 * y.filled)
    one_place = not channelwise and (y.height, y.width) == (1, 1)
    row[f.OUTER] = one_place and not layer.gain and not program.shared
    if row[f.GX] < 0:
        row[f.BACK] = f.NOT
        return
    if one_place and layer.kernel == (x.height, x.width):
        row[f.BACK] = f.BY_DOTS
        return
    row[f.BACK], row[f.EH], row[f.EW], row[f.FLIPPED] = f.BY_PRODUCT, kh - 1 - ph, kw - 1 - pw, flipped
    tall, wide = x.height + kh - 1, x.width + kw - 1
    if (tall, wide) == (y.height, y.width):  # one pixel a kernel: the gradient as it is
        row[f.D], tall, wide = row[f.GY], y.height, y.width
    else:
        row[f.D] = room.take(batch * tall * wide * y.filled)
    row[f.D_LINE], row[f.D_BATCH] = wide * y.filled, tall * wide * y.filled
    row[f.D_PLACES] = room.table(_grid(batch, x.height, x.width, row[f.D], (row[f.D_BATCH], row[f.D_LINE], y.filled)))
    row[f.D_LENGTH], row[f.D_APART] = kw * y.filled, row[f.D_LINE]
    row[f.GX_PLACES] = room.table(
        _grid(batch, x.height, x.width, row[f.GX], (x.height * x.width * x.filled, x.width * x.filled, x.filled))
    )
