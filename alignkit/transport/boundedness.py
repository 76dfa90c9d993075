"""Whether there is a transport map at all, decided from the reward's structure before anything is solved.

There is none of a reward that outgrows λ times the cost, and none of one that is finite nowhere.
"""

from __future__ import annotations

import math

import numpy as np

from alignkit.contracts import Displacement
from alignkit.errors import NonFiniteError, UnboundedTransportError
from alignkit.expressions import Expression, Subspace
from alignkit.expressions.arrays import Floats
from alignkit.expressions.atom import Atom
from alignkit.expressions.expression import Condition, topological
from alignkit.expressions.growth import EQUAL, Growth, name_summands
from alignkit.expressions.matrices import row_of
from alignkit.expressions.poles import Pole, condition_holds, is_defined_everywhere, pole_among
from alignkit.expressions.splitting import affine_over, split
from alignkit.transport.costs import Euclidean, PNorm
from alignkit.transport.separable import Separable, separable_form

__all__ = ["check_bounded", "check_somewhere_finite", "dominated_by_penalty", "unseen_slope"]

#: Relative distance within which the two bounds of a critical λ are called one number.
_ONE_NUMBER = 1e-9
#: Entries of R up to which the steepest direction is searched for; the linear program takes a second there.
_SEARCHED = 2**19
#: How far short of its bound some argument falls at every point, where conditions are called contradictory.
_CONTRADICTION = 1e-7
#: How many points show that a reward is finite though a condition fails, as max(log(e), 0) is.
_TRIED = 8


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


def check_somewhere_finite(reward: Expression) -> None:
    """Raise when the conditions of a reward's domain hold nowhere, as far as ranges and affine arguments tell.

    A condition fails everywhere where the range of its argument lies below its bound. Of those on affine arguments a
    linear program finds whether they hold together.

    Arguments:
        reward: r, a scalar expression of one variable.

    Raises:
        NonFiniteError: with the conditions, and the atoms that need them.

    Example:
        >>> from alignkit.expressions import Variable, log, square
        >>> w = Variable(2, name="w")
        >>> try:
        ...     check_somewhere_finite(log(-1.0 - square(w[0])))
        ... except NonFiniteError as error:
        ...     print(error.message)
        The reward is finite nowhere: log(-1 - square(w[0])) needs -1 - square(w[0]) > 0, which never holds.
    """
    needs = [
        (node, Condition(node.args[place], bound, strict))
        for node in topological(reward)
        if isinstance(node, Atom) and node.depends
        for place, bound, strict in node._domain()
        if not condition_holds(node.args[place], bound, strict)
    ]
    for need in needs:
        highest, bound = need[1].expression.range.upper, need[1].bound
        if (highest < bound or (need[1].strict and highest == bound)) and not _is_finite_somewhere(reward):
            raise _nowhere_finite([need])
    together = _contradictory([need for need in needs if need[1].expression.is_affine()])
    if together and not _is_finite_somewhere(reward):
        raise _nowhere_finite(together)


def _is_finite_somewhere(reward: Expression) -> bool:
    """Whether some of a few points, fixed, has a finite value."""
    points = np.random.default_rng(0).standard_normal((_TRIED, *reward.variables()[0].shape))
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.asarray(reward.value(points))).any())


def _contradictory(needs: list[tuple[Atom, Condition]]) -> list[tuple[Atom, Condition]]:
    """Those of some conditions on affine arguments that cannot hold together; none where they can, or are too many."""
    if not needs:
        return []
    size = needs[0][1].expression.variables()[0].size
    if sum(condition.expression.size for _, condition in needs) * size > _SEARCHED:
        return []
    maps = [affine_over(condition.expression, size) for _, condition in needs]
    owners = np.repeat(np.arange(len(needs)), [condition.expression.size for _, condition in needs])
    matrix = np.array([row_of(inside.matrix, place) for inside in maps for place in range(len(inside.offset))])
    missing = np.array([condition.bound for _, condition in needs])[owners]
    missing = missing - np.concatenate([inside.offset for inside in maps])
    scale = np.maximum(np.linalg.norm(matrix, axis=1), np.finfo(np.float64).tiny)
    matrix, missing = matrix / scale[:, None], missing / scale
    inside_all = np.linalg.lstsq(matrix, missing + 1.0, rcond=None)[0]
    if (matrix @ inside_all > missing).all():
        return []
    from scipy.optimize import linprog

    # The largest t ≤ 1 with every argument at least t above its bound; the multipliers say which of them keep it down.
    solved = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.hstack([-matrix, np.ones((len(matrix), 1))]),
        b_ub=-missing,
        bounds=[(None, None)] * size + [(None, 1.0)],
    )
    if solved.x is None or solved.x[-1] > -_CONTRADICTION * (1.0 + np.abs(missing).max()):
        return []
    binding = owners[np.abs(solved.ineqlin.marginals) > _ONE_NUMBER]
    return [needs[place] for place in dict.fromkeys(binding.tolist())]


def _nowhere_finite(needs: list[tuple[Atom, Condition]]) -> NonFiniteError:
    named = " and ".join(f"{atom} needs {condition}" for atom, condition in needs)
    holds = "which never holds" if len(needs) == 1 else "which never hold together"
    return NonFiniteError(
        f"The reward is finite nowhere: {named}, {holds}.",
        ways_out=[
            "Flip the sign of the argument, if you meant the other side.",
            "Move its bound to where base draws lie, or can be moved to.",
        ],
        expression=str(needs[0][0]),
    )


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
