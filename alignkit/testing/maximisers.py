"""Closed forms and enumerations of proximal maps: from rows v, (n, k), and λ to maximisers z, (n, k)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from alignkit.contracts import Floats
from alignkit.testing.prox_example import Maximiser

__all__ = [
    "Map",
    "double_well",
    "euclidean",
    "highest_of_many",
    "logarithm",
    "logistic",
    "lowest_piece",
    "nearest",
    "push_the_largest",
    "quadratic",
    "separably",
    "shrink",
    "shrink_together",
    "soft_maximum",
]

#: A function of every entry.
Map = Callable[[Floats], Floats]

#: Of a bracket, until nothing is left of it in float64.
_HALVINGS = 120
#: Of a grid that no maximum between two points escapes.
_CELLS = 4001


def shrink(height: float, centre: float | Floats) -> Maximiser:
    """argmax −a‖z − t‖₁ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        away = v - centre
        result: Floats = centre + np.sign(away) * np.maximum(np.abs(away) - height / weight, 0.0)
        return result

    return solve


def shrink_together(height: float, centre: Floats) -> Maximiser:
    """argmax −a‖z − t‖₂ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        away = v - centre
        length = np.linalg.norm(away, axis=1, keepdims=True)
        result: Floats = centre + away * np.maximum(1.0 - height / (weight * np.maximum(length, 1e-300)), 0.0)
        return result

    return solve


def nearest(height: float, places: Floats) -> Maximiser:
    """argmax −a·min_i ‖z − p_i‖₂ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        best, found = np.full(len(v), -np.inf), v.copy()
        for place in places:
            z = shrink_together(height, place)(v, weight)
            value = -height * np.linalg.norm(z - place, axis=1) - 0.5 * weight * np.sum((z - v) ** 2, axis=1)
            best, found = np.where(value > best, value, best), np.where((value > best)[:, None], z, found)
        return found

    return solve


def separably(slope: Map, bend: float = 0.0) -> Maximiser:
    """argmax Σ p(z_i) − (λ/2)(z_i − v_i)² from p' (any value between the one-sided ones at a kink).

    p' − λ(z − v) falls at least at the rate λ − bend, so that its value at v says how far away its zero can be.
    """

    def solve(v: Floats, weight: float) -> Floats:
        reach = slope(v) / (weight - bend)
        low, high = np.minimum(v, v + reach), np.maximum(v, v + reach)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            rising = slope(middle) - weight * (middle - v) > 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        return 0.5 * (low + high)

    return solve


def quadratic(hessian: Floats, gradient: Floats) -> Maximiser:
    """argmax ½⟨z, Hz⟩ + ⟨h, z⟩ − (λ/2)‖z − v‖²."""

    def solve(v: Floats, weight: float) -> Floats:
        matrix = weight * np.eye(len(hessian)) - hessian
        return np.asarray(np.linalg.solve(matrix, (weight * v + gradient).T).T, dtype=np.float64)

    return solve


