"""Passes over rows of x in all d entries, at the speed of memory: products with few directions, and sums of them.

A general matrix product packs its factors first, and wants both in one type; for few directions that takes longer than
the product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, SparseRows
from alignkit_numba.streaming import publish, stream

__all__ = ["CompiledRowPasses"]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, to machine code that is kept on disk; sums in any order, so that they fill lanes."""
    kernel: Callable[..., Any] = numba.njit(
        cache=True, nogil=True, error_model="numpy", boundscheck=False, fastmath={"reassoc", "contract"}, _nrt=False
    )(function)
    return kernel


class CompiledRowPasses:
    """Rows read and written by loops that touch every entry once, for few directions."""

    #: Beyond, a matrix product is faster: it uses what it packs often enough.
    most_directions = 32

    def read(self, x: NDArray[Any], directions: Floats, out: Floats) -> bool:
        """⟨direction, x⟩ of each row and direction, added up in float64.

        Arguments:
            x: (n, d), float32 or float64, in C order.
            directions: (m, d), in C order.
            out: (n, m), in C order, written to.

        Returns:
            whether all of them are finite.
        """
        return bool(_read(x, directions, out))

    def write(
        self, x: NDArray[Any], steps: NDArray[Any], directions: NDArray[Any], y: NDArray[Any], past_caches: bool
    ) -> None:
        """y = x + Σ step·direction of each row.

        Arguments:
            x, y: (n, d), float32 or float64, in C order; y may be x.
            steps: (n, m), of their type, in C order.
            directions: (m, d), likewise.
            past_caches: whether y is not kept in the caches.
        """
        if past_caches:
            _write_past_caches(x, steps, directions, y, _room(x))
        else:
            _write(x, steps, directions, y)

    def write_entries(self, x: NDArray[Any], steps: SparseRows, y: NDArray[Any], past_caches: bool) -> None:
        """y = x with a few entries of each row moved.

        Arguments:
            x, y: (n, d), float32 or float64, in C order; y may be x.
            steps: (n,), which entries, and by how much.
            past_caches: whether y is not kept in the caches.
        """
        coordinates, amounts = np.ascontiguousarray(steps.coordinates), np.ascontiguousarray(steps.amounts)
        if past_caches:
            _write_entries_past_caches(x, coordinates, amounts, y, _room(x))
        else:
            _write_entries(x, coordinates, amounts, y, y.ctypes.data == x.ctypes.data)


def _room(x: NDArray[Any]) -> NDArray[Any]:
    """Room for one row, which stays in the nearest cache."""
    return np.empty((1, x.shape[1]), x.dtype)


@_compiled
def _read(x, directions, out):  # type: ignore[no-untyped-def]
    """Four rows with two or three directions at a time: twelve sums, as many as sixteen registers leave room for."""
    n, m = x.shape[0], directions.shape[0]
    for row in range(0, n - n % 4, 4):
        j = 0
        while m - j == 3 or m - j > 4:
            _products_with_three(x, row, directions, j, out)
            j += 3
        while m - j >= 2:
            _products_with_two(x, row, directions, j, out)
            j += 2
        if j < m:
            for single in range(row, row + 4):
                out[single, j] = _product(x, single, directions, j)
    for row in range(n - n % 4, n):
        for j in range(m):
            out[row, j] = _product(x, row, directions, j)
    away = 0.0
    for row in range(n):
        for j in range(m):
            away += out[row, j] - out[row, j]
    return away == 0.0


@_compiled
def _products_with_three(x, row, directions, j, out):  # type: ignore[no-untyped-def]
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = e0 = e1 = e2 = 0.0
    for i in range(x.shape[1]):
        first, second, third = directions[j, i], directions[j + 1, i], directions[j + 2, i]
        a, b = np.float64(x[row, i]), np.float64(x[row + 1, i])
        c, e = np.float64(x[row + 2, i]), np.float64(x[row + 3, i])
        a0, a1, a2 = a0 + a * first, a1 + a * second, a2 + a * third
        b0, b1, b2 = b0 + b * first, b1 + b * second, b2 + b * third
        c0, c1, c2 = c0 + c * first, c1 + c * second, c2 + c * third
        e0, e1, e2 = e0 + e * first, e1 + e * second, e2 + e * third
    out[row, j], out[row, j + 1], out[row, j + 2] = a0, a1, a2
    out[row + 1, j], out[row + 1, j + 1], out[row + 1, j + 2] = b0, b1, b2
    out[row + 2, j], out[row + 2, j + 1], out[row + 2, j + 2] = c0, c1, c2
    out[row + 3, j], out[row + 3, j + 1], out[row + 3, j + 2] = e0, e1, e2


