"""Lanes that are read from and written to a place each."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from alignkit_numba.vectors import WIDTH, LanesType

__all__ = ["gather", "scatter"]

_LANES = LanesType()
_DOUBLES, _LONGS = ir.VectorType(ir.DoubleType(), WIDTH), ir.VectorType(ir.IntType(64), WIDTH)


def _places(context: Any, builder: Any, kind: Any, array: Any, places: Any) -> list[Any]:
    """The address of each lane's entry."""
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    whole = builder.fptosi(places, _LONGS)
    return [builder.gep(data, [builder.extract_element(whole, ir.IntType(32)(lane))]) for lane in range(WIDTH)]


@intrinsic  # type: ignore[untyped-decorator]
def gather(typing: Any, array: Any, places: Any) -> Any:
    """array[place] for each lane, the places being whole numbers within the array."""

    # Entry by entry: as fast as the machine's own instruction for it, and there is none before AVX2.
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.Constant(_DOUBLES, ir.Undefined)
        for lane, address in enumerate(_places(context, builder, signature.args[0], *args)):
            lanes = builder.insert_element(lanes, builder.load(address), ir.IntType(32)(lane))
        return lanes

    return _LANES(array, _LANES), generate


@intrinsic  # type: ignore[untyped-decorator]
def scatter(typing: Any, array: Any, places: Any, lanes: Any) -> Any:
    """array[place] = lane for each lane, in order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for lane, address in enumerate(_places(context, builder, signature.args[0], *args[:2])):
            builder.store(builder.extract_element(args[2], ir.IntType(32)(lane)), address)
        return context.get_dummy_value()

    return types.void(array, _LANES, _LANES), generate
