"""Rows in lanes: a vector of sixteen float64 as a numba type, one row in each lane.

Kernels written over it compile to the vector instructions that the machine has, whatever LLVM's own vectoriser makes of
their loops, and number a batch's rows across lanes, so that no operation depends on what the other lanes hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

from alignkit.contracts import Floats

__all__ = [
    "WIDTH",
    "absolute",
    "all_less",
    "any_less",
    "compiled",
    "divide",
    "exponential",
    "fma",
    "inlined",
    "larger",
    "load",
    "logarithm",
    "root",
    "scratch",
    "scratches",
    "select_less",
    "smaller",
    "spread",
    "store",
]

#: Rows that are worked on together: two AVX-512 registers, so that a chain of additions waits half as long.
WIDTH = 16

#: float64 numbers in a cache line.
_LINE = 8

#: `_nrt` is whether arrays count their references.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "forceinline": True,
    "_nrt": False,
}

_DOUBLES = ir.VectorType(ir.DoubleType(), WIDTH)
_LONGS = ir.VectorType(ir.IntType(64), WIDTH)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, to machine code that is kept on disk; strict IEEE arithmetic, no lock held.

    The function allocates nothing: without reference counts, which are atomic, an array costs nothing to pass.
    """
    kernel: Callable[..., Any] = numba.njit(cache=True, **_OPTIONS)(function)
    return kernel


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as a part of the compiled functions that call it, and for nothing else."""
    part: Callable[..., Any] = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return part


class LanesType(types.Type):
    """A float64 for each of `WIDTH` rows."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


_LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _DOUBLES)


def _everywhere(value: float) -> ir.Constant:
    return ir.Constant(_DOUBLES, [value] * WIDTH)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, position: Any) -> Any:
    """Where the lanes at a position begin."""
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    start = builder.mul(position, ir.Constant(position.type, WIDTH))
    return builder.bitcast(builder.gep(data, [start]), _DOUBLES.as_pointer())


@intrinsic
def load(typing: Any, array: Any, position: Any) -> Any:
    """Lanes from array[W·position : W·position + W], W = `WIDTH`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *args), align=8)

    return _LANES(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, position: Any, lanes: Any) -> Any:
    """array[W·position : W·position + W] = lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature.args[0], *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


@intrinsic
def spread(typing: Any, number: Any) -> Any:
    """One number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), args[0], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        return builder.shuffle_vector(first, ir.Constant(_DOUBLES, ir.Undefined), mask)

    return _LANES(types.float64), generate


def _binary(name: str) -> Any:
    @intrinsic
    def operation(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return _LANES(_LANES, _LANES), generate

    return operation


_add, _subtract, _multiply, divide = (_binary(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


def _of_llvm(name: str, arity: int) -> Any:
    """An operation that LLVM names `llvm.NAME`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic(
            f"llvm.{name}.v{WIDTH}f64", (), ir.FunctionType(_DOUBLES, [_DOUBLES] * arity)
        )
        return builder.call(function, args)

    if arity == 1:

        @intrinsic
        def one(typing: Any, lanes: Any) -> Any:
            return _LANES(_LANES), generate

        return one
    if arity == 2:

        @intrinsic
        def two(typing: Any, left: Any, right: Any) -> Any:
            return _LANES(_LANES, _LANES), generate

        return two

    @intrinsic
    def three(typing: Any, left: Any, right: Any, added: Any) -> Any:
        return _LANES(_LANES, _LANES, _LANES), generate

    return three


#: left·right + added, in one rounding where the machine has it.
fma = _of_llvm("fmuladd", 3)
larger, smaller = _of_llvm("maxnum", 2), _of_llvm("minnum", 2)
absolute, root = _of_llvm("fabs", 1), _of_llvm("sqrt", 1)


