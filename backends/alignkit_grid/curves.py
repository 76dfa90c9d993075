"""Bounds over intervals, of second order, for the smooth functions of one number among the atoms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.expressions import Expression
from alignkit.expressions.atoms.curves import Arctan, Cos, Sigmoid, Sin, Tanh

__all__ = ["bounds_second_derivative", "is_wave", "largest_second_derivative", "largest_value", "taylor_bend"]

#: Beyond this angle nothing is said of where in its period a wave is.
_LARGEST_ANGLE = 1e6
#: Rounding allowed for, of an angle relative to its size and of a second derivative of order 1.
_SLACK = 1e-12


def _of_tanh(x: Floats) -> Floats:
    t = np.tanh(x)
    return -2.0 * t * (1.0 - t * t)


def _of_arctan(x: Floats) -> Floats:
    x = np.clip(x, -1e100, 1e100)
    return -2.0 * x / (1.0 + x * x) ** 2


@dataclass(frozen=True)
class _Saturating:
    """φ'' of a function that is convex left of 0 and concave right of it, and odd up to a constant.

    Arguments:
        second: φ''.
        place: where φ'' is least.
        magnitude: max |φ''|.
        third: max |φ'''|.
    """

    second: Callable[[Floats], Floats]
    place: float
    magnitude: float
    third: float


_ROOT = math.sqrt(3.0)
_SATURATING: dict[type, _Saturating] = {
    Tanh: _Saturating(_of_tanh, math.atanh(1.0 / _ROOT), 4.0 / (3.0 * _ROOT), 2.0),
    Sigmoid: _Saturating(lambda x: 0.125 * _of_tanh(0.5 * x), math.log(2.0 + _ROOT), 1.0 / (6.0 * _ROOT), 0.125),
    Arctan: _Saturating(_of_arctan, 1.0 / _ROOT, 9.0 / (8.0 * _ROOT), 2.0),
}
#: For waves: the phase by which φ'' is a cosine.
_WAVES: dict[type, float] = {Sin: math.pi / 2.0, Cos: math.pi}


def bounds_second_derivative(atom: Expression) -> bool:
    """Whether `taylor_bend` and `largest_value` know the atom."""
    return type(atom) in _SATURATING or type(atom) in _WAVES


def is_wave(atom: Expression) -> bool:
    """Whether the atom has crests again and again."""
    return type(atom) in _WAVES


def largest_second_derivative(atom: Expression) -> float:
    """sup |φ''| of an atom that `taylor_bend` knows."""
    return _SATURATING[type(atom)].magnitude if type(atom) in _SATURATING else 1.0


def taylor_bend(atom: Expression, sign: Floats, centre: Floats, reach: Floats) -> Floats:
    """M with ±φ(t + τ) ≤ ±(φ(t) + φ'(t)τ) + ½Mτ² for |τ| ≤ ρ, rounding included.

    It is the lesser of two: the largest ±φ'' on the interval, and ±φ''(t) + ρ·max|φ'''|/3, as
    φ(t + τ) = φ(t) + φ'(t)τ + τ²∫₀¹(1 − s)φ''(t + sτ)ds.

    Arguments:
        atom: `sin`, `cos`, `tanh`, `sigmoid` or `arctan` of anything.
        sign: ±, 1 or −1.
        centre, reach: t and ρ; all three of shapes that broadcast.

    Example:
        >>> from alignkit.expressions import Variable, sin
        >>> bend = taylor_bend(sin(Variable()), np.array(1.0), np.array([1.0]), np.array(1.0))
        >>> round(float(bend[0]), 6)
        -0.508138
    """
    lower, upper = centre - reach, centre + reach
    if type(atom) in _WAVES:
        phase = _WAVES[type(atom)] + np.where(sign > 0.0, 0.0, math.pi)
        largest = _largest_cosine(lower + phase, upper + phase)
        about = np.cos(centre + phase)
        known = np.abs(centre) < _LARGEST_ANGLE
        about, third = np.where(known, about, 1.0), 1.0
    else:
        shape = _SATURATING[type(atom)]
        # ±φ'' is largest at ∓place.
        place, third = -sign * shape.place, shape.third
        largest = np.maximum(sign * shape.second(lower), sign * shape.second(upper))
        largest = np.where((lower <= place) & (upper >= place), shape.magnitude, largest)
        about = sign * shape.second(centre)
    return np.minimum(largest, about + third * reach / 3.0) + _SLACK


def largest_value(atom: Expression, sign: Floats, lower: Floats, upper: Floats) -> Floats:
    """The largest sign·φ over intervals, sign 1 or −1, rounding included.

    Arguments:
        atom: as for `taylor_bend`, of a variable.
        sign, lower, upper: of shapes that broadcast to (n, *atom.shape), or to that flattened.
    """
    if type(atom) in _WAVES:
        # φ is φ'' turned by half a turn.
        phase = _WAVES[type(atom)] + np.where(sign > 0.0, math.pi, 0.0)
        return _largest_cosine(lower + phase, upper + phase) + _SLACK
    end = np.where(sign > 0.0, upper, lower)
    found: Floats = sign * np.asarray(atom.value(end.reshape(-1, *atom.shape))).reshape(end.shape) + _SLACK
    return found


def _largest_cosine(lower: Floats, upper: Floats) -> Floats:
    slack = _SLACK * np.maximum(1.0, np.maximum(np.abs(lower), np.abs(upper)))
    crest = np.floor((upper + slack) / math.tau) >= np.ceil((lower - slack) / math.tau)
    crest |= slack > _SLACK * _LARGEST_ANGLE
    found: NDArray[np.float64] = np.where(crest, 1.0, np.maximum(np.cos(lower), np.cos(upper)))
    return found
