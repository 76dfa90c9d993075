"""Proximal maps of quadratics that λ dominates, in closed form, rows in lanes.

f(z) = ½⟨z, Hz⟩ + ⟨h, z⟩ + c has z = (λI − H)⁻¹(λv + h). The objective f(z) − (λ/2)‖z − v‖² is μ-strongly concave, so
that a point at which its gradient has norm ρ lies within ρ²/(2μ) of the supremum, which bounds the answer's rounding.

Source: N. Parikh, S. Boyd, "Proximal algorithms", 2014, section 6.1.1; Y. Nesterov, "Lectures on convex optimization",
2018, theorem 2.1.10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats, ProxSolution
from alignkit.expressions.splitting import Quadratic
from alignkit_numba.gathers import TILE, transpose_tiles
from alignkit_numba.vectors import (
    WIDTH,
    absolute,
    compiled,
    fma,
    inlined,
    larger,
    load,
    root,
    scratch,
    spread,
    store,
)

__all__ = ["QuadraticMap"]

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class QuadraticMap:
    """v ↦ z, with what all rows share.

    Arguments:
        gain: λ(λI − H)⁻¹, (k, k).
        start: (λI − H)⁻¹h, (k,).
        hessian: H.
        vector: h.
        numbers: c, λ, μ, the tolerance, and what bounds the rounding of the gradient: its multiples of ‖z‖ and of ‖v‖,
            and its constant.
    """

    gain: Floats
    start: Floats
    hessian: Floats
    vector: Floats
    numbers: Floats

    @staticmethod
    def of(quadratic: Quadratic, weight: float, tolerance: float) -> QuadraticMap:
        """Factorise a quadratic with λI − H ≻ 0."""
        k = len(quadratic.vector)
        values, vectors = np.linalg.eigh(quadratic.matrix)
        strengths = weight - values
        inverse = (vectors / strengths) @ vectors.T
        # μ, less what rounding may have added to it.
        least = float(strengths.min()) - 8 * _EPS * k * (weight + float(np.abs(values).max()))
        # ‖|H|‖ ≤ ‖H‖_F bounds the rounding of Hz, whatever the order of summation.
        of_z = _EPS * ((k + 4) * float(np.linalg.norm(quadratic.matrix)) + 4 * weight)
        constant = 4 * _EPS * float(np.linalg.norm(quadratic.vector))
        return QuadraticMap(
            np.ascontiguousarray(weight * inverse),
            inverse @ quadratic.vector,
            np.ascontiguousarray(quadratic.matrix),
            np.ascontiguousarray(quadratic.vector),
            np.array([quadratic.constant, weight, least, tolerance, of_z, 4 * _EPS * weight, constant]),
        )

    def solve(self, points: Floats) -> ProxSolution:
        """Solve rows v, (n, k), float64."""
        points = np.ascontiguousarray(points)
        count, k = points.shape
        maximiser, gap, value = np.empty((count, k)), np.empty(count), np.empty(count)
        unfinished = np.empty(count, dtype=np.bool_)
        room = scratch(3 * k + 3).reshape(-1, WIDTH)
        _solve(
            self.gain, self.start, self.hessian, self.vector, self.numbers, points, room, maximiser, gap, value,
            unfinished,
        )  # fmt: skip
        return ProxSolution(maximiser, gap, unfinished, value)


@compiled
def _solve(gain, start, hessian, vector, numbers, points, room, maximiser, gap, value, unfinished):  # type: ignore[no-untyped-def]
    count, k = points.shape
    v, z, slope, ends = room[:k], room[k : 2 * k], room[2 * k : 3 * k], room[3 * k :]
    for first in range(0, count, WIDTH):
        filled = min(WIDTH, count - first)
        _into_lanes(points, first, filled, v)
        _multiply(gain, start, v, z)
        _multiply(hessian, vector, z, slope)
        _certify(vector, numbers, v, z, slope, ends)
        _out_of_lanes(z, first, filled, maximiser)
        for lane in range(filled):
            row = first + lane
            gap[row], value[row] = ends[0, lane], ends[1, lane]
            unfinished[row] = not (ends[0, lane] <= ends[2, lane] and ends[0, lane] < math.inf)
            if math.isnan(gap[row]):
                gap[row] = math.inf


@inlined
def _into_lanes(rows, first, filled, lanes):  # type: ignore[no-untyped-def]
    """Some rows, the last of them repeated where they are fewer than lanes."""
    k = rows.shape[1]
    whole = k - k % TILE if filled == WIDTH else 0
    transpose_tiles(rows, first * k, k, lanes, 0, WIDTH, WIDTH, whole)
    for lane in range(WIDTH):
        for i in range(whole, k):
            lanes[i, lane] = rows[first + min(lane, filled - 1), i]


@inlined
def _out_of_lanes(lanes, first, filled, rows):  # type: ignore[no-untyped-def]
    k = rows.shape[1]
    whole = k - k % TILE if filled == WIDTH else 0
    transpose_tiles(lanes, 0, WIDTH, rows, first * k, k, whole, WIDTH)
    for lane in range(filled):
        for i in range(whole, k):
            rows[first + lane, i] = lanes[i, lane]


@inlined
def _multiply(matrix, offset, source, target):  # type: ignore[no-untyped-def]
    """Four rows of the matrix share each load of what they multiply."""
    k = len(offset)
    whole = k - k % 4
    for i in range(0, whole, 4):
        a, b, c, d = spread(offset[i]), spread(offset[i + 1]), spread(offset[i + 2]), spread(offset[i + 3])
        for j in range(k):
            right = load(source, j)
            a, b = fma(spread(matrix[i, j]), right, a), fma(spread(matrix[i + 1, j]), right, b)
            c, d = fma(spread(matrix[i + 2, j]), right, c), fma(spread(matrix[i + 3, j]), right, d)
        store(target, i, a)
        store(target, i + 1, b)
        store(target, i + 2, c)
        store(target, i + 3, d)
    for i in range(whole, k):
        a = spread(offset[i])
        for j in range(k):
            a = fma(spread(matrix[i, j]), load(source, j), a)
        store(target, i, a)


@inlined
def _certify(vector, numbers, v, z, slope, ends):  # type: ignore[no-untyped-def]
    """The gap, f(z), and the gap that is wanted; `slope` is ∇f(z)."""
    weight = spread(numbers[1])
    value, left, apart, size, before = spread(0.0), spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    for i in range(len(vector)):
        here, was, rise = load(z, i), load(v, i), load(slope, i)
        value = fma((rise + spread(vector[i])) * spread(0.5), here, value)
        moved = here - was
        rest = fma(spread(0.0) - weight, moved, rise)
        left, apart = fma(rest, rest, left), fma(moved, moved, apart)
        size, before = fma(here, here, size), fma(was, was, before)
    value = value + spread(numbers[0])
    distance = fma(spread(numbers[5]), root(before), fma(spread(numbers[4]), root(size), spread(numbers[6])))
    distance = distance + root(left)
    store(ends, 0, distance * distance * spread(0.5 / numbers[2]))
    store(ends, 1, value)
    objective = fma(spread(-0.5 * numbers[1]), apart, value)
    store(ends, 2, larger(absolute(objective), spread(1.0)) * spread(numbers[3]))
