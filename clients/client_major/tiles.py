"""Tiles of matrix products as LLVM vector operations for numba: no compiler on anybody's machine.

A tile keeps a few rows of the result, by one or two vectors of columns, in registers while it runs along the sum.
Numba's own loops for the same are 3 to 9 times slower. Vectors are as wide as the machine's.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
LANES = 16 if WIDE else 8
"""Floats of a vector; without AVX-512 they are AVX2's, or pairs of Arm's."""
ROWS = 6
"""Of a tile: with two vectors of columns that fills AVX2's sixteen registers, with room for the operands."""
UNIT = 16
"""Columns are filled up to a multiple of it."""

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FLOAT, _LONG, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)


def _long(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _load(b: ir.IRBuilder, pointer: Any) -> Any:
    found = b.load(b.bitcast(pointer, _VECTOR.as_pointer()), typ=_VECTOR)
    found.align = 4
    return found


def _store(b: ir.IRBuilder, value: Any, pointer: Any) -> None:
    b.store(value, b.bitcast(pointer, _VECTOR.as_pointer())).align = 4


def _all(b: ir.IRBuilder, value: Any) -> Any:
    """Return a vector that holds a number in each lane."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = b.insert_element(nothing, value, ir.Constant(_INT, 0))
    return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def _fma(b: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{LANES}f32"), [x, y, z])


def _at(b: ir.IRBuilder, pointer: Any, *offsets: Any) -> Any:
    total = offsets[0]
    for one in offsets[1:]:
        total = b.add(total, one)
    return b.gep(pointer, [total])


def _pointers(context: Any, b: ir.IRBuilder, kinds: Any, values: Any) -> list[Any]:
    """Return what a call is given, of arrays the address of their data."""
    return [
        context.make_array(kind)(context, b, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(kinds, values, strict=True)
    ]


def _registers(b: ir.IRBuilder, rows: int, vectors: int) -> list[list[Any]]:
    return [[cgutils.alloca_once(b, _VECTOR) for _ in range(vectors)] for _ in range(rows)]


def _by_rows(b: ir.IRBuilder, rows: Any, emit: Callable[[int], None]) -> None:
    """Write a tile for each number of rows, and run the one that is asked for."""
    for number in range(1, ROWS + 1):
        with b.if_then(b.icmp_signed("==", rows, _long(number))):
            emit(number)


def product(vectors: int, *, channelwise: bool = False) -> Callable[..., None]:
    """Return what computes a tile of Y = X W, X read through the rows' places (implicit im2col).

    The call takes: rows of the tile, x, places of X's rows, first row, segments, their length, distance between them,
    w, place of W's first row in this column, W's row length, y, places of Y's rows, first column,
    begin (-1: with zeros, -2: with Y, else the place of the bias in b), b, lowest and highest result.

    Args:
        vectors: of columns.
        channelwise: whether each column has a channel of X of its own (depthwise convolution), in steps of one vector.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, rows, x, places, first, segments, length, apart, w, at_w, width, y, at_y, column, begin, bias, low, high
    ):
        i, f = types.int64, types.float32
        signature = types.void(i, x, places, i, i, i, i, w, i, i, y, at_y, i, i, bias, f, f)

        def generate(context: Any, b: ir.IRBuilder, signed: Any, arguments: Any) -> Any:
            (rows_, x_, places_, first_, segments_, length_, apart_, w_, at_w_, width_, y_, at_y_, column_, begin_,
             bias_, low_, high_) = _pointers(context, b, signed.args, arguments)  # fmt: skip

            def emit(rows: int) -> None:
                sums = _registers(b, rows, vectors)
                lines = [b.load(_at(b, places_, first_, _long(q))) for q in range(rows)]
                results = [b.load(_at(b, at_y_, first_, _long(q))) for q in range(rows)]
                biased, again = b.icmp_signed(">=", begin_, _long(0)), b.icmp_signed("==", begin_, _long(-2))
                safe = b.select(biased, begin_, _long(0))
                for v in range(vectors):
                    lane = _long(LANES * v)
                    with b.if_else(again) as (yes, no):
                        with yes:
                            for q in range(rows):
                                b.store(_load(b, _at(b, y_, results[q], column_, lane)), sums[q][v])
                        with no:
                            start = b.select(biased, _load(b, _at(b, bias_, safe, lane)), _ZERO)
                            for q in range(rows):
                                b.store(start, sums[q][v])
                weight = cgutils.alloca_once_value(b, at_w_)
                with cgutils.for_range(b, segments_) as outer:
                    offset = b.mul(outer.index, apart_)
                    count = b.udiv(length_, width_) if channelwise else length_
                    with cgutils.for_range(b, count) as inner:
                        here = b.load(weight)
                        held = [_load(b, _at(b, w_, here, _long(LANES * v))) for v in range(vectors)]
                        b.store(b.add(here, width_), weight)
                        step = b.mul(inner.index, width_) if channelwise else inner.index
                        for q in range(rows):
                            if channelwise:
                                place = b.add(b.add(lines[q], offset), b.add(step, column_))
                                given = [_load(b, _at(b, x_, place, _long(LANES * v))) for v in range(vectors)]
                            else:
                                given = [_all(b, b.load(_at(b, x_, lines[q], offset, step)))] * vectors
                            for v in range(vectors):
                                b.store(_fma(b, given[v], held[v], b.load(sums[q][v])), sums[q][v])
                low_all, high_all = _all(b, low_), _all(b, high_)
                for q in range(rows):
                    for v in range(vectors):
                        value = b.load(sums[q][v])  # what is no number stays so
                        value = b.select(b.fcmp_ordered("<", value, low_all), low_all, value)
                        value = b.select(b.fcmp_ordered(">", value, high_all), high_all, value)
                        _store(b, value, _at(b, y_, results[q], column_, _long(LANES * v)))

            _by_rows(b, rows_, emit)
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def outer(vectors: int, *, channelwise: bool = False) -> Callable[..., None]:
    """Return what adds a tile of rate * X^T D to W: a layer's gradient, or its step, with X read as in `product`.

    The call takes: rows of the tile, x, places of X's rows, how many, offsets of the sum's terms within a row, first of
    them, d, place of D's first row in this column, D's row length, w, place of W's tile, rate. Where
    `channelwise`, the offsets' first column is that of D.
    """

    @intrinsic
    def tile(typing, rows, x, places, count, offsets, first, d, at_d, width, w, at_w, rate, column):  # type: ignore[no-untyped-def]
        i, f = types.int64, types.float32
        signature = types.void(i, x, places, i, offsets, i, d, i, i, w, i, f, i)

        def generate(context: Any, b: ir.IRBuilder, signed: Any, arguments: Any) -> Any:
            (rows_, x_, places_, count_, offsets_, first_, d_, at_d_, width_, w_, at_w_, rate_, column_) = _pointers(
                context, b, signed.args, arguments
            )

            def emit(rows: int) -> None:
                sums = _registers(b, rows, vectors)
                for row in sums:
                    for one in row:
                        b.store(_ZERO, one)
                terms = [b.load(_at(b, offsets_, first_, _long(q))) for q in range(rows)]
                gradient = cgutils.alloca_once_value(b, at_d_)
                with cgutils.for_range(b, count_) as loop:
                    line = b.load(_at(b, places_, loop.index))
                    here = b.load(gradient)
                    held = [_load(b, _at(b, d_, here, _long(LANES * v))) for v in range(vectors)]
                    b.store(b.add(here, width_), gradient)
                    for q in range(rows):
                        if channelwise:
                            place = b.add(b.add(line, terms[q]), column_)
                            given = [_load(b, _at(b, x_, place, _long(LANES * v))) for v in range(vectors)]
                        else:
                            given = [_all(b, b.load(_at(b, x_, line, terms[q])))] * vectors
                        for v in range(vectors):
                            b.store(_fma(b, given[v], held[v], b.load(sums[q][v])), sums[q][v])
                scale = _all(b, rate_)
                for q in range(rows):
                    for v in range(vectors):
                        place = _at(b, w_, at_w_, b.mul(width_, _long(q)), _long(LANES * v))
                        _store(b, _fma(b, scale, b.load(sums[q][v]), _load(b, place)), place)

            _by_rows(b, rows_, emit)
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def dots(rows: int) -> Callable[..., None]:
    """Return what computes a column of D W^T: the gradient of one number that a dense layer takes, for some examples.

    The call takes: d, place of D's first row, w, place of W's row, their length, x, place of the first result, distance
    between results, whether to add to what is there.
    """

    @intrinsic
    def tile(typing, d, at_d, w, at_w, width, x, at_x, apart, again):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(d, i, w, i, i, x, i, i, types.boolean)

        def generate(context: Any, b: ir.IRBuilder, signed: Any, arguments: Any) -> Any:
            d_, at_d_, w_, at_w_, width_, x_, at_x_, apart_, again_ = _pointers(context, b, signed.args, arguments)
            sums = _registers(b, rows, 1)
            for (one,) in sums:
                b.store(_ZERO, one)
            with cgutils.for_range(b, b.udiv(width_, _long(LANES))) as loop:
                place = b.mul(loop.index, _long(LANES))
                held = _load(b, _at(b, w_, at_w_, place))
                for q, (one,) in enumerate(sums):
                    given = _load(b, _at(b, d_, at_d_, b.mul(width_, _long(q)), place))
                    b.store(_fma(b, held, given, b.load(one)), one)
            kind = ir.FunctionType(_FLOAT, [_FLOAT, _VECTOR])
            reduce = cgutils.get_or_insert_function(b.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
            for q, (one,) in enumerate(sums):
                total = b.call(reduce, [ir.Constant(_FLOAT, 0.0), b.load(one)], fastmath=("reassoc",))
                place = _at(b, x_, at_x_, b.mul(apart_, _long(q)))
                b.store(b.fadd(total, b.select(again_, b.load(place), ir.Constant(_FLOAT, 0.0))), place)
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


@intrinsic
def largest(typing, a, at_x, lines, pixels, line, n, at_y):  # type: ignore[no-untyped-def]
    """Give a window's largest numbers: a, place of its first pixel, its lines and pixels, floats to the next line,
    channels, place of the result."""
    i = types.int64

    def generate(context: Any, b: ir.IRBuilder, signed: Any, arguments: Any) -> Any:
        a_, at_x_, lines_, pixels_, line_, n_, at_y_ = _pointers(context, b, signed.args, arguments)
        best = cgutils.alloca_once(b, _VECTOR)
        with cgutils.for_range(b, b.udiv(n_, _long(LANES))) as loop:
            column = b.mul(loop.index, _long(LANES))
            b.store(_load(b, _at(b, a_, at_x_, column)), best)
            with cgutils.for_range(b, lines_) as down, cgutils.for_range(b, pixels_) as across:
                found = _load(b, _at(b, a_, at_x_, b.mul(down.index, line_), b.mul(across.index, n_), column))
                held = b.load(best)
                b.store(b.select(b.fcmp_ordered("<=", found, held), held, found), best)
            _store(b, b.load(best), _at(b, a_, at_y_, column))
        return context.get_dummy_value()

    return types.void(a, i, i, i, i, i, i), generate


@intrinsic
def hand_back(typing, a, at_x, lines, pixels, line, n, at_y, at_d, at_e, line_e, low, high, fresh):  # type: ignore[no-untyped-def]
    """Hand a result's gradient to the first of its window's largest, where it is inside of bounds.

    a, at_x, lines, pixels, line, n, at_y: as of `largest`; at_d: place of the gradient; at_e, line_e: where the
    window's begins, and floats to its next line; low, high: the bounds; fresh: whether nothing is there yet.
    """
    i, f = types.int64, types.float32

    def generate(context: Any, b: ir.IRBuilder, signed: Any, arguments: Any) -> Any:
        (a_, at_x_, lines_, pixels_, line_, n_, at_y_, at_d_, at_e_, line_e_, low_, high_, fresh_) = _pointers(
            context, b, signed.args, arguments
        )
        left, low_all, high_all = cgutils.alloca_once(b, _VECTOR), _all(b, low_), _all(b, high_)
        with cgutils.for_range(b, b.udiv(n_, _long(LANES))) as loop:
            column = b.mul(loop.index, _long(LANES))
            best = _load(b, _at(b, a_, at_y_, column))
            inside = b.and_(b.fcmp_ordered(">", best, low_all), b.fcmp_ordered("<", best, high_all))
            b.store(b.select(inside, _load(b, _at(b, a_, at_d_, column)), _ZERO), left)
            with cgutils.for_range(b, lines_) as down, cgutils.for_range(b, pixels_) as across:
                along = b.mul(across.index, n_)
                hit = b.fcmp_ordered("==", _load(b, _at(b, a_, at_x_, b.mul(down.index, line_), along, column)), best)
                held, place = b.load(left), _at(b, a_, at_e_, b.mul(down.index, line_e_), along, column)
                before = b.select(fresh_, _ZERO, _load(b, place))
                _store(b, b.fadd(before, b.select(hit, held, _ZERO)), place)
                b.store(b.select(hit, _ZERO, held), left)
        return context.get_dummy_value()

    return types.void(a, i, i, i, i, i, i, i, i, i, f, f, types.boolean), generate


@intrinsic
def add_rows(typing, a, at, count, n, w, at_w, rate):  # type: ignore[no-untyped-def]
    """Add rate times the sum of rows to w: a, place of the first row, how many, their length, w, place, rate.

    Four rows at a time, each with a sum of its own.
    """
    i, f = types.int64, types.float32

    def generate(context: Any, b: ir.IRBuilder, signed: Any, arguments: Any) -> Any:
        a_, at_, count_, n_, w_, at_w_, rate_ = _pointers(context, b, signed.args, arguments)
        sums, scale = _registers(b, 4, 1), _all(b, rate_)
        fours, rest = b.udiv(count_, _long(4)), b.urem(count_, _long(4))
        with cgutils.for_range(b, b.udiv(n_, _long(LANES))) as loop:
            column = b.mul(loop.index, _long(LANES))
            for (one,) in sums:
                b.store(_ZERO, one)
            with cgutils.for_range(b, fours) as down:
                for q, (one,) in enumerate(sums):
                    row = b.add(b.mul(down.index, _long(4)), _long(q))
                    b.store(b.fadd(b.load(one), _load(b, _at(b, a_, at_, b.mul(row, n_), column))), one)
            with cgutils.for_range(b, rest) as down:
                row = b.add(b.mul(fours, _long(4)), down.index)
                b.store(b.fadd(b.load(sums[0][0]), _load(b, _at(b, a_, at_, b.mul(row, n_), column))), sums[0][0])
            pairs = [b.fadd(b.load(sums[q][0]), b.load(sums[q + 1][0])) for q in (0, 2)]
            place = _at(b, w_, at_w_, column)
            _store(b, _fma(b, scale, b.fadd(*pairs), _load(b, place)), place)
        return context.get_dummy_value()

    return types.void(a, i, i, i, w, i, f), generate
