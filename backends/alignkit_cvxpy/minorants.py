"""Affine minorants of convex atoms, the bricks of a certificate that does not trust the solver.

For a convex φ and any y in the domain of its conjugate, φ(a) ≥ ⟨y, a⟩ − φ*(y) (Fenchel's inequality; R. T. Rockafellar,
"Convex Analysis", 1970, section 12). Where φ is smooth, y is its gradient at the solver's point, and the bound its
tangent there; where it has kinks or an edge, y comes from the solver's duals and is first moved into the domain of φ*.
A poor y makes the bound loose, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from alignkit.contracts import Floats
from alignkit.expressions import Atom
from alignkit.expressions.atom import Reduction
from alignkit.expressions.atoms import elementwise, exponential, norms, order, piecewise, powers, quadratic
from alignkit_cvxpy.lowering import groups, pieces
from alignkit_cvxpy.tree import Link, Node

__all__ = ["AT_DUALS", "MINORANTS", "Bound", "Rule", "minorant"]

#: Slopes and constants of an affine minorant, row by row.
Bound = tuple[Floats, Floats]
#: A function of every entry.
Map = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Hint:
    """What the solver says of an atom: where to look for a minorant, not what to believe.

    Arguments:
        slopes: of each argument, (n, m).
        weights: of the atom's entries, (n, size); slopes are in proportion to them.
    """

    slopes: list[Floats]
    weights: Floats

    def mirrored(self) -> Hint:
        """The same for the atom's negative at minus its arguments."""
        return Hint([-slope for slope in self.slopes], self.weights)


#: From (atom, weights (n, size), values of each argument (n, m), hint) to the slopes used and the constants (n,).
Rule = Callable[[Any, Floats, list[Floats], Hint], tuple[list[Floats], Floats]]

#: Rounding of a tangent's constant, relative to the numbers it is a difference of.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)
#: How far inside the domain the tangent is taken of a point that is not, relative to its distance.
_INSIDE = 1e-6


def minorant(
    node: Node,
    weights: Floats,
    points: Floats,
    duals: list[Floats],
    *,
    rules: Mapping[type[Atom], Rule],
    claimed: Floats | None = None,
) -> Bound:
    """Bound ±⟨weights, node(z)⟩ from below by an affine function of z, row by row; + for convex nodes, − for concave.

    Arguments:
        node: an atom of the tree.
        weights: (n, node.atom.size), nonnegative.
        points: z, (n, k), where the bound should be tight.
        duals: for each link the solver's slopes, (n, m).
        rules: `MINORANTS`, or `AT_DUALS`.
        claimed: the solver's own weights, where they differ from `weights`.

    Returns:
        slopes p, (n, k), and constants κ, (n,): the sum is at least ⟨p, z⟩ + κ for every z.
    """
    values = [_value(link, points) for link in node.links]
    # A slope of the wrong sign would ask for a majorant of a convex argument.
    hint = Hint([_signed(link, duals[link.index]) for link in node.links], weights if claimed is None else claimed)
    slopes, constants = rules[type(node.atom)](node.atom, weights, values, hint)
    linear = np.zeros_like(points)
    for link, slope, guess in zip(node.links, slopes, hint.slopes, strict=True):
        step, shift = link.moved(slope)
        linear = linear + step
        constants = constants + shift
        for factor, inner in link.nested:
            inward, guessed = (
                (1.0 if inner.is_convex else -1.0) * (one if factor is None else np.asarray(one @ factor))
                for one in (slope, guess)
            )
            step, shift = minorant(
                inner, np.maximum(inward, 0.0), points, duals, rules=rules, claimed=np.maximum(guessed, 0.0)
            )
            # Disciplined convexity makes `inward` nonnegative; should rounding break that, the row has no bound.
            shift = np.where((inward < 0.0).any(axis=1), -np.inf, shift)
            linear, constants = linear + step, constants + shift
    return linear, constants


def _value(link: Link, points: Floats) -> Floats:
    """The argument at the points; 0, where every bound holds too, outside its domain."""
    with np.errstate(all="ignore"):
        value = link.expression.value(points) if link.expression.variables() else link.offset
    value = np.where(np.isfinite(value), value, 0.0)
    return np.broadcast_to(np.reshape(value, (-1, link.size)), (len(points), link.size))


