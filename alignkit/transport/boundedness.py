"""Whether a reward outgrows λ·½‖x − y‖², decided from its structure before anything is solved."""

from __future__ import annotations

import math

import numpy as np

from alignkit.errors import UnboundedTransportError
from alignkit.expressions import Expression
from alignkit.expressions.atoms.elementwise import Square
from alignkit.expressions.atoms.quadratic import QuadForm, SumSquares
from alignkit.expressions.matrices import norm_bound
from alignkit.expressions.splitting import Split, Term, split
from alignkit.transport.separable import Separable, separable_form

__all__ = ["check_bounded", "dominated_by_penalty"]

#: Relative distance at which λ and a critical value computed in float64 count as equal.
_EQUAL = 1e-12


def check_bounded(nonlinear: Expression, weight: float) -> None:
    """Raise when argmax_z f(z) − (λ/2)‖z − v‖² has no maximiser, as far as structure decides it.

    With H the Hessian of the quadratic summands and all other summands of at most linear growth, the supremum is
    infinite for λ < λ_max(H), finite for λ > λ_max(H), and at λ = λ_max(H) infinite for almost every v. Other rewards
    pass unless their growth is proved too large; the backends then find out at solve time.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).
        weight: λ, in units of reward per cost.

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
    if nonlinear.is_concave() or math.isfinite(nonlinear.lipschitz):
        return
    parts = split(nonlinear)
    critical = parts.critical_weight
    if critical + sum(_growth_above(term) for term in parts.terms) < weight * (1 - _EQUAL):
        return
    if not all(_falls_at_most_linearly(term) for term in parts.terms):
        return
    drifts = not parts.terms and weight <= critical * (1 + _EQUAL)
    if drifts or weight < critical * (1 - _EQUAL):
        _refuse(parts, weight, critical)


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
    if all(term.bends(-1) for term in parts.terms) and parts.critical_weight < weight * (1 - _EQUAL):
        return True
    form = separable_form(parts)
    return isinstance(form, Separable) and form.obstacle(weight) is None


def _growth_above(term: Term) -> float:
    """A bound on limsup 2·summand/‖w‖², comparable with λ; infinite when none is known."""
    if math.isfinite(term.atom.lipschitz) or term.bends(-1):
        return 0.0
    if not isinstance(term.atom, Square | SumSquares | QuadForm):
        return math.inf
    gain = term.atom.args[0].lipschitz
    largest = float(np.abs(term.coefficients).max())
    scale = norm_bound(term.atom.P) if isinstance(term.atom, QuadForm) else 1.0
    return 0.0 if largest == 0.0 else 2.0 * largest * scale * gain**2


def _falls_at_most_linearly(term: Term) -> bool:
    """Whether the summand is bounded below by −C(1 + ‖w‖): Lipschitz and convex functions are."""
    return math.isfinite(term.atom.lipschitz) or term.bends(1)


def _refuse(parts: Split, weight: float, critical: float) -> None:
    growing = [part for part in parts.curved if not part.is_concave]
    names = " + ".join(str(part.atom) for part in growing[:3]) + (" + …" if len(growing) > 3 else "")
    relation = "equals" if weight >= critical * (1 - _EQUAL) else "is below"
    raise UnboundedTransportError(
        f"The reward outgrows λ times the cost, so the transport map has no maximiser: {names} grows like "
        f"{critical / 2:.6g}·‖x‖² along some direction, λ·½‖x − y‖² with λ = {weight:.6g} like {weight / 2:.6g}·‖x‖². "
        f"λ {relation} the critical value {critical:.10g}.",
        ways_out=[
            f"ak.Wasserstein(weight=λ) with λ > {critical:.6g}.",
            "Bound the growth of the reward: huber(…) or abs(…) in place of square(…).",
            "ak.KL(weight=…) tilts by convex quadratics exactly.",
        ],
        expression=str(growing[0].atom),
    )
