"""Rows of x read as points of the reduced problem, and written back displaced: what touches all d entries.

Rows are in memory that numpy sees, or on a device of another library. The first is the hot path of large batches on a
CPU: one pass each way by compiled loops where a backend offers them, else blocks that stay in its cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from alignkit.contracts import Floats, RowPasses, SparseRows
from alignkit.expressions.arrays import to_numpy
from alignkit.transport.lifting import Lift

__all__ = ["CompiledRows", "DeviceRows", "Factors", "HostRows", "Rows"]

#: Entries of x worked on at a time (1.6 MB in float64): small enough for a cache, large enough to amortise a call.
_BLOCK_ENTRIES = 2 * 10**5
#: Products up to which OpenBLAS multiplies without packing its factors first, which would take longer than the product.
_THIN_PRODUCTS = 10**6
#: Bytes of y from which on it is not to stay in the caches: half of a usual one.
_PAST_CACHES = 2**24
#: Blocks of fewer rows would take as long for their calls.
_THINNEST = 32
_NONE = np.empty(0, dtype=np.int64)


class Rows(Protocol):
    """x, (n, d), and y of the same kind."""

    def read(self, part: slice) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """v (m, k) and ⟨g, x⟩ (m,) of some rows, in float64, and which of them are not finite, counted from `part`."""
        ...

    def write(self, part: slice, step: Floats | SparseRows | None, kept: NDArray[np.int64]) -> None:
        """y = x + shift + Eᵀstep on some rows, and y = x on those of them that are kept, counted from `part`."""
        ...


@dataclass(frozen=True, eq=False)
class Factors:
    """What rows in numpy's memory are multiplied by, prepared once for their type.

    Arguments:
        lift: the reduction.
        read: (r, d), float64: D where it is a matrix, g where it is not 0, and ones where there is neither. A NaN or an
            infinity in x shows in whatever it is multiplied by, be it 0.
        has_linear: whether g is not 0.
        is_projected: whether v is a product with an implicit Q.
        write: (m, d), of the rows' type: E, and the shift below it where it is not 0; None where E is no matrix.
        shift: (d,), of the rows' type; None where it is 0.
    """

    lift: Lift
    read: Floats
    has_linear: bool
    is_projected: bool
    write: NDArray[Any] | None
    shift: NDArray[Any] | None

    @staticmethod
    def of(lift: Lift, linear: Floats, dtype: Any) -> Factors:
        """Prepare a reduction and g, (d,), for rows of a type."""
        has_linear, has_shift = bool(linear.any()), bool(lift.shift.any())
        read = [] if lift.down is None else [lift.down]
        read += [linear[None]] if has_linear else []
        read += [] if read else [np.ones((1, linear.size))]
        write = None
        if lift.up is not None:
            write = np.vstack([lift.up, lift.shift[None]]) if has_shift else lift.up
            write = np.ascontiguousarray(write, dtype=dtype)
        return Factors(
            lift,
            np.ascontiguousarray(np.vstack(read)),
            has_linear,
            lift.down is None and lift.offset.size > 0,
            write,
            lift.shift.astype(dtype) if has_shift else None,
        )

    @cached_property
    def rows_at_a_time(self) -> int:
        """How many rows are multiplied at a time."""
        width, d = self.read.shape
        block, thin = max(1, _BLOCK_ENTRIES // max(1, d)), _THIN_PRODUCTS // max(1, d * (width + 1))
        return int(min(block, thin) if thin >= _THINNEST else block)

    @cached_property
    def most_directions(self) -> int:
        """How many rows are read or written with, whichever is more."""
        return max(len(self.read), 0 if self.write is None else len(self.write))

    def steps(self, step: Floats) -> NDArray[Any]:
        """Rows of coefficients of `write`, for displacements (n, m) of the reduced problem."""
        assert self.write is not None
        if self.shift is None:
            return np.ascontiguousarray(step, dtype=self.write.dtype)
        found = np.ones((len(step), len(self.write)), self.write.dtype)
        found[:, :-1] = step
        return found


class HostRows:
    """Rows in numpy's memory, float32 or float64.

    Arguments:
        x, y: (n, d); y may be x.
        factors: the reduction, prepared for their type.
    """

    def __init__(self, x: NDArray[Any], y: NDArray[Any], factors: Factors) -> None:
        self._x, self._y, self._factors = x, y, factors
        self._size = factors.rows_at_a_time
        self._wide: Floats | None = None
        self._moved: NDArray[Any] | None = None

    def read(self, part: slice) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """See `Rows.read`."""
        factors, count = self._factors, part.stop - part.start
        found = np.empty((count, len(factors.read)))
        points = np.empty((count, factors.lift.offset.size)) if factors.is_projected else None
        # Kept from block to block: memory that is asked for anew comes without its pages.
        if self._wide is None and self._x.dtype != np.float64:
            self._wide = np.empty((min(self._size, len(self._x)), self._x.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(part.start, part.stop, self._size):
                block = slice(first, min(first + self._size, part.stop))
                local = slice(block.start - part.start, block.stop - part.start)
                wide = self._x[block]
                if self._wide is not None:
                    wide = self._wide[: len(wide)]
                    np.copyto(wide, self._x[block])
                np.matmul(wide, factors.read.T, out=found[local])
                if points is not None:
                    points[local] = factors.lift.subspace.project(wide)
            all_finite = bool(np.isfinite(found.sum()))  # a sum of large numbers may overflow
        return self._separated(part, found, points, all_finite)

    def _separated(
        self, part: slice, found: Floats, points: Floats | None, all_finite: bool
    ) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """What `read` returns, from products with its factors and, where these hold no D, with an implicit Q."""
        lift, has_linear = self._factors.lift, self._factors.has_linear
        if points is None:
            points = found[:, : lift.offset.size]
        if lift.has_offset:
            points = points + lift.offset
        earned = found[:, -1].copy() if has_linear else np.zeros(len(found))
        bad = _NONE
        if not all_finite:
            bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
            bad = bad[~np.isfinite(self._x[part][bad]).all(axis=1)]
        return np.ascontiguousarray(points), earned, bad

    def write(self, part: slice, step: Floats | SparseRows | None, kept: NDArray[np.int64]) -> None:
        """See `Rows.write`."""
        held = self._x[kept + part.start] if kept.size else None  # a copy, as y may be x
        self._write(part, step)
        if kept.size:
            self._y[kept + part.start] = held

    def _write(self, part: slice, step: Floats | SparseRows | None) -> None:
        factors = self._factors
        steps = None
        if isinstance(step, np.ndarray):
            steps = step.astype(self._x.dtype) if factors.write is None else factors.steps(step)
            if self._moved is None:
                self._moved = np.empty((min(self._size, len(self._x)), self._x.shape[1]), self._x.dtype)
        for first in range(part.start, part.stop, self._size):
            block = slice(first, min(first + self._size, part.stop))
            local = slice(block.start - part.start, block.stop - part.start)
            rows, target = self._x[block], self._y[block]
            if steps is None:
                np.add(rows, 0.0 if factors.shift is None else factors.shift, out=target)
                if isinstance(step, SparseRows):
                    step.rows(local).add_to(target)
                continue
            assert self._moved is not None
            moved = self._moved[: len(rows)]
            if factors.write is None:
                np.copyto(moved, factors.lift.embed(steps[local]))
                if factors.shift is not None:
                    moved += factors.shift
            elif len(factors.write) == 1:  # many times as fast as a matrix product of rank 1
                np.multiply(steps[local], factors.write, out=moved)
            else:
                np.matmul(steps[local], factors.write, out=moved)
            np.add(rows, moved, out=target)


class CompiledRows(HostRows):
    """Rows in numpy's memory, in C order, by compiled passes.

    Arguments:
        x, y, factors: as for `HostRows`, which does what the passes do not.
        passes: of a backend.
    """

    def __init__(self, x: NDArray[Any], y: NDArray[Any], factors: Factors, passes: RowPasses) -> None:
        super().__init__(x, y, factors)
        self._passes = passes
        # Lines of x that are moved in place are in the caches already.
        self._past_caches = y.nbytes >= _PAST_CACHES and not np.may_share_memory(x, y)

    @staticmethod
    def takes(x: NDArray[Any], y: NDArray[Any], factors: Factors, passes: RowPasses) -> bool:
        """Whether the passes can read the rows, and fast."""
        few = factors.most_directions <= passes.most_directions
        plain = x.dtype.isnative and x.dtype.itemsize <= 8 and x.flags.c_contiguous and y.flags.c_contiguous
        return few and plain and x.flags.aligned and y.flags.aligned and not factors.is_projected

    def read(self, part: slice) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """See `Rows.read`."""
        found = np.empty((part.stop - part.start, len(self._factors.read)))
        all_finite = self._passes.read(self._x[part], self._factors.read, found)
        return self._separated(part, found, None, all_finite)

    def _write(self, part: slice, step: Floats | SparseRows | None) -> None:
        factors = self._factors
        if isinstance(step, SparseRows) and factors.shift is None:
            self._passes.write_entries(self._x[part], step, self._y[part], self._past_caches)
        elif factors.write is None or not isinstance(step, np.ndarray):
            super()._write(part, step)
        else:
            self._passes.write(self._x[part], factors.steps(step), factors.write, self._y[part], self._past_caches)


class DeviceRows:
    """Rows of any library and device, and of narrow types.

    Arguments:
        x, y: (n, d), real floating; y may be x.
        lift: the reduction.
        linear: g, (d,).
    """

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
                    points[local] = to_numpy(lift.subspace.project(wide) if self._down is None else wide @ self._down)
                if self._linear is not None:
                    earned[local] = to_numpy(wide @ self._linear)
                sums[local] = to_numpy(xp.sum(wide, axis=1))
        points += lift.offset
        bad = np.flatnonzero(~np.isfinite(sums))
        if bad.size:  # a sum of large numbers may overflow
            chosen = self._x[part, :][xp.asarray(bad, device=self._device), :]
            bad = bad[~to_numpy(xp.all(xp.isfinite(chosen), axis=1))]
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