def _signed(link: Link, slopes: Floats) -> Floats:
    slopes = np.nan_to_num(slopes, nan=0.0, posinf=0.0, neginf=0.0)
    if link.relation == "==":
        return slopes
    return np.maximum(slopes, 0.0) if link.relation == ">=" else np.minimum(slopes, 0.0)


# ---- the two rules for most atoms


def _tangent(atom: Atom, weights: Floats, values: list[Floats], _hint: Hint) -> tuple[list[Floats], Floats]:
    """The tangent at the values; where they are outside the domain or on its edge, at a point inside."""
    sign, rows = 1.0 if atom.is_atom_convex else -1.0, len(weights)
    xp = array_namespace(weights)
    points = [value.reshape(rows, *arg.shape) for value, arg in zip(values, atom.args, strict=True)]
    for place, bound, _ in atom._domain():
        inside = bound + _INSIDE * (1.0 + np.abs(points[place] - bound))
        points[place] = np.where(points[place] > bound, points[place], inside)
    with np.errstate(all="ignore"):
        found = atom._numeric(xp, points)
        weighted = sign * weights.reshape(rows, *atom.shape)
        pulled = atom._pullback(xp, points, found, weighted)
        slopes = [slope.reshape(rows, -1) for slope in pulled]
        products = [slope * point.reshape(rows, -1) for slope, point in zip(slopes, points, strict=True)]
        level = np.where(weighted != 0.0, weighted * found, 0.0).reshape(rows, -1)
        constants = level.sum(axis=1) - sum(product.sum(axis=1) for product in products)
        size = np.abs(level).sum(axis=1) + sum(np.abs(product).sum(axis=1) for product in products)
    return slopes, constants - _ROUNDING * size


