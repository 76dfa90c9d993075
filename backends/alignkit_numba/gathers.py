"""Lanes that are read from and written to a place each, and rows that become lanes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from alignkit_numba.vectors import WIDTH, LanesType, inlined

__all__ = ["TILE", "gather", "scatter", "transpose_tiles"]

#: Rows and columns that are transposed at a time: those of one AVX-512 register, of which `WIDTH` holds a whole number.
TILE = 8

_LANES = LanesType()
_INDEX = ir.IntType(32)
_DOUBLES, _LONGS = ir.VectorType(ir.DoubleType(), WIDTH), ir.VectorType(ir.IntType(64), WIDTH)


def _places(context: Any, builder: Any, kind: Any, array: Any, places: Any) -> list[Any]:
    """The address of each lane's entry."""
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    whole = builder.fptosi(places, _LONGS)
    return [builder.gep(data, [builder.extract_element(whole, _INDEX(lane))]) for lane in range(WIDTH)]


@intrinsic  # type: ignore[untyped-decorator]
def gather(typing: Any, array: Any, places: Any) -> Any:
    """array[place] for each lane, the places being whole numbers within the array."""

    # Entry by entry: as fast as the machine's own instruction for it, and there is none before AVX2.
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.Constant(_DOUBLES, ir.Undefined)
        for lane, address in enumerate(_places(context, builder, signature.args[0], *args)):
            lanes = builder.insert_element(lanes, builder.load(address), _INDEX(lane))
        return lanes

    return _LANES(array, _LANES), generate


@intrinsic  # type: ignore[untyped-decorator]
def scatter(typing: Any, array: Any, places: Any, lanes: Any) -> Any:
    """array[place] = lane for each lane, in order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for lane, address in enumerate(_places(context, builder, signature.args[0], *args[:2])):
            builder.store(builder.extract_element(args[2], _INDEX(lane)), address)
        return context.get_dummy_value()

    return types.void(array, _LANES, _LANES), generate


@intrinsic  # type: ignore[untyped-decorator]
def _transpose_tile(typing: Any, source: Any, start: Any, stride: Any, target: Any, place: Any, step: Any) -> Any:
    """target[place + step·j + i] = source[start + stride·i + j] for i and j below `TILE`."""
    row = ir.VectorType(ir.DoubleType(), TILE)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def addresses(first: int) -> list[Any]:
            """Of the rows of the array among the arguments at `first`, the next two being where they begin."""
            array, begin, apart = args[first : first + 3]
            data = cgutils.create_struct_proxy(signature.args[first])(context, builder, value=array).data
            places = [builder.add(begin, builder.mul(apart, ir.Constant(apart.type, count))) for count in range(TILE)]
            return [builder.bitcast(builder.gep(data, [at]), row.as_pointer()) for at in places]

        rows = [builder.load(address, align=8) for address in addresses(0)]
        size = 1
        while size < TILE:
            # Swaps the off-diagonal blocks of this size within all blocks of twice the size.
            upper = [i if not i & size else TILE + i - size for i in range(TILE)]
            lower = [i + size if not i & size else TILE + i for i in range(TILE)]
            masks = [ir.Constant(ir.VectorType(_INDEX, TILE), mask) for mask in (upper, lower)]
            for i in range(TILE):
                if not i & size:
                    pair = rows[i], rows[i + size]
                    rows[i], rows[i + size] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            size *= 2
        for lanes, address in zip(rows, addresses(3), strict=True):
            builder.store(lanes, address, align=8)
        return context.get_dummy_value()

    whole = types.intp
    return types.void(source, whole, whole, target, whole, whole), generate


@inlined
def transpose_tiles(source, start, stride, target, place, step, rows, columns):  # type: ignore[no-untyped-def]
    """target[place + step·j + i] = source[start + stride·i + j], i < rows and j < columns, both multiples of `TILE`.

    Arguments:
        source, target: arrays in C order, counted in entries whatever their axes.
        start, place: where in them the first entry is.
        stride, step: entries from one row of them to the next.
        rows, columns: of the source.
    """
    for i in range(0, rows, TILE):
        for j in range(0, columns, TILE):
            _transpose_tile(source, start + stride * i + j, stride, target, place + step * j + i, step)