@_compiled
def _products_with_two(x, row, directions, j, out):  # type: ignore[no-untyped-def]
    a0 = a1 = b0 = b1 = c0 = c1 = e0 = e1 = 0.0
    for i in range(x.shape[1]):
        first, second = directions[j, i], directions[j + 1, i]
        a, b = np.float64(x[row, i]), np.float64(x[row + 1, i])
        c, e = np.float64(x[row + 2, i]), np.float64(x[row + 3, i])
        a0, a1, b0, b1 = a0 + a * first, a1 + a * second, b0 + b * first, b1 + b * second
        c0, c1, e0, e1 = c0 + c * first, c1 + c * second, e0 + e * first, e1 + e * second
    out[row, j], out[row, j + 1] = a0, a1
    out[row + 1, j], out[row + 1, j + 1] = b0, b1
    out[row + 2, j], out[row + 2, j + 1] = c0, c1
    out[row + 3, j], out[row + 3, j + 1] = e0, e1


@_compiled
def _product(x, row, directions, j):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.shape[1]):
        total += np.float64(x[row, i]) * directions[j, i]
    return total


@_compiled
def _write(x, steps, directions, y):  # type: ignore[no-untyped-def]
    for row in range(x.shape[0]):
        _move(x, row, steps, directions, y, row)


@_compiled
def _write_past_caches(x, steps, directions, y, room):  # type: ignore[no-untyped-def]
    for row in range(x.shape[0]):
        _move(x, row, steps, directions, room, 0)
        stream(room, y, row)
    publish()


@_compiled
def _move(x, row, steps, directions, y, at):  # type: ignore[no-untyped-def]
    """Row `at` of y: as many directions at a time as registers hold, so that it is written once for few of them."""
    m, d = directions.shape
    if m == 1:
        a = steps[row, 0]
        for i in range(d):
            y[at, i] = x[row, i] + a * directions[0, i]
        return
    if m == 2:
        a, b = steps[row, 0], steps[row, 1]
        for i in range(d):
            y[at, i] = x[row, i] + (a * directions[0, i] + b * directions[1, i])
        return
    if m == 3:
        a, b, c = steps[row, 0], steps[row, 1], steps[row, 2]
        for i in range(d):
            y[at, i] = x[row, i] + (a * directions[0, i] + b * directions[1, i] + c * directions[2, i])
        return
    a, b, c, e = steps[row, 0], steps[row, 1], steps[row, 2], steps[row, 3]
    if m >= 8:
        done = 8
        f, g, h, k = steps[row, 4], steps[row, 5], steps[row, 6], steps[row, 7]
        for i in range(d):
            y[at, i] = x[row, i] + (
                ((a * directions[0, i] + b * directions[1, i]) + (c * directions[2, i] + e * directions[3, i]))
                + ((f * directions[4, i] + g * directions[5, i]) + (h * directions[6, i] + k * directions[7, i]))
            )
    else:
        done = 4
        for i in range(d):
            y[at, i] = x[row, i] + (
                (a * directions[0, i] + b * directions[1, i]) + (c * directions[2, i] + e * directions[3, i])
            )
    for j in range(done, m - m % 4, 4):
        a, b, c, e = steps[row, j], steps[row, j + 1], steps[row, j + 2], steps[row, j + 3]
        for i in range(d):
            y[at, i] += (a * directions[j, i] + b * directions[j + 1, i]) + (
                c * directions[j + 2, i] + e * directions[j + 3, i]
            )
    for j in range(m - m % 4, m):
        a = steps[row, j]
        for i in range(d):
            y[at, i] += a * directions[j, i]


@_compiled
def _write_entries(x, coordinates, amounts, y, in_place):  # type: ignore[no-untyped-def]
    """A row is moved while it is in the nearest cache."""
    n, count = amounts.shape
    for row in range(n):
        if not in_place:
            for i in range(x.shape[1]):
                y[row, i] = x[row, i]
        for place in range(count):
            y[row, coordinates[row, place]] += amounts[row, place]


@_compiled
def _write_entries_past_caches(x, coordinates, amounts, y, room):  # type: ignore[no-untyped-def]
    n, count = amounts.shape
    for row in range(n):
        for i in range(x.shape[1]):
            room[0, i] = x[row, i]
        for place in range(count):
            room[0, coordinates[row, place]] += amounts[row, place]
        stream(room, y, row)
    publish()
