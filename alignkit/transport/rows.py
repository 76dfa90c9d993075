"""Rows of x read as points of the reduced problem, and written back displaced: what touches all d entries.

Rows are in memory that numpy sees, or on a device of another library. The first is the hot path of large batches on a
CPU: blocks that stay in its cache, converted once, one matrix product each way.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from numpy.typing import NDArray

from alignkit.contracts import Floats, SparseRows
from alignkit.transport.lifting import Lift

__all__ = ["DeviceRows", "HostRows", "Rows", "rows_of"]

#: Entries of x worked on at a time (1.6 MB in float64): small enough for a cache, large enough to amortise a call.
_BLOCK_ENTRIES = 2 * 10**5
#: Products up to which OpenBLAS multiplies without packing its factors first, which would take longer than the product.
_THIN_PRODUCTS = 10**6
#: Blocks of fewer rows would take as long for their calls.
_THINNEST = 32


class Rows(Protocol):
    """x, (n, d), and y of the same kind."""

    def read(self, part: slice) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """v (m, k) and ⟨g, x⟩ (m,) of some rows, in float64, and which of them are not finite, counted from `part`."""
        ...

    def write(self, part: slice, step: Floats | SparseRows | None, kept: NDArray[np.int64]) -> None:
        """y = x + shift + Eᵀstep on some rows, and y = x on those of them that are kept, counted from `part`."""
        ...


def rows_of(x: Any, y: Any, lift: Lift, linear: Floats) -> Rows:
    """Rows with the reduction that they are read by.

    Arguments:
        x, y: (n, d), real floating, of one library; y may be x.
        lift: the reduction.
        linear: g, (d,).
    """
    plain = isinstance(x, np.ndarray) and x.dtype.itemsize >= 4
    return HostRows(x, y, lift, linear) if plain else DeviceRows(x, y, lift, linear)


class HostRows:
    """Rows in numpy's memory, float32 or float64; for the arguments see `rows_of`."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any], lift: Lift, linear: Floats) -> None:
        self._x, self._y, self._lift = x, y, lift
        d = x.shape[1]
        block, width = max(1, _BLOCK_ENTRIES // max(1, d)), lift.offset.size + 2
        thin = _THIN_PRODUCTS // max(1, d * width)
        self._size = min(block, thin) if thin >= _THINNEST else block
        size = min(self._size, len(x))
        self._wide = np.empty((size, d)) if x.dtype != np.float64 else None
        self._moved = np.empty((size, d), x.dtype)
        self._up = None if lift.up is None else lift.up.astype(x.dtype)
        # A matrix product of rank 1 takes longer than one of rank 2.
        self._is_thin = self._up is not None and len(self._up) == 1
        if self._up is not None and self._is_thin:
            self._up = np.vstack([self._up, np.zeros_like(self._up)])
        self._shift = lift.shift.astype(x.dtype) if lift.shift.any() else None
        self._is_projected = lift.down is None and lift.offset.size > 0
        self._has_linear = bool(linear.any())
        # A row of ones meets every entry, so that a NaN or an infinity anywhere shows in what is multiplied anyway.
        stacked = [lift.down] if lift.down is not None else []
        stacked += [linear[None]] if self._has_linear else []
        self._stacked = np.ascontiguousarray(np.vstack([*stacked, np.ones((1, d))]).T)

    def read(self, part: slice) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """See `Rows.read`."""
        lift, count = self._lift, part.stop - part.start
        k = lift.offset.size
        found = np.empty((count, self._stacked.shape[1]))
        points = np.empty((count, k)) if self._is_projected else found[:, :k]
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(part.start, part.stop, self._size):
                block = slice(first, min(first + self._size, part.stop))
                local = slice(block.start - part.start, block.stop - part.start)
                wide = self._x[block]
                if self._wide is not None:
                    wide = self._wide[: len(wide)]
                    np.copyto(wide, self._x[block])
                np.matmul(wide, self._stacked, out=found[local])
                if self._is_projected:
                    points[local] = lift.subspace.project(wide)
        if lift.offset.any():
            points = points + lift.offset
        earned = found[:, -2] if self._has_linear else np.zeros(count)
        bad = np.flatnonzero(~np.isfinite(found[:, -1]))
        if bad.size:  # a sum of large numbers may overflow
            bad = bad[~np.isfinite(self._x[part][bad]).all(axis=1)]
        return np.ascontiguousarray(points), earned, bad

    def write(self, part: slice, step: Floats | SparseRows | None, kept: NDArray[np.int64]) -> None:
        """See `Rows.write`."""
        places = kept + part.start
        held = self._x[places]  # a copy, as y may be x
        narrow = step.astype(self._x.dtype) if isinstance(step, np.ndarray) else None
        if narrow is not None and self._is_thin:
            narrow = np.hstack([narrow, np.zeros_like(narrow)])
        for first in range(part.start, part.stop, self._size):
            block = slice(first, min(first + self._size, part.stop))
            local = slice(block.start - part.start, block.stop - part.start)
            rows, target = self._x[block], self._y[block]
            if narrow is None:
                np.add(rows, 0.0 if self._shift is None else self._shift, out=target)
                if isinstance(step, SparseRows):
                    step.rows(local).add_to(target)
                continue
            moved = self._moved[: len(rows)]
            if self._up is None:
                np.copyto(moved, self._lift.embed(narrow[local]))
            else:
                np.matmul(narrow[local], self._up, out=moved)
            if self._shift is not None:
                moved += self._shift
            np.add(rows, moved, out=target)
        if kept.size:
            self._y[places] = held


class DeviceRows:
    """Rows of any library and device, and of narrow types; for the arguments see `rows_of`."""

    def __init__(self, x: Any, y: Any, lift: Lift, linear: Floats) -> None:
        self._x, self._y, self._lift = x, y, lift
        self._xp, self._device = array_namespace(x), device(x)
        self._narrow = self._xp.float32 if x.dtype.itemsize < 4 else x.dtype
        wide = self._xp.float64
        self._down = None if lift.down is None else self._asarray(lift.down.T, wide)
        self._linear = self._asarray(linear, wide) if linear.any() else None
        self._up = None if lift.up is None else self._asarray(lift.up, self._narrow)
        self._shift = self._asarray(lift.shift, self._narrow) if lift.shift.any() else None
        entries = _BLOCK_ENTRIES if str(self._device) == "cpu" else 2**25
        self._size = max(1, entries // max(1, x.shape[1]))

    def _asarray(self, values: Floats, dtype: Any) -> Any:
        return self._xp.asarray(values, dtype=dtype, device=self._device)

    def read(self, part: slice) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """See `Rows.read`."""
        xp, lift, count = self._xp, self._lift, part.stop - part.start
        points, earned, sums = np.empty((count, lift.offset.size)), np.zeros(count), np.empty(count)
        for first in range(part.start, part.stop, self._size):
            block = slice(first, min(first + self._size, part.stop))
            local = slice(block.start - part.start, block.stop - part.start)
            wide = xp.astype(self._x[block, :], xp.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                if lift.offset.size:
                    points[local] = _to_host(lift.subspace.project(wide) if self._down is None else wide @ self._down)
                if self._linear is not None:
                    earned[local] = _to_host(wide @ self._linear)
                sums[local] = _to_host(xp.sum(wide, axis=1))
        points += lift.offset
        bad = np.flatnonzero(~np.isfinite(sums))
        if bad.size:  # a sum of large numbers may overflow
            chosen = self._x[part, :][xp.asarray(bad, device=self._device), :]
            bad = bad[~_to_host(xp.all(xp.isfinite(chosen), axis=1))]
        return points, earned, bad

    def write(self, part: slice, step: Floats | SparseRows | None, kept: NDArray[np.int64]) -> None:
        """See `Rows.write`."""
        xp, narrow = self._xp, self._narrow
        places = xp.asarray(kept + part.start, device=self._device)
        held = self._x[places, :]  # a copy, as y may be x
        for first in range(part.start, part.stop, self._size):
            block = slice(first, min(first + self._size, part.stop))
            local = slice(block.start - part.start, block.stop - part.start)
            moved = xp.astype(self._x[block, :], narrow)
            if isinstance(step, SparseRows):
                moved = moved + self._asarray(step.rows(local).dense(self._x.shape[1]), narrow)
            elif step is not None:
                inner = self._asarray(step[local], narrow)
                moved = moved + (self._lift.embed(inner) if self._up is None else inner @ self._up)
            if self._shift is not None:
                moved = moved + self._shift
            self._y[block, :] = xp.astype(moved, self._y.dtype)
        if kept.size:
            self._y[places, :] = held


def _to_host(array: Any) -> NDArray[Any]:
    return array.cpu().numpy() if is_torch_array(array) else np.asarray(array)
