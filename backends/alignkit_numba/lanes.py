"""Rows in lanes: a vector of one float64 for each of `LANES` rows, on which compiled kernels compute as on a number.

LLVM splits the vector over the registers that the processor has, so that one source serves every instruction set; numba
alone vectorises innermost loops only, and would keep every accumulator in memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

from alignkit.contracts import Floats

__all__ = [
    "LANES",
    "absolute",
    "fused",
    "greater",
    "load",
    "maximum",
    "minimum",
    "room",
    "splat",
    "store",
]

#: Four registers of AVX-512: enough independent chains of additions to hide their latency.
LANES = 32

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class LanesType(types.Type):  # type: ignore[misc]
    """The numba type of a vector of rows."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes({LANES})")


_LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _is_lanes(kind: Any) -> bool:
    return isinstance(kind, LanesType)


def _address(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    start = builder.mul(row, ir.Constant(row.type, LANES))
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


def _spread(builder: Any, number: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), mask)


def _call(builder: Any, name: str, args: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    return builder.call(builder.module.declare_intrinsic(f"llvm.{name}.v{LANES}f64", (), kind), args)


@intrinsic
def load(typing: Any, array: Any, row: Any) -> Any:
    """Row `row` of a C-contiguous float64 array whose last axis has LANES entries, its other axes counted as one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], args[0], args[1]), align=8)

    return _LANES(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, row: Any, value: Any) -> Any:
    """Write what `load` reads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


@intrinsic
def splat(typing: Any, number: Any) -> Any:
    """One number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0])

    return _LANES(types.float64), generate


@intrinsic
def fused(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x·y + z, rounded once where the processor can; x may be one number."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left = args[0] if _is_lanes(signature.args[0]) else _spread(builder, args[0])
        return _call(builder, "fmuladd", [left, args[1], args[2]])

    return _LANES(_LANES if _is_lanes(x) else types.float64, _LANES, _LANES), generate


@intrinsic
def absolute(typing: Any, x: Any) -> Any:
    """|x|."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "fabs", args)

    return _LANES(_LANES), generate


def _choice(order: str) -> Any:
    @intrinsic
    def choose(typing: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(order, args[0], args[1]), args[0], args[1])

        return _LANES(_LANES, _LANES), generate

    return choose


#: The larger of x and y in each lane, y where either is not a number.
maximum = _choice(">")
#: The smaller, likewise.
minimum = _choice("<")


@intrinsic
def greater(typing: Any, x: Any, y: Any, yes: Any, no: Any) -> Any:
    """`yes` in the lanes where x > y, `no` in the others."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return _LANES(_LANES, _LANES, _LANES, _LANES), generate


def _arithmetic(symbol: Any, emit: Callable[[Any, Any, Any], Any]) -> None:
    @intrinsic
    def combine(typing: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            both = [
                value if _is_lanes(kind) else _spread(builder, value)
                for kind, value in zip(signature.args, args, strict=True)
            ]
            return emit(builder, *both)

        return _LANES(*(_LANES if _is_lanes(kind) else types.float64 for kind in (x, y))), generate

    @overload(symbol)
    def lift(x, y):  # type: ignore[no-untyped-def]
        # numba wants the same annotations on both signatures, so neither has any.
        if all(_is_lanes(kind) or isinstance(kind, types.Float) for kind in (x, y)) and (_is_lanes(x) or _is_lanes(y)):

            def apply(x, y):  # type: ignore[no-untyped-def]
                return combine(x, y)

            return apply
        return None


_arithmetic(operator.add, lambda builder, x, y: builder.fadd(x, y))
_arithmetic(operator.sub, lambda builder, x, y: builder.fsub(x, y))
_arithmetic(operator.mul, lambda builder, x, y: builder.fmul(x, y))
_arithmetic(operator.truediv, lambda builder, x, y: builder.fdiv(x, y))


@njit(error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def room(rows: int) -> Floats:
    """An array (rows, LANES) that begins on a cache line, so that no register is loaded from two."""
    space = np.empty((rows + 1) * LANES)
    start = -(space.ctypes.data // 8) % 8
    return space[start : start + rows * LANES].reshape((rows, LANES))
