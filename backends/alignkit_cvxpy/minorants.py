"""Affine minorants of convex atoms, the bricks of a certificate that does not trust the solver.

For a convex φ and any y in the domain of its conjugate, φ(a) ≥ ⟨y, a⟩ − φ*(y) (Fenchel's inequality; R. T. Rockafellar,
"Convex Analysis", 1970, section 12). The y's come from the solver's duals, or from gradients at its solution, and are
first moved into the domain: a poor y makes the bound loose, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions import Atom
from alignkit.expressions.atoms import elementwise, norms, order, quadratic
from alignkit_cvxpy.lowering import groups
from alignkit_cvxpy.tree import Link, Node

__all__ = ["MINORANTS", "Bound", "minorant"]

#: Slopes and constants of an affine minorant, row by row.
Bound = tuple[Floats, Floats]
#: From (atom, weights (n, size), values and slopes of each argument (n, m)) to the slopes used and the constants (n,).
Rule = Callable[[Any, Floats, list[Floats], list[Floats]], tuple[list[Floats], Floats]]


def minorant(node: Node, weights: Floats, points: Floats, duals: list[Floats]) -> Bound:
    """Bound ±⟨weights, node(z)⟩ from below by an affine function of z, row by row; + for convex nodes, − for concave.

    Arguments:
        node: an atom of the tree.
        weights: (n, node.atom.size), nonnegative.
        points: z, (n, k), where the bound should be tight.
        duals: for each link the solver's slopes, (n, m).

    Returns:
        slopes p, (n, k), and constants κ, (n,): the sum is at least ⟨p, z⟩ + κ for every z.
    """
    values = [_value(link, points) for link in node.links]
    # A slope of the wrong sign would ask for a majorant of a convex argument.
    hints = [_signed(link, duals[link.index]) for link in node.links]
    slopes, constants = MINORANTS[type(node.atom)](node.atom, weights, values, hints)
    linear = np.zeros_like(points)
    for link, slope in zip(node.links, slopes, strict=True):
        step, shift = link.moved(slope)
        linear = linear + step
        constants = constants + shift
        for factor, inner in link.nested:
            carried = slope if factor is None else np.asarray(slope @ factor)
            inward = carried if inner.is_convex else -carried
            step, shift = minorant(inner, np.maximum(inward, 0.0), points, duals)
            # Disciplined convexity makes `inward` nonnegative; should rounding break that, the row has no bound.
            shift = np.where((inward < 0.0).any(axis=1), -np.inf, shift)
            linear, constants = linear + step, constants + shift
    return linear, constants


def _value(link: Link, points: Floats) -> Floats:
    value = link.expression.value(points) if link.expression.variables() else link.offset
    return np.broadcast_to(np.reshape(value, (-1, link.size)), (len(points), link.size))


def _signed(link: Link, slopes: Floats) -> Floats:
    slopes = np.nan_to_num(slopes, nan=0.0, posinf=0.0, neginf=0.0)
    if link.relation == "==":
        return slopes
    return np.maximum(slopes, 0.0) if link.relation == ">=" else np.minimum(slopes, 0.0)


# ---- entry by entry


def _abs(_atom: Any, weights: Floats, _values: list[Floats], slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    return [np.clip(slopes[0], -weights, weights)], np.zeros(len(weights))


def _pos(_atom: Any, weights: Floats, _values: list[Floats], slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    return [np.clip(slopes[0], 0.0, weights)], np.zeros(len(weights))


def _square(_atom: Any, weights: Floats, values: list[Floats], _slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    # The tangent at a: φ*(2a) = a².
    return [2.0 * weights * values[0]], -np.sum(weights * values[0] ** 2, axis=1)


def _huber(atom: Any, weights: Floats, values: list[Floats], _slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    inner = np.clip(values[0], -atom.M, atom.M)
    return [2.0 * weights * inner], -np.sum(weights * inner**2, axis=1)


def _maximum(_atom: Any, weights: Floats, values: list[Floats], slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    shares = _shares(np.stack(slopes, axis=-1), np.stack(values, axis=-1))
    return list(np.moveaxis(weights[..., None] * shares, -1, 0)), np.zeros(len(weights))


def _minimum(atom: Any, weights: Floats, values: list[Floats], slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    found, constants = _maximum(atom, weights, [-value for value in values], [-slope for slope in slopes])
    return [-slope for slope in found], constants


def _shares(slopes: Floats, values: Floats) -> Floats:
    """Points of the simplex along the last axis, in proportion to slopes; where these vanish, at the largest value."""
    positive = np.maximum(slopes, 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    largest = np.arange(values.shape[-1]) == values.argmax(axis=-1)[..., None]
    return np.where(total > 0, positive / np.where(total > 0, total, 1.0), largest)


# ---- reductions, on groups (n, size, count) with weights (n, size, 1)

Grouped = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]


def _reduced(rule: Grouped) -> Rule:
    """A rule from a function of (weights, values, slopes) by group, to slopes by group and constants (n,)."""

    def apply(atom: Atom, weights: Floats, values: list[Floats], slopes: list[Floats]) -> tuple[list[Floats], Floats]:
        members = groups(atom)
        found, constants = rule(weights[:, :, None], values[0][:, members], slopes[0][:, members])
        result = np.empty(values[0].shape)
        result[:, members] = found
        return [result], constants

    return apply


def _norm1(weights: Floats, _values: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    return np.clip(slopes, -weights, weights), np.zeros(len(weights))


def _norm2(weights: Floats, _values: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    length = np.sqrt(np.sum(slopes**2, axis=-1, keepdims=True))
    return slopes * np.minimum(1.0, weights / np.where(length > 0, length, 1.0)), np.zeros(len(weights))


def _norm_inf(weights: Floats, _values: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    length = np.sum(np.abs(slopes), axis=-1, keepdims=True)
    return slopes * np.minimum(1.0, weights / np.where(length > 0, length, 1.0)), np.zeros(len(weights))


def _max(weights: Floats, values: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    return weights * _shares(slopes, values), np.zeros(len(weights))


def _min(weights: Floats, values: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    return -weights * _shares(-slopes, -values), np.zeros(len(weights))


def _log_sum_exp(weights: Floats, values: Floats, _slopes: Floats) -> tuple[Floats, Floats]:
    # The tangent at a has the softmax p as slopes, and φ*(p) = Σ p log p.
    shifted = values - values.max(axis=-1, keepdims=True)
    shares = np.exp(shifted)
    total = shares.sum(axis=-1, keepdims=True)
    shares /= total
    entropy = np.sum(shares * (shifted - np.log(total)), axis=-1)
    return weights * shares, -np.sum(weights[..., 0] * entropy, axis=1)


def _sum_squares(weights: Floats, values: Floats, _slopes: Floats) -> tuple[Floats, Floats]:
    return 2.0 * weights * values, -np.sum(weights * values**2, axis=(1, 2))


def _quad_form(atom: Any, weights: Floats, values: list[Floats], _slopes: list[Floats]) -> tuple[list[Floats], Floats]:
    sign = 1.0 if atom.is_atom_convex else -1.0
    half = sign * weights * np.asarray(values[0] @ atom.P)
    return [2.0 * half], -np.sum(half * values[0], axis=1)


#: From an atom's class to the rule that bounds it.
MINORANTS: dict[type[Atom], Rule] = {
    elementwise.Abs: _abs,
    elementwise.Square: _square,
    elementwise.Huber: _huber,
    elementwise.Pos: _pos,
    norms.Norm1: _reduced(_norm1),
    norms.Norm2: _reduced(_norm2),
    norms.NormInf: _reduced(_norm_inf),
    order.Max: _reduced(_max),
    order.Min: _reduced(_min),
    order.LogSumExp: _reduced(_log_sum_exp),
    order.Maximum: _maximum,
    order.Minimum: _minimum,
    quadratic.SumSquares: _reduced(_sum_squares),
    quadratic.QuadForm: _quad_form,
}
