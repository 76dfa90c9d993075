"""Stores past the caches, for arrays that are larger than these: the memory written to is not read first.

An ordinary store fetches its cache line before it writes to it, which costs a third of the traffic of x ↦ y.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from alignkit_numba.vectors import inlined

__all__ = ["publish", "stream"]

#: Bytes of a cache line.
_LINE = 64


@inlined
def stream(room, target, row):  # type: ignore[no-untyped-def]
    """The one row of `room` into a row of `target`; both are in C order and of one type and width."""
    count = room.shape[1]
    place, entries = row * count, _LINE // room.itemsize
    first = min(count, _entries_to_the_next_line(target, place))
    whole = first + (count - first) // entries * entries
    for at in range(first):
        target[row, at] = room[0, at]
    for at in range(first, whole, entries):
        _put_line(room, at, target, place + at)
    for at in range(whole, count):
        target[row, at] = room[0, at]


def _element(context: Any, builder: Any, kind: Any, array: Any, position: Any) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    return builder.gep(data, [position])


@intrinsic
def _entries_to_the_next_line(typing: Any, array: Any, position: Any) -> Any:
    """How many entries from a position on come before the first that begins a cache line."""
    size = array.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.IntType(64)
        address = builder.ptrtoint(_element(context, builder, signature.args[0], *args), whole)
        ahead = builder.and_(builder.neg(address), whole(_LINE - 1))
        return builder.udiv(ahead, whole(size))

    return types.intp(array, types.intp), generate


@intrinsic
def _put_line(typing: Any, source: Any, at: Any, target: Any, place: Any) -> Any:
    """The entries of a cache line, past the caches."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = ir.VectorType(ir.DoubleType(), _LINE // 8).as_pointer()
        read = builder.bitcast(_element(context, builder, signature.args[0], *args[:2]), line)
        written = builder.bitcast(_element(context, builder, signature.args[2], *args[2:]), line)
        stored = builder.store(builder.load(read, align=4), written, align=_LINE)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def publish(typing: Any) -> Any:
    """Let all that was stored be seen by other threads before what comes after."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