def lowest_piece(slopes: Floats, heights: Floats) -> Maximiser:
    """argmax min_i(⟨a_i, z⟩ + b_i) − (λ/2)‖z − v‖², as the best of the maximisers on every set of equal pieces."""

    def solve(v: Floats, weight: float) -> Floats:
        best, found = np.full(len(v), -np.inf), v.copy()
        count, dimension = slopes.shape
        for size in range(1, min(count, dimension + 1) + 1):
            for chosen in map(list, itertools.combinations(range(count), size)):
                A = slopes[chosen]
                # z = v + Aᵀy/λ with Σy = 1, at which the chosen pieces all have the height τ.
                system = np.block([[A @ A.T / weight, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
                right = np.concatenate([-(v @ A.T + heights[chosen]), np.ones((len(v), 1))], axis=1)
                z = v + (right @ np.linalg.pinv(system).T)[:, :size] @ A / weight
                value = (z @ slopes.T + heights).min(axis=1) - 0.5 * weight * np.sum((z - v) ** 2, axis=1)
                better = value > best
                best, found = np.where(better, value, best), np.where(better[:, None], z, found)
        return found

    return solve


def euclidean(matrix: Floats, offset: Floats) -> Maximiser:
    """argmax −‖Bz − t‖₂ − (λ/2)‖z − v‖² with t outside the range of B.

    The dual is min ‖Bᵀy‖²/2λ − ⟨y, Bv − t⟩ over ‖y‖ ≤ 1, whose multiplier ν makes ‖(BBᵀ/λ + νI)⁻¹(Bv − t)‖ = 1.
    """

    def solve(v: Floats, weight: float) -> Floats:
        values, vectors = np.linalg.eigh(matrix @ matrix.T / weight)
        values = np.maximum(values, 0.0)
        coefficients = (v @ matrix.T - offset) @ vectors
        low = np.zeros((len(v), 1))
        high = np.linalg.norm(coefficients, axis=1, keepdims=True)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            long = np.linalg.norm(coefficients / (values + middle), axis=1, keepdims=True) > 1.0
            low, high = np.where(long, middle, low), np.where(long, high, middle)
        y = (coefficients / (values + high)) @ vectors.T
        result: Floats = v - y @ matrix / weight
        return result

    return solve


def soft_maximum(height: float, matrix: Floats, offset: Floats) -> Maximiser:
    """argmax −a·log Σ exp(Bz + b) − (λ/2)‖z − v‖², by Newton's method with halved steps."""

    def loss(z: Floats, v: Floats, weight: float) -> Floats:
        scores = z @ matrix.T + offset
        top = scores.max(axis=1)
        smooth = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        result: Floats = height * smooth + 0.5 * weight * np.sum((z - v) ** 2, axis=1)
        return result

    def solve(v: Floats, weight: float) -> Floats:
        z = v.copy()
        for _ in range(100):
            scores = z @ matrix.T + offset
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            mean = share @ matrix
            curved = np.einsum("nm,mi,mj->nij", share, matrix, matrix) - np.einsum("ni,nj->nij", mean, mean)
            gradient = height * mean + weight * (z - v)
            step = np.linalg.solve(height * curved + weight * np.eye(z.shape[1]), -gradient[:, :, None])[:, :, 0]
            length, before = np.ones((len(z), 1)), loss(z, v, weight)
            for _ in range(30):
                worse = loss(z + length * step, v, weight) > before
                length[worse] /= 2.0
            moved = z + length * step
            better = loss(moved, v, weight) < before
            if not better.any():
                break
            z = np.where(better[:, None], moved, z)
        return z

    return solve


def logarithm(v: Floats, weight: float) -> Floats:
    """argmax Σ log z_i − (λ/2)‖z − v‖², where 1/z = λ(z − v)."""
    root = np.sqrt(v**2 + 4.0 / weight)
    # The form without cancellation on either side.
    result: Floats = np.where(v > 0.0, 0.5 * (v + root), 2.0 / (weight * (root + np.abs(v))))
    return result


def highest_of_many(wave: Map, slope: Map, steepest: float) -> Maximiser:
    """argmax p(z) − (λ/2)(z − v)² from p, p' and the largest |p'|, by a grid and bisection in its best cell."""

    def solve(v: Floats, weight: float) -> Floats:
        grid = v + np.linspace(-steepest / weight, steepest / weight, _CELLS)
        top = np.argmax(wave(grid) - 0.5 * weight * (grid - v) ** 2, axis=1)[:, None]
        low = np.take_along_axis(grid, np.maximum(top - 1, 0), axis=1)
        high = np.take_along_axis(grid, np.minimum(top + 1, grid.shape[1] - 1), axis=1)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            rising = slope(middle) - weight * (middle - v) > 0.0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        return 0.5 * (low + high)

    return solve


def double_well(v: Floats, weight: float) -> Floats:
    """argmax −(z₁² − 1)² − z₂² − (λ/2)‖z − v‖² for k = 1 or 2: the best real root of a cubic, and a line."""
    found = v * (weight / (weight + 2.0))
    for row, place in enumerate(v[:, 0]):
        roots = np.roots([-4.0, 0.0, 4.0 - weight, weight * place])
        # Near a double root its two halves may have an imaginary part, and any point is a candidate.
        real = roots.real
        real = real[np.argsort(-real)]
        found[row, 0] = real[np.argmax(-((real**2 - 1.0) ** 2) - 0.5 * weight * (real - place) ** 2)]
    return found


def push_the_largest(v: Floats, weight: float) -> Floats:
    """argmax ‖z‖_∞ − (λ/2)‖z − v‖²."""
    z, rows = v.copy(), np.arange(len(v))
    largest = np.abs(v).argmax(axis=1)
    z[rows, largest] += np.where(v[rows, largest] >= 0.0, 1.0, -1.0) / weight
    return z


def logistic(x: Floats) -> Floats:
    """1/(1 + exp(−x)) of every entry, without overflow."""
    small = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0.0, 1.0, small) / (1.0 + small)
    return result
