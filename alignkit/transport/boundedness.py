"""Whether a reward outgrows λ times the cost, decided from its structure before anything is solved."""

from __future__ import annotations

import math

import numpy as np

from alignkit.contracts import Displacement
from alignkit.errors import UnboundedTransportError
from alignkit.expressions import Expression, Subspace
from alignkit.expressions.arrays import Floats
from alignkit.expressions.growth import EQUAL, Growth, name_summands
from alignkit.expressions.poles import Pole, is_defined_everywhere, pole_among
from alignkit.expressions.splitting import split
from alignkit.transport.costs import Euclidean, PNorm
from alignkit.transport.separable import Separable, separable_form

__all__ = ["check_bounded", "dominated_by_penalty", "unseen_slope"]

#: Relative distance within which the two bounds of a critical λ are called one number.
_ONE_NUMBER = 1e-9
#: Entries of R up to which the steepest direction is searched for; the linear program takes a second there.
_SEARCHED = 2**19


def check_bounded(
    nonlinear: Expression, weight: float, *, reward: Expression | None = None, subspace: Subspace | None = None
) -> None:
    """Raise when argmax_z f(z) − (λ/2)‖z − v‖² has no maximiser, as far as structure decides it.

    With H the Hessian of the quadratic summands and all other summands of at most linear growth, the supremum is
    infinite for λ < λ_max(H), finite for λ > λ_max(H), and at λ = λ_max(H) infinite for almost every v. A reward that
    grows faster than every quadratic along some direction, or is +∞ around some point, has no maximiser for any λ.
    Others pass unless their growth is proved too large; the backends then find out at solve time.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).
        weight: λ, in units of reward per cost.
        reward: r as the user wrote it, for the message; f itself if None.
        subspace: Q with r(x) = f(Qx) + …; needed with `reward`.

    Raises:
        UnboundedTransportError: with the summand that grows most, and the critical λ.

    Example:
        >>> from alignkit.expressions import Variable, sum_squares
        >>> check_bounded(sum_squares(Variable(2)), 2.5)
        >>> try:
        ...     check_bounded(sum_squares(Variable(2)), 1.5)
        ... except UnboundedTransportError as error:
        ...     print(error.ways_out[0])
        ak.Wasserstein(weight=λ) with λ > 2.
    """
    if nonlinear.is_concave() or (math.isfinite(nonlinear.lipschitz) and is_defined_everywhere(nonlinear)):
        return
    growth = Growth(nonlinear)
    if growth.stays_below(weight) or not growth.outgrows(weight):
        return

    def written(w: Floats) -> Floats:
        return w if subspace is None else subspace.embed(w)

    shown = nonlinear if reward is None else reward
    if growth.pole is not None:
        pole = pole_among(shown, written(growth.pole.point).reshape(1, *shown.variables()[0].shape))
        raise _infinite(pole or growth.pole)
    raise _outgrown(growth, weight, name_summands(shown, written(growth.direction)))


def dominated_by_penalty(nonlinear: Expression, weight: float) -> bool:
    """Whether f(z) − (λ/2)‖z‖² is proved strictly concave, though f itself need not be concave.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).
        weight: λ, in units of reward per cost.

    Returns:
        True when λ exceeds the curvature of the quadratic summands and the other summands are concave, or when f is a
        sum of piecewise quadratics of single coordinates, each of curvature below λ and without convex kinks.

    Example:
        >>> from alignkit.expressions import Variable, norm1, sum_squares
        >>> w = Variable(2)
        >>> dominated_by_penalty(sum_squares(w) - norm1(w), 2.5), dominated_by_penalty(norm1(w), 2.5)
        (True, False)
    """
    if nonlinear.is_concave():
        return True
    parts = split(nonlinear)
    if all(term.bends(-1) for term in parts.terms) and parts.critical_weight < weight * (1 - EQUAL):
        return True
    form = separable_form(parts)
    return isinstance(form, Separable) and form.obstacle(weight) is None


