"""Whether E_p exp(r/λ) is finite, decided from the growth of r and the tail of p before anything is drawn.

Under a Gaussian N(m, S) of w = Qx, with S = LLᵀ and w = Lv, E exp(f(w)/λ) is finite for λ > κ* and infinite for λ < κ*,
where κ* is the critical curvature of v ↦ f(Lv): for f(w) = ½⟨w, Hw⟩ it is λ_max(LᵀHL). A mixture is as heavy as its
heaviest component. Linear terms never matter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from alignkit.base.empirical import Empirical
from alignkit.base.law import BaseLaw
from alignkit.contracts import Composition, Floats
from alignkit.errors import ImproperTargetError
from alignkit.expressions import Expression, Interval, Subspace, Variable, as_expression
from alignkit.expressions.atom import substitute
from alignkit.expressions.growth import EQUAL, Growth, name_summands
from alignkit.expressions.poles import can_reach_infinity, outside_points, pole_among
from alignkit.expressions.splitting import LARGEST_HESSIAN

__all__ = ["check_proper"]

#: Rows of Q formed at a time are this many entries (128 MB).
_LARGEST = 2**24
#: Relative distance within which the two bounds of a critical λ are called one number.
_ONE_NUMBER = 1e-9


def check_proper(reward: Expression, composition: Composition, base: BaseLaw, weight: float) -> tuple[str, ...]:
    """Raise where E_p exp(r/λ) is proved infinite, so that q ∝ p·exp(r/λ) does not exist.

    Arguments:
        reward: r as the user wrote it.
        composition: r as f(Qx) + ⟨g, x⟩ + c.
        base: p.
        weight: λ > 0, in units of reward per nat.

    Returns:
        what could not be decided, in sentences; none where E_p exp(r/λ) is proved finite.

    Raises:
        ImproperTargetError: with the summand to blame, and the critical λ. For a law on a box of data it is raised
            where r is +∞ on a part of the box, which p is taken to reach.

    Example:
        >>> from alignkit.base import Gaussian
        >>> from alignkit.compiler.composition import compose
        >>> from alignkit.expressions import Variable, sum_squares
        >>> reward = sum_squares(Variable(2))
        >>> check_proper(reward, compose(reward), Gaussian([0.0, 0.0], 3.0), 6.1)
        ()
        >>> try:
        ...     check_proper(reward, compose(reward), Gaussian([0.0, 0.0], 3.0), 5.9)
        ... except ImproperTargetError as error:
        ...     print(error.ways_out[0])
        ak.KL(weight=λ) with λ > 6.
    """
    if base.tail == "bounded" or base.data_range is not None:
        return _on_bounded_data(reward, base)
    if composition.nonlinear is None:
        return _unless_heavy(base, is_bounded=not composition.linear.any())
    growth = Growth(composition.nonlinear)
    if isinstance(base.tail, float | int) and growth.stays_below(weight / base.tail):
        return ()
    covariances = _seen_covariances(base, composition.subspace)
    if covariances is not None:
        return _under_gaussians(reward, composition, base, weight, covariances)
    if base.tail is None:
        return _unless_heavy(base, is_bounded=growth.is_bounded_above and not composition.linear.any())
    assert isinstance(base.tail, float | int)
    if math.isinf(growth.at_most):
        return (
            f"the reward may outgrow the tail of {base.name!r}, of variance {base.tail:.6g}, so it could not be "
            "checked that E_p exp(r/λ) is finite; bound the growth of the reward, as with huber(…) or clip(…), or "
            "declare tail='bounded'",
        )
    return (
        f"the tail variance {base.tail:.6g} of {base.name!r} bounds its tail from above only, so it could not be "
        f"decided whether E_p exp(r/λ) is finite; it is for λ > {base.tail * growth.at_most:.6g}",
    )


# ---- bounded data


def _on_bounded_data(reward: Expression, base: BaseLaw) -> tuple[str, ...]:
    if not can_reach_infinity(reward):
        return ()
    if isinstance(base, Empirical):
        return _on_points(reward, base)
    if base.data_range is not None:
        inside = reward.over(*base.data_range)
        if not can_reach_infinity(inside):
            return ()
        pole = pole_among(inside, outside_points(inside, *base.data_range))
        if pole is not None:
            lower, upper = base.data_range
            raise _reaches_infinity(
                reward, f"{pole}, which takes in a part of [{lower:.6g}, {upper:.6g}], the data range of {base.name!r}"
            )
    texts = [str(condition) for condition in reward.domain]
    domain = ", ".join(texts[:3]) + (", …" if len(texts) > 3 else "")
    return (
        f"the reward may be infinite outside its domain, {domain}, and it could not be checked that {base.name!r} "
        "keeps away from there, so that E_p exp(r/λ) is finite",
    )


def _on_points(reward: Expression, base: Empirical) -> tuple[str, ...]:
    rows = base.data.reshape(-1, *base.shape)
    with np.errstate(all="ignore"):
        values = np.asarray(reward.value(rows)).reshape(len(rows), -1)[:, 0]
    infinite = np.flatnonzero(values == math.inf)
    if infinite.size:
        raise _reaches_infinity(
            reward,
            f"at {infinite.size} of the {len(rows)} data points of {base.name!r}, the first of index {infinite[0]}",
        )
    return ()


def _reaches_infinity(reward: Expression, where: str) -> ImproperTargetError:
    return ImproperTargetError(
        f"E_p exp(r/λ) is infinite for every λ, so the aligned law does not exist: the reward is +∞ {where}.",
        ways_out=[
            "Keep the argument inside the domain, with a margin, wherever p reaches: inv_pos(1 + square(e)).",
            "Flip the sign of that summand, if you meant a penalty: then it is −∞ there.",
        ],
        expression=str(reward),
    )


# ---- unknown and Gaussian tails


def _unless_heavy(base: BaseLaw, *, is_bounded: bool) -> tuple[str, ...]:
    if base.tail is not None or is_bounded:
        return ()
    return (
        f"the tail of {base.name!r} is unknown, so it could not be checked that E_p exp(r/λ) is finite; "
        "declare tail='bounded' or a tail variance",
    )


@dataclass(frozen=True, eq=False)
class _Component:
    """f under one Gaussian of the tail, as v ↦ f(Lv) under the standard one.

    Arguments:
        growth: of v ↦ f(Lv).
        root: L, (k, k), its diagonal (k,), or a number for a multiple of the identity.
    """

    growth: Growth
    root: Floats

    def place(self, v: Floats) -> Floats:
        """Lv."""
        return self.root @ v if self.root.ndim == 2 else self.root * v


def _under_gaussians(
    reward: Expression, composition: Composition, base: BaseLaw, weight: float, covariances: Iterator[Floats]
) -> tuple[str, ...]:
    assert composition.nonlinear is not None
    heavy = []
    for covariance in covariances:
        component = _standardised(composition.nonlinear, covariance)
        if not component.growth.stays_below(weight):
            heavy.append(component)
    if not heavy:
        return ()
    worst = max(heavy, key=lambda component: component.growth.at_least)
    if worst.growth.pole is not None:
        point = composition.subspace.embed(worst.place(worst.growth.pole.point)).reshape(1, *composition.shape)
        pole = pole_among(reward, point)
        raise _reaches_infinity(reward, f"{pole or worst.growth.pole}, which {base.name!r} reaches")
    at_most = max(component.growth.at_most for component in heavy)
    if any(component.growth.outgrows(weight) for component in heavy):
        direction = composition.subspace.embed(worst.place(worst.growth.direction))
        raise _outgrown(reward, base, weight, Interval(worst.growth.at_least, at_most), direction)
    if math.isinf(at_most):
        return (
            f"the reward may outgrow the Gaussian tail of {base.name!r}, so it could not be checked that "
            "E_p exp(r/λ) is finite; bound the growth of the reward, as with huber(…) or clip(…)",
        )
    return (
        f"it could not be decided whether E_p exp(r/λ) is finite under the Gaussian tail of {base.name!r}; it is for "
        f"λ > {at_most:.6g}",
    )


def _standardised(f: Expression, covariance: Floats) -> _Component:
    (w,) = f.variables()
    root = np.sqrt(covariance) if covariance.ndim < 2 else _root(covariance)
    v = Variable(w.shape, w.name)
    moved = as_expression(root) @ v if root.ndim == 2 else as_expression(root) * v
    return _Component(Growth(substitute(f, {id(w): moved})), root)


def _root(covariance: Floats) -> Floats:
    """L with LLᵀ = S."""
    try:
        return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    except np.linalg.LinAlgError:  # as good as singular
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), dtype=np.float64)


def _seen_covariances(base: BaseLaw, subspace: Subspace) -> Iterator[Floats] | None:
    """Covariances of Qx in the tail of p, one for each component; None where there are none, or they are too large."""
    found = base.tail_covariances()
    first = next(found, None)
    is_large = subspace.dimension > LARGEST_HESSIAN
    if first is None or (is_large and first.ndim > 0 and not (subspace.is_identity and first.ndim == 1)):
        return None
    return (_seen(covariance, subspace) for covariance in itertools.chain([first], found))


def _seen(covariance: Floats, subspace: Subspace) -> Floats:
    """QΣQᵀ, for Σ given by a number, by its diagonal or in full."""
    if covariance.ndim == 0 or subspace.is_identity:
        return covariance
    k, d = subspace.dimension, subspace.ambient
    seen = np.empty((k, k))
    step = max(1, _LARGEST // d)
    for start in range(0, k, step):
        rows = subspace.embed(np.eye(min(step, k - start), k, start))
        moved = rows * covariance if covariance.ndim == 1 else rows @ covariance
        seen[start : start + len(rows)] = subspace.project(moved)
    return (seen + seen.T) / 2.0


def _outgrown(
    reward: Expression, base: BaseLaw, weight: float, critical: Interval, direction: Floats
) -> ImproperTargetError:
    names = name_summands(reward, direction)
    tame = "A base law with tail='bounded' or data_range=(…), if the data are bounded."
    if math.isinf(critical.lower):
        return ImproperTargetError(
            f"E_p exp(r/λ) is infinite for every λ, so the aligned law does not exist: {names} grows faster than every "
            f"quadratic along some direction, and the Gaussian tail of {base.name!r} makes up for quadratics only.",
            ways_out=[
                "Bound the growth of the reward: logistic(…) in place of exp(…), huber(…) in place of powers.",
                tame,
            ],
            expression=str(reward),
        )
    relation = "equals" if weight >= critical.lower * (1 - EQUAL) else "is below"
    is_exact = critical.upper <= critical.lower * (1 + _ONE_NUMBER)
    level = (
        f"{'the' if is_exact else 'a lower bound of the'} critical value{'' if is_exact else ','} {critical.lower:.10g}"
    )
    if is_exact or math.isfinite(critical.upper):
        raised = f"ak.KL(weight=λ) with λ > {critical.lower if is_exact else critical.upper:.6g}."
    else:
        raised = f"ak.KL(weight=λ) with a larger λ, above {critical.lower:.6g} at least."
    return ImproperTargetError(
        f"E_p exp(r/λ) is infinite, so the aligned law does not exist: along some direction {names} outgrows λ times "
        f"the decay of {base.name!r}, whose tail is Gaussian. λ = {weight:.6g} {relation} {level}.",
        ways_out=[raised, "Bound the growth of the reward: huber(…) or abs(…) in place of square(…).", tame],
        expression=str(reward),
    )