def _fenchel(atom: Atom, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    """The solver's slopes, moved into the domain of φ*, for a convex atom of one argument that knows its conjugate."""
    if not isinstance(atom, Reduction):
        return _entrywise(weights, hint, atom.project_dual, atom.conjugate)
    members = groups(atom)
    whole = atom if atom.axis is None else atom.of_group()
    shares = hint.slopes[0][:, members] / _safe(hint.weights)[:, :, None]
    dual = whole.project_dual(shares.reshape(-1, *whole.args[0].shape))
    level = whole.conjugate(dual).reshape(weights.shape)
    result = np.empty(values[0].shape)
    result[:, members] = weights[:, :, None] * dual.reshape(shares.shape)
    return [result], -np.sum(weights * level, axis=1)


def _entrywise(weights: Floats, hint: Hint, project: Map, conjugate: Map) -> tuple[list[Floats], Floats]:
    dual = project(hint.slopes[0] / _safe(hint.weights))
    with np.errstate(over="ignore", invalid="ignore"):
        level = np.where(weights > 0.0, weights * conjugate(dual), 0.0)
    return [weights * dual], -np.sum(level, axis=1)


def _safe(weights: Floats) -> Floats:
    return np.where(weights > 0.0, weights, 1.0)


def _mirrored(convex: Callable[[Any], Atom]) -> Rule:
    """The rule for −ψ(−a), concave, from the convex ψ."""

    def apply(atom: Any, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
        found, constants = _fenchel(convex(atom), weights, values, hint.mirrored())
        return [-slope for slope in found], constants

    return apply


# ---- atoms of several arguments, and of pieces


def _maximum(_atom: Any, weights: Floats, _values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    stacked = np.stack(hint.slopes, axis=-1)
    shares = norms.project_simplex((stacked / _safe(hint.weights)[..., None]).reshape(-1, len(hint.slopes)))
    return list(np.moveaxis(weights[..., None] * shares.reshape(stacked.shape), -1, 0)), np.zeros(len(weights))


def _minimum(atom: Any, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    found, constants = _maximum(atom, weights, values, hint.mirrored())
    return [-slope for slope in found], constants


def _pieces(atom: Any, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    linear = pieces(atom)
    if not atom.is_atom_convex:
        linear = piecewise.PiecewiseLinear(linear.args[0], linear.breakpoints, -linear.values)
    return _fenchel(linear, weights, values, hint)


def _geo_mean(atom: Any, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    """⟨u, a⟩ ≥ Π a_i^w_i for all a ≥ 0 exactly where Π (u_i/w_i)^w_i ≥ 1: the weighted means of u_i·a_i/w_i."""
    members = groups(atom)
    shares = -hint.slopes[0][:, members] / _safe(hint.weights)[:, :, None]
    upward = np.maximum(shares, np.finfo(np.float64).tiny)
    mean = np.exp(np.sum(atom.weights * np.log(upward / atom.weights), axis=-1, keepdims=True))
    upward = upward / np.minimum(mean, 1.0)
    result = np.empty(values[0].shape)
    result[:, members] = -weights[:, :, None] * upward
    return [result], np.zeros(len(weights))


def _quad_over_lin(_atom: Any, weights: Floats, _values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    """⟨s, x⟩ + ty ≤ Σ x²/y for all x and y > 0 exactly where t ≤ −‖s‖²/4."""
    along, divisor = (slope / _safe(hint.weights) for slope in hint.slopes)
    divisor = np.minimum(divisor, -np.sum(along**2, axis=1, keepdims=True) / 4.0)
    return [weights * along, weights * divisor], np.zeros(len(weights))


# ---- concave atoms whose domain has an edge, where the slope is large: φ* of φ = −atom


def _edged(conjugate: Callable[[Any, Floats], Floats]) -> Rule:
    """The rule for an increasing concave function of a number, from (atom, y) to φ*(y) for y < 0."""

    def apply(atom: Any, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
        (beside,), _ = _tangent(atom, np.ones_like(weights), values, hint)
        # A slope that is no slope gives way to that at the solver's point.
        return _entrywise(
            weights, hint, lambda dual: np.where(dual < 0.0, dual, beside), lambda dual: conjugate(atom, dual)
        )

    return apply


def _conjugate_of_root(atom: Any, dual: Floats) -> Floats:
    found: Floats = (1.0 - atom.p) * (-atom.p / dual) ** (atom.p / (1.0 - atom.p))
    return found


def _powered(atom: Any, weights: Floats, values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    rule = _tangent if atom.is_even else _edged(_conjugate_of_root) if atom.is_atom_concave else _fenchel
    return rule(atom, weights, values, hint)


def _entr(_atom: Any, weights: Floats, _values: list[Floats], hint: Hint) -> tuple[list[Floats], Floats]:
    return _entrywise(weights, hint, lambda dual: dual, lambda dual: np.exp(dual - 1.0))


#: From an atom's class to the rule that bounds it.
MINORANTS: dict[type[Atom], Rule] = {
    elementwise.Abs: _fenchel,
    elementwise.Pos: _fenchel,
    elementwise.Neg: _fenchel,
    elementwise.Square: _tangent,
    elementwise.Huber: _tangent,
    exponential.Exp: _tangent,
    exponential.Logistic: _tangent,
    exponential.Log: _edged(lambda atom, dual: -1.0 - np.log(-dual)),
    exponential.Log1p: _edged(lambda atom, dual: -1.0 - np.log(-dual) - dual),
    exponential.Entr: _entr,
    powers.Power: _powered,
    powers.Sqrt: _powered,
    powers.InvPos: _powered,
    powers.GeoMean: _geo_mean,
    norms.Norm1: _fenchel,
    norms.Norm2: _fenchel,
    norms.NormInf: _fenchel,
    norms.PNorm: _fenchel,
    norms.SigmaMax: _fenchel,
    order.Max: _fenchel,
    order.Min: _mirrored(lambda atom: order.Max(atom.args[0], atom.axis)),
    order.SumLargest: _fenchel,
    order.SumSmallest: _mirrored(lambda atom: order.SumLargest(atom.args[0], atom.k, atom.axis)),
    order.LogSumExp: _tangent,
    order.Maximum: _maximum,
    order.Minimum: _minimum,
    quadratic.SumSquares: _tangent,
    quadratic.QuadForm: _tangent,
    quadratic.QuadOverLin: _quad_over_lin,
    piecewise.Clip: _pieces,
    piecewise.PiecewiseLinear: _pieces,
}

#: The same, at the solver's slopes wherever the conjugate is known. An error of the solver's point makes an error in
#: the slope of a tangent there, which a bound that has kinks, or an edge, takes in full.
AT_DUALS: dict[type[Atom], Rule] = MINORANTS | dict.fromkeys(
    (
        elementwise.Square,
        elementwise.Huber,
        exponential.Exp,
        exponential.Logistic,
        order.LogSumExp,
        quadratic.SumSquares,
    ),
    _fenchel,
)