@intrinsic
def select_less(typing: Any, left: Any, right: Any, chosen: Any, other: Any) -> Any:
    """`chosen` in the lanes with left < right, else `other`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return _LANES(_LANES, _LANES, _LANES, _LANES), generate


def _test(every: bool) -> Any:
    @intrinsic
    def test(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = ir.IntType(WIDTH)
            found = builder.bitcast(builder.fcmp_ordered("<", *args), bits)
            return (
                builder.icmp_unsigned("==", found, bits(-1)) if every else builder.icmp_unsigned("!=", found, bits(0))
            )

        return types.boolean(_LANES, _LANES), generate

    return test


#: Whether left < right in any lane, and in every lane; NaN is less than nothing.
any_less, all_less = _test(False), _test(True)


def _operator(symbol: Any, operation: Any) -> None:
    @overload(symbol)
    def typed(left, right):  # type: ignore[no-untyped-def]
        # numba wants the same annotations on both signatures, so neither has any.
        if isinstance(left, LanesType) and isinstance(right, LanesType):
            return lambda left, right: operation(left, right)  # noqa: PLW0108 - numba inlines a function, not an intrinsic
        return None


_operator(operator.add, _add)
_operator(operator.sub, _subtract)
_operator(operator.mul, _multiply)


#: ln 2 in two parts, the first with trailing zeros so that its small multiples are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52
_FACTORIALS = [1.0 / float(np.prod(np.arange(1.0, order + 1.0))) for order in range(13)]


def _muladd(builder: Any, left: Any, right: Any, added: Any) -> Any:
    function = builder.module.declare_intrinsic(
        f"llvm.fmuladd.v{WIDTH}f64", (), ir.FunctionType(_DOUBLES, [_DOUBLES] * 3)
    )
    return builder.call(function, [left, right, added])


def _clip(builder: Any, lanes: Any, low: float, high: float) -> Any:
    bounded = builder.select(builder.fcmp_ordered("<", lanes, _everywhere(low)), _everywhere(low), lanes)
    return builder.select(builder.fcmp_ordered(">", bounded, _everywhere(high)), _everywhere(high), bounded)


@intrinsic
def exponential(typing: Any, lanes: Any) -> Any:
    """exp, to 2 units in the last place, its argument clipped to [−708, 709]; NaN stays NaN.

    exp x = 2ⁿ·exp r with x = n·ln 2 + r and |r| ≤ ½ ln 2, where the Taylor polynomial of degree 12 errs by 2e-16.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = _clip(builder, args[0], -708.0, 709.0)
        # Adding 1.5·2⁵² rounds to an integer, which then stands in the low bits.
        shifted = _muladd(builder, x, _everywhere(1.0 / np.log(2.0)), _everywhere(_ROUND))
        whole = builder.fsub(shifted, _everywhere(_ROUND))
        rest = _muladd(builder, whole, _everywhere(-_LN2_HIGH), x)
        rest = _muladd(builder, whole, _everywhere(-_LN2_LOW), rest)
        result = _everywhere(_FACTORIALS[12])
        for coefficient in reversed(_FACTORIALS[:12]):
            result = _muladd(builder, result, rest, _everywhere(coefficient))
        power = builder.shl(builder.bitcast(shifted, _LONGS), ir.Constant(_LONGS, [52] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(result, _LONGS), power), _DOUBLES)

    return _LANES(_LANES), generate


@intrinsic
def logarithm(typing: Any, lanes: Any) -> Any:
    """The natural logarithm of positive normal numbers, to 2e-16 absolutely or 4 units in the last place.

    log x = e·ln 2 + 2·artanh((t − 1)/(t + 1)) with x = 2ᵉ·t and t in [√½, √2).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _LONGS)
        # Counting exponents from √½ puts the mantissa into [√½, √2).
        root_half = ir.Constant(_LONGS, [0x3FE6A09E667F3BCD] * WIDTH)
        away = builder.sub(bits, root_half)
        exponent = builder.ashr(away, ir.Constant(_LONGS, [52] * WIDTH))
        mantissa = builder.bitcast(
            builder.sub(bits, builder.shl(exponent, ir.Constant(_LONGS, [52] * WIDTH))), _DOUBLES
        )
        count = builder.sitofp(exponent, _DOUBLES)
        ratio = builder.fdiv(builder.fsub(mantissa, _everywhere(1.0)), builder.fadd(mantissa, _everywhere(1.0)))
        square = builder.fmul(ratio, ratio)
        series = _everywhere(2.0 / 21.0)
        for order in range(19, 0, -2):
            series = _muladd(builder, series, square, _everywhere(2.0 / order))
        small = _muladd(builder, count, _everywhere(_LN2_LOW), builder.fmul(series, ratio))
        return _muladd(builder, count, _everywhere(_LN2_HIGH), small)

    return _LANES(_LANES), generate


def scratch(vectors: int) -> Floats:
    """Room for some vectors of lanes, aligned to a cache line so that none of them straddles two."""
    room = np.zeros(WIDTH * vectors + _LINE)
    start = -(room.ctypes.data // 8) % _LINE
    return room[start : start + WIDTH * vectors]


def scratches(sizes: Sequence[int]) -> tuple[Floats, ...]:
    """Room for some arrays of vectors of lanes, of each of the sizes, (size, W)."""
    room = scratch(sum(sizes)).reshape(-1, WIDTH)
    ends = np.cumsum(sizes)
    return tuple(room[end - size : end] for size, end in zip(sizes, ends.tolist(), strict=True))