def unseen_slope(penalty: Displacement, weight: float) -> float:
    """How fast ⟨g, δ⟩ rises with N(δ) along the δ that f does not see, where the cost is a norm N.

    f(v + Rδ) is the same for every δ with Rδ = 0. If ⟨g, δ⟩ > λN(δ) for one of them, its multiples gain without end,
    whatever f is. The largest ratio is that of a linear program for ℓ1 and ℓ∞, and by duality min_s N*(g − Rᵀs).

    Arguments:
        penalty: h = N, R with orthonormal rows, and g.
        weight: λ; no direction is searched for where the dual norm of g is below it, as none is steeper.

    Returns:
        the ratio of the steepest direction found, which is the largest ratio where R is small enough to search, else a
        lower bound of it; 0 where f sees every direction.

    Example:
        >>> import numpy as np
        >>> from alignkit.transport.costs import L1
        >>> penalty = Displacement(L1(), np.array([[0.6, 0.8, 0.0]]), np.array([0.8, -0.6, 0.3]))
        >>> round(unseen_slope(penalty, 0.7), 9)
        0.714285714
    """
    cost, rows, linear = penalty.cost, penalty.rows, penalty.linear
    assert isinstance(cost, Euclidean | PNorm) and cost.power == 1
    if rows is None or not linear.any():
        return 0.0

    def slope_along(direction: Floats) -> float:
        # Twice, as what rounding leaves of the row space is of the size of the first projection's.
        unseen = direction - (direction @ rows.T) @ rows
        unseen = unseen - (unseen @ rows.T) @ rows
        length = float(cost.of_displacement(unseen[None])[0])
        return float(linear @ unseen) / length if length > 0 else 0.0

    found = max(slope_along(linear), slope_along(cost.steepest_direction(linear)))
    steepest = float(cost.dual_norm(linear[None])[0])
    if steepest <= weight or found >= steepest * (1 - _ONE_NUMBER) or rows.size > _SEARCHED:
        return found
    return max(found, slope_along(_steepest_unseen(cost, rows, linear)))


def _steepest_unseen(cost: Euclidean | PNorm, rows: Floats, linear: Floats) -> Floats:
    """argmax ⟨g, δ⟩ over N(δ) ≤ 1 and Rδ = 0, up to a solver's tolerance."""
    k, size = rows.shape
    p = cost.p if isinstance(cost, PNorm) else 2.0
    if p == 1.0:
        from scipy.optimize import linprog

        solved = linprog(
            np.concatenate([-linear, linear]),
            A_ub=np.ones((1, 2 * size)),
            b_ub=[1.0],
            A_eq=np.hstack([rows, -rows]),
            b_eq=np.zeros(k),
        )
        return np.zeros(size) if solved.x is None else np.asarray(solved.x[:size] - solved.x[size:])
    if math.isinf(p):
        from scipy.optimize import linprog

        solved = linprog(-linear, A_eq=rows, b_eq=np.zeros(k), bounds=(-1.0, 1.0))
        return np.zeros(size) if solved.x is None else np.asarray(solved.x)
    from scipy.optimize import minimize

    def rest(s: Floats) -> tuple[float, Floats]:
        left = linear - s @ rows
        return float(cost.dual_norm(left[None])[0]), -(rows @ cost.steepest_direction(left))

    best = minimize(rest, np.zeros(k), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-12})
    return cost.steepest_direction(linear - best.x @ rows)


def _infinite(pole: Pole) -> UnboundedTransportError:
    return UnboundedTransportError(
        f"The transport map has no maximiser for any λ: the reward is +∞ {pole}.",
        ways_out=[
            "Flip the sign of that summand, if you meant a barrier: then it is −∞ there, and the map keeps away.",
            "Keep the argument inside the domain for every x: inv_pos(1 + square(e)).",
        ],
        expression=str(pole.atom),
    )


def _outgrown(growth: Growth, weight: float, names: str) -> UnboundedTransportError:
    bounded = "Bound the growth of the reward: huber(…) or abs(…) in place of square(…)."
    lower, upper = growth.at_least, growth.at_most
    if math.isinf(lower):
        return UnboundedTransportError(
            f"The reward outgrows λ times the cost for every λ, so the transport map has no maximiser: {names} grows "
            "faster than every quadratic along some direction, and λ·½‖x − y‖² is one.",
            ways_out=["Bound the growth of the reward: logistic(…) in place of exp(…), huber(…) in place of powers."],
            expression=names,
        )
    relation = "equals" if weight >= lower * (1 - EQUAL) else "is below"
    is_exact = upper <= lower * (1 + _ONE_NUMBER)
    level = f"{'the' if is_exact else 'a lower bound of the'} critical value{'' if is_exact else ','} {lower:.10g}"
    raised = f"ak.Wasserstein(weight=λ) with λ > {lower if is_exact else upper:.6g}."
    if math.isinf(upper):
        raised = f"ak.Wasserstein(weight=λ) with a larger λ, above {lower:.6g} at least."
    return UnboundedTransportError(
        f"The reward outgrows λ times the cost, so the transport map has no maximiser: {names} grows like "
        f"{lower / 2:.6g}·‖x‖² along some direction, λ·½‖x − y‖² with λ = {weight:.6g} like {weight / 2:.6g}·‖x‖². "
        f"λ {relation} {level}.",
        ways_out=[raised, bounded, "ak.KL(weight=…) tilts by convex quadratics exactly."],
        expression=names,
    )
