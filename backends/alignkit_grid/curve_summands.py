"""Summands Σ_i c_i·φ(⟨a_i, w⟩ + b_i): functions of one number of affine arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions import Variable, inner
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import Elementwise
from alignkit.expressions.atoms.piecewise import Clip, PiecewiseLinear
from alignkit_grid.curves import (
    bounds_second_derivative,
    is_wave,
    largest_second_derivative,
    largest_value,
    taylor_bend,
)
from alignkit_grid.majorant import ROUNDING, Looseness, Majorant, Summand
from alignkit_grid.summands import SMOOTH, affine_inside

__all__ = ["curve_summands"]

#: Share of what a Taylor polynomial adds at most, above which the largest value on the interval takes its place.
_WIDE = 0.4


def curve_summands(atom: Elementwise, coefficients: Floats, dimension: int) -> list[Summand] | None:
    """The summands of ⟨coefficients, vec(atom)⟩, or None where no bound of the atom is known.

    Arguments:
        atom: of an affine argument.
        coefficients: (atom.size,).
        dimension: k.
    """
    matrix, offset = affine_inside(atom, dimension)
    curve = atom.with_args((Variable(atom.args[0].shape),))
    assert isinstance(curve, Elementwise)
    if bounds_second_derivative(curve):
        return [_SmoothCurves(curve, matrix, offset, coefficients)]
    convex, concave = curve.is_atom_convex, curve.is_atom_concave
    if convex or concave:
        up = np.maximum(coefficients, 0.0) if convex else np.minimum(coefficients, 0.0)
        down = coefficients - up
        found: list[Summand] = [_Chords(curve, matrix, offset, up)] if up.any() else []
        return [*found, _TangentCurves(curve, matrix, offset, down)] if down.any() else found
    if isinstance(curve, Clip):
        return [_Polygons(curve, matrix, offset, coefficients, np.array([curve.lower, curve.upper]))]
    if isinstance(curve, PiecewiseLinear):
        return [_Polygons(curve, matrix, offset, coefficients, curve.breakpoints[1:-1])]
    return None


@dataclass(frozen=True, eq=False)
class _Curves:
    """Σ_i c_i·φ(⟨a_i, w⟩ + b_i).

    Arguments:
        atom: φ, of a variable of shape `shape`.
        matrix, offset, coefficients: a (m, k), b (m,) and c (m,).
    """

    atom: Atom
    matrix: Floats
    offset: Floats
    coefficients: Floats

    @property
    def looseness(self) -> Looseness:
        return Looseness()

    @property
    def _steepest(self) -> float:
        """The largest slope of a summand, where φ has a Lipschitz constant."""
        return self.atom.lipschitz * float((np.abs(self.coefficients) * np.linalg.norm(self.matrix, axis=1)).max())

    def _arguments(self, centres: Floats, half: float) -> tuple[Floats, Floats]:
        """⟨a, c⟩ + b, (n, m), and how far it moves on the cube, (m,)."""
        reach = half * np.abs(self.matrix).sum(axis=1)
        return centres @ self.matrix.T + self.offset, reach * (1.0 + ROUNDING)

    def _values(self, arguments: Floats) -> Floats:
        """c_i·φ, (n, m)."""
        shaped = arguments.reshape(len(arguments), *self.atom.shape)
        return np.asarray(self.atom.value(shaped)).reshape(arguments.shape) * self.coefficients

    def _slopes(self, arguments: Floats) -> Floats:
        """c_i·φ', (n, m)."""
        weighed = inner(self.coefficients.reshape(self.atom.shape), self.atom)
        shaped = arguments.reshape(len(arguments), *self.atom.shape)
        return np.asarray(weighed.gradient(shaped)).reshape(arguments.shape)

    def add(self, total: Majorant, centres: Floats, half: float) -> None:
        arguments, reach = self._arguments(centres, half)
        values = self._values(arguments)
        slopes = self._bounded(total, arguments, reach, values)
        total.value += values.sum(axis=1)
        total.size += np.abs(values).sum(axis=1)
        total.size += (np.abs(slopes) * (np.abs(arguments) + np.abs(self.offset) + reach)).sum(axis=1)
        total.slope += slopes @ self.matrix

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        """Add all but the value and the slopes, which are returned, (n, m)."""
        raise NotImplementedError


class _SmoothCurves(_Curves):
    """φ with a bounded second derivative."""

    @property
    def looseness(self) -> Looseness:
        steep = np.abs(self.coefficients) * np.einsum("mk,mk->m", self.matrix, self.matrix)
        steep *= largest_second_derivative(self.atom)
        heights = np.abs(self.coefficients) if is_wave(self.atom) else np.zeros(1)
        return Looseness(
            float(steep.sum()), float(np.linalg.norm(steep)), float(heights.sum()), float(np.linalg.norm(heights))
        )

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        sign = np.where(self.coefficients > 0.0, 1.0, -1.0)
        height = np.abs(self.coefficients)
        bends = height * taylor_bend(self.atom, sign, arguments, reach)
        slopes = self._slopes(arguments)
        # Where the interval is long the largest value says more.
        top = height * largest_value(self.atom, sign, arguments - reach, arguments + reach) - values
        wide = _WIDE * (np.abs(slopes) + 0.5 * np.maximum(bends, 0.0) * reach) * reach > top
        total.excess += np.where(wide, top, 0.0).sum(axis=1)
        outer = np.einsum("mi,mj->mij", self.matrix, self.matrix).reshape(len(self.matrix), -1)
        total.hessian += (np.where(wide, 0.0, bends) @ outer).reshape(total.hessian.shape)
        return np.where(wide, 0.0, slopes)


class _TangentCurves(_Curves):
    """c·φ concave."""

    @property
    def looseness(self) -> Looseness:
        if isinstance(self.atom, SMOOTH):
            return Looseness()
        return Looseness(ridge=2.0 * self._steepest, along=self.matrix.shape[1] - 1)

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        return self._slopes(arguments)


class _Chords(_Curves):
    """c·φ convex."""

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        lower, upper = self._values(arguments - reach), self._values(arguments + reach)
        total.size += (np.abs(lower) + np.abs(upper)).sum(axis=1)
        total.excess += np.maximum(0.5 * (lower + upper) - values, 0.0).sum(axis=1)
        found: Floats = (upper - lower) / np.where(reach > 0.0, 2.0 * reach, 1.0)
        return found


@dataclass(frozen=True, eq=False)
class _Polygons(_Curves):
    """φ linear between breakpoints, (p,): the line between its ends, lifted above the breakpoints in between."""

    breakpoints: Floats

    @property
    def looseness(self) -> Looseness:
        return Looseness(ridge=2.0 * self._steepest, along=self.matrix.shape[1] - 1)

    def _bounded(self, total: Majorant, arguments: Floats, reach: Floats, values: Floats) -> Floats:
        lower, upper = self._values(arguments - reach), self._values(arguments + reach)
        slopes: Floats = (upper - lower) / np.where(reach > 0.0, 2.0 * reach, 1.0)
        above = 0.5 * (lower + upper) - values
        total.size += (np.abs(lower) + np.abs(upper)).sum(axis=1)
        for place in self.breakpoints:
            height = self._values(np.full((1, arguments.shape[1]), place))
            lifted = height - slopes * (place - arguments) - values
            above = np.where(np.abs(place - arguments) < reach, np.maximum(above, lifted), above)
        total.excess += np.maximum(above, 0.0).sum(axis=1)
        return slopes
