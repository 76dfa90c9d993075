"""Covering programs, min Σ x_j subject to Ax ≥ 1 and x ≥ 0 with A ≥ 0, by an interior-point method.

Solutions are interior: they stay away from the faces of the polytope as far as the wanted precision allows. Where
constraints are added one after another, this is what makes the next solution violate few of those left out; vertices
jump from round to round. Both programs have interior points that are known in advance, so that no program fails and
every iterate is feasible.

Source: S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM Journal on Optimization 2,
1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats

__all__ = ["CoveringSolution", "solve_covering"]

_ITERATIONS_MAX = 60
# The share of the way to the boundary that a step may take.
_STEP = 0.98


@dataclass(frozen=True, eq=False)
class CoveringSolution:
    """Feasible points of the program and of its dual, max Σ y_i subject to Aᵀy ≤ 1 and y ≥ 0.

    Arguments:
        masses: x, (j,), with Ax ≥ 1.
        prices: y, (i,), with Aᵀy ≤ 1, so that Σ y is at most the least Σ x.
    """

    masses: Floats
    prices: Floats

    @property
    def gap(self) -> float:
        """Σ x − Σ y, relative to Σ x: how far from the least Σ x may be."""
        total = float(self.masses.sum())
        return (total - float(self.prices.sum())) / total


def solve_covering(matrix: Floats, *, precision: float) -> CoveringSolution:
    """Solve min Σ x subject to Ax ≥ 1, x ≥ 0.

    Arguments:
        matrix: A, (i, j), nonnegative; every row and every column has a positive entry.
        precision: the relative gap to stop at; rounding may stop it earlier.

    Example:
        >>> found = solve_covering(np.array([[1.0, 0.0], [0.5, 2.0]]), precision=1e-9)
        >>> found.masses.round(6), found.prices.round(6)
        (array([1.  , 0.25]), array([0.75, 0.5 ]))
    """
    x = np.full(matrix.shape[1], 2.0 / matrix.sum(axis=1).min())
    y = np.full(matrix.shape[0], 0.5 / matrix.sum(axis=0).max())
    found = CoveringSolution(x, y)
    for _ in range(_ITERATIONS_MAX):
        s, z = matrix @ x - 1.0, 1.0 - matrix.T @ y
        if s.min() <= 0.0 or z.min() <= 0.0:
            # Rounding has used up what was left of the interior.
            break
        found = CoveringSolution(x, y)
        if found.gap <= precision:
            break
        newton = _Newton(matrix, x, s, y, z)
        mean = (x @ z + s @ y) / (len(x) + len(y))
        dx, ds, dy, dz = newton.step(-x * z, -s * y)
        primal, dual = min(_room(x, dx), _room(s, ds)), min(_room(y, dy), _room(z, dz))
        ahead = (x + primal * dx) @ (z + dual * dz) + (s + primal * ds) @ (y + dual * dy)
        centre = mean * (ahead / (len(x) + len(y)) / mean) ** 3
        dx, ds, dy, dz = newton.step(centre - x * z - dx * dz, centre - s * y - ds * dy)
        x = x + min(1.0, _STEP * min(_room(x, dx), _room(s, ds))) * dx
        y = y + min(1.0, _STEP * min(_room(y, dy), _room(z, dz))) * dy
    return found


def _room(values: Floats, direction: Floats) -> float:
    """The longest step, at most 1/_STEP, along which positive values stay nonnegative."""
    return 1.0 / max(_STEP, float((-direction / values).max()))


class _Newton:
    """Newton's equations at a point that is feasible for both programs, factorised once for any right-hand side."""

    def __init__(self, matrix: Floats, x: Floats, s: Floats, y: Floats, z: Floats) -> None:
        from scipy.linalg import cho_factor

        self.matrix, self.x, self.s, self.y, self.z = matrix, x, s, y, z
        self.wide = matrix.shape[0] < matrix.shape[1]
        if self.wide:
            scaled = matrix * np.sqrt(x / z)
            normal, diagonal = scaled @ scaled.T, s / y
        else:
            scaled = matrix * np.sqrt(y / s)[:, None]
            normal, diagonal = scaled.T @ scaled, z / x
        # Jacobi's scaling: entries of the diagonal are many orders apart.
        normal.flat[:: len(normal) + 1] += diagonal
        self.scale = 1.0 / np.sqrt(normal.diagonal())
        normal *= self.scale[:, None] * self.scale
        normal.flat[:: len(normal) + 1] += 1e-14
        self.factor = cho_factor(normal, lower=True, overwrite_a=True, check_finite=False)

    def step(self, to_xz: Floats, to_sy: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """(dx, ds, dy, dz) with A dx = ds, Aᵀdy = −dz, z dx + x dz = to_xz and y ds + s dy = to_sy."""
        a, x, s, y, z = self.matrix, self.x, self.s, self.y, self.z
        if self.wide:
            dy = self._solve(to_sy / y - a @ (to_xz / z))
            dz = -(a.T @ dy)
            dx = (to_xz - x * dz) / z
            return dx, a @ dx, dy, dz
        dx = self._solve(a.T @ (to_sy / s) + to_xz / x)
        ds = a @ dx
        dy = (to_sy - y * ds) / s
        return dx, ds, dy, -(a.T @ dy)

    def _solve(self, right: Floats) -> Floats:
        from scipy.linalg import cho_solve

        return np.asarray(self.scale * cho_solve(self.factor, self.scale * right, check_finite=False))
