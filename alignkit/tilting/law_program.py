"""Programs over the law: maximise E_q[r] + U(E_q[y]) − λ·KL(q‖p) subject to E_q[y] = b, E_q[y] ≤ c, by their duals.

The maximiser is p·exp((r + ⟨η, y⟩)/λ), y = Bx, with η a minimiser of the convex

    λ·log E_p exp((r + ⟨η, y⟩)/λ) + (−U)*(−η_U) − ⟨η_=, b⟩ − ⟨η_≤, c⟩,   η_≤ ≤ 0,

whose gradient is E_q[y] less what it should be. All laws that come up are of one exponential family, with
s = (r, y) and slopes a = (1/λ, η/λ).

Source: I. Csiszár, "I-divergence geometry of probability distributions and minimization problems", Annals of
Probability 3, 1975, theorem 3.1, for constraints; Fenchel duality (R. T. Rockafellar, "Convex analysis", theorem 31.1)
for utilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.expressions import Expression
from alignkit.tilting.exponential_family import ExponentialFamily, Member

__all__ = ["LawProgram", "LawSolution", "solve_law_program"]

_STEPS = 200
#: A step that leads further has no minimiser to go to.
_FAR = 1e100
_HALVINGS = 60
_ARMIJO = 1e-4
#: Constraints hold to this part of the standard deviation of their statistic under p, or to so many roundings.
_RESIDUAL, _ROUNDINGS = 1e-5, 10.0
#: Steps of the proximal Newton method in the moments of a utility.
_OUTER_STEPS = 100
#: The least weight of the proximal term, in units of λ per variance, and the weight at which U is held to have a kink.
_LEAST_PROXIMITY, _KINK = 1e-2, 1e4
#: In units of λ: a gain that ends the method, gaps that are closed, and one that is still called solved.
_GAIN, _GAP, _KINKED_GAP, _ROUGH_GAP = 1e-13, 1e-9, 1e-7, 1e-4
#: Where a utility is finite only above a bound, its moments start this far inside, in standard deviations.
_MARGINS = (0.3, 0.03, 0.003)
_CUTS = 200


@dataclass(frozen=True, eq=False)
class LawProgram:
    """What is asked of the moments m = E_q[y], l of them: those of the utility, then equalities, then upper bounds.

    Arguments:
        utility: U, a concave expression of one variable of shape (u,); None where u = 0.
        valued: u.
        equalities: b, (e,).
        bounds: c, (i,), with u + e + i = l.
        ridge: κ ≥ 0: E_q[y] − b = z may differ from 0 at a price ‖z‖²/2κ in units of reward; so may excesses over c.
    """

    utility: Expression | None = None
    valued: int = 0
    equalities: Floats = field(default_factory=lambda: np.zeros(0))
    bounds: Floats = field(default_factory=lambda: np.zeros(0))
    ridge: float = 0.0

    @property
    def size(self) -> int:
        """l."""
        return self.valued + self.equalities.size + self.bounds.size

    @property
    def demanded(self) -> Floats:
        """b and c, one after the other, (e + i,)."""
        return np.concatenate([self.equalities, self.bounds])

    @property
    def is_bound(self) -> NDArray[np.bool_]:
        """Which of `demanded` are upper bounds, (e + i,)."""
        return np.arange(self.demanded.size) >= self.equalities.size

    def utility_at(self, moments: Floats) -> float:
        """U(m), −inf outside its domain; 0 where there is none."""
        if self.utility is None:
            return 0.0
        with np.errstate(all="ignore"):
            value = float(np.asarray(self.utility.value(moments[: self.valued])).reshape(()))
        return -math.inf if math.isnan(value) else value

    def slope_of_utility(self, moments: Floats) -> Floats:
        """A supergradient of U, (u,)."""
        assert self.utility is not None
        return np.asarray(self.utility.gradient(moments[: self.valued]), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class LawSolution:
    """The law that solves a program, within an exponential family.

    Arguments:
        weight: λ.
        multipliers: η, (l,), in units of reward per y: q ∝ p·exp((r + ⟨η, y⟩)/λ).
        member: that law.
        gap: how far the program's value can lie above that of q, in units of reward; NaN where it is not known.
        is_solved: False where the dual has no minimiser as far as could be seen, as for moments that no law has.
        tried: where λ was sought for a radius, every one that was looked at with the KL(q‖p) there, in order; infinite
            where there is no such law.
    """

    weight: float
    multipliers: Floats
    member: Member
    gap: float = math.nan
    is_solved: bool = True
    tried: tuple[tuple[float, float], ...] = ()

    @property
    def moments(self) -> Floats:
        """E_q[y], (l,)."""
        return self.member.mean[1:]


def solve_law_program(
    family: ExponentialFamily, program: LawProgram, weight: float, start: Floats | None = None, *, rewarded: bool = True
) -> LawSolution:
    """Solve a program at one λ.

    Arguments:
        family: of s = (r, y), 1 + l statistics.
        program: over the moments of y.
        weight: λ > 0.
        start: η to start from, (l,); 0 if None.
        rewarded: False leaves r out: then q is the closest law to p that the program allows.

    Returns:
        the solution; where `is_solved` is False, its multipliers point along a direction that the moments cannot go.
    """
    dual = _Dual(family, program, weight, 1.0 if rewarded else 0.0)
    eta = np.zeros(program.size) if start is None else np.array(start, dtype=np.float64)
    eta[program.valued :][program.is_bound] = np.minimum(eta[program.valued :][program.is_bound], 0.0)
    if program.utility is None:
        return dual.constrained(eta)
    return _with_utility(dual, eta)


# ---- the dual of constraints, and of a quadratic or piecewise linear model of the utility


@dataclass(frozen=True, eq=False)
class _Dual:
    """λ·A(share/λ, η/λ) − ⟨η, b⟩ over η, with what stands in for the utility."""

    family: ExponentialFamily
    program: LawProgram
    weight: float
    share: float

    def member(self, eta: Floats) -> Member:
        return self.family.at(np.concatenate([[self.share], eta]) / self.weight)

    def solution(self, eta: Floats, *, gap: float = math.nan, is_solved: bool = True) -> LawSolution:
        return LawSolution(self.weight, eta, self.member(eta), gap, is_solved)

    def constrained(self, eta: Floats) -> LawSolution:
        """With the utility's multipliers held where they are."""
        valued = eta[: self.program.valued]
        zero = np.zeros((valued.size, 0))
        return self.modelled(valued, zero, np.zeros((0, 0)), np.zeros(0), eta)

    def modelled(self, slope: Floats, curvature: Floats, price: Floats, centre: Floats, eta: Floats) -> LawSolution:
        """With U(m) ≈ ⟨slope, δ⟩ − ½⟨δ, Hδ⟩, δ = m − centre, whose multipliers are slope − Hδ: over δ and the others.

        Arguments:
            slope: (u,).
            curvature: H, (u, v), with v = u, or 0 for a linear model.
            price: H again, (v, v).
            centre: (v,).
            eta: where the multipliers of the constraints start, (l,).
        """
        program, weight = self.program, self.weight
        u, v = slope.size, price.shape[0]
        demanded = program.demanded
        embed = np.zeros((program.size, v + demanded.size))
        embed[:u, :v] = -curvature
        embed[u:, v:] = np.eye(demanded.size)
        origin = np.concatenate([slope, np.zeros(demanded.size)])
        quadratic = np.zeros((embed.shape[1],) * 2)
        quadratic[:v, :v] = price
        quadratic[v:, v:] = program.ridge * np.eye(demanded.size)
        linear = np.concatenate([price @ centre, -demanded])

        def objective(z: Floats) -> tuple[float, Floats, Floats]:
            member = self.member(embed @ z + origin)
            value = weight * member.log_partition + linear @ z + 0.5 * z @ quadratic @ z
            slope_of_value = embed.T @ member.mean[1:] + linear + quadratic @ z
            curvature_of_value = embed.T @ member.covariance[1:, 1:] @ embed / weight + quadratic
            return float(value), slope_of_value, curvature_of_value

        upper = np.full(embed.shape[1], math.inf)
        upper[v:][program.is_bound] = 0.0
        z, is_solved = _newton(
            objective, np.concatenate([np.zeros(v), eta[u:]]), upper, unit=weight, decrement=self.family.precision**2
        )
        found = self.solution(embed @ z + origin)
        return replace(found, is_solved=is_solved and self.meets_demands(found))

    def meets_demands(self, solution: LawSolution) -> bool:
        """Whether the moments are what is demanded, to a part of their spread under p."""
        program = self.program
        multipliers = solution.multipliers[program.valued :]
        excess = solution.moments[program.valued :] - program.demanded + program.ridge * multipliers
        excess = np.where(program.is_bound & (multipliers == 0), np.maximum(excess, 0.0), excess)
        allowed = max(_RESIDUAL, _ROUNDINGS * self.family.precision)
        return bool((np.abs(excess) <= allowed * self.family.scale[1 + program.valued :]).all())


def _newton(
    objective: Callable[[Floats], tuple[float, Floats, Floats]],
    start: Floats,
    upper: Floats,
    *,
    unit: float,
    decrement: float,
) -> tuple[Floats, bool]:
    """Minimise a smooth convex function below upper bounds, by Newton's method on the variables that are free.

    Source: D. Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM Journal on
    Control and Optimization 20, 1982, equations (18)–(20).

    Arguments:
        objective: z to (value, gradient, Hessian); an infinite value where it is not defined.
        start: (n,).
        upper: (n,), infinite where there is none.
        unit: what one nat is in units of the value.
        decrement: Newton's decrement, in nats, below which the minimum is found.

    Returns:
        the minimiser, and whether it is one; False where the function keeps falling.
    """
    z = np.minimum(start, upper)
    value, gradient, hessian = objective(z)
    if not math.isfinite(value):
        return z, False
    for _ in range(_STEPS):
        free = (z < upper) | (gradient > 0)
        if not free.any():
            return z, True
        root = np.sqrt(np.maximum(np.diag(hessian), 0.0))
        root = np.where(root > 0, root, 1.0)[free]
        scaled = hessian[np.ix_(free, free)] / np.outer(root, root)
        slope = gradient[free] / root
        step, *_ = np.linalg.lstsq(scaled, -slope, rcond=1e-13)
        with np.errstate(over="ignore", invalid="ignore"):
            moves = step / root
        if not np.abs(moves).max() <= _FAR:
            return z, False
        fall = float(-slope @ step)
        is_flat = np.linalg.norm(scaled @ step + slope) > 1e-6 * max(1e-300, float(np.linalg.norm(slope)))
        if fall <= decrement * unit and not (is_flat and np.linalg.norm(slope) > math.sqrt(decrement)):
            return z, True
        if is_flat:
            # Along a direction without curvature only the slope says how to go on.
            step = step - (scaled @ step + slope) * max(1.0, float(np.linalg.norm(step)))
        direction = np.zeros_like(z)
        direction[free] = step / root
        length, found = 1.0, None
        for _ in range(_HALVINGS):
            trial = np.minimum(z + length * direction, upper)
            result = objective(trial)
            if math.isfinite(result[0]) and result[0] <= value + _ARMIJO * float(gradient @ (trial - z)):
                found = trial, result
                break
            length /= 2
        if found is None:
            # Rounding is all that is left, unless the slope is still there.
            return z, fall <= 1e-6 * unit
        moved = found[0] - z
        z, (value, gradient, hessian) = found
        if not np.isfinite(hessian).all() or not moved.any():
            return z, fall <= 1e-6 * unit
    return z, False


# ---- utilities


def _with_utility(dual: _Dual, eta: Floats) -> LawSolution:
    """A concave utility by the proximal Newton method in its moments: each step solves the dual of a quadratic model.

    The model is that of U alone, and the rest of the program is kept as it is, so that a quadratic utility takes one
    step. Near a kink the quadratic model never fits; there cutting planes take over.
    """
    program = dual.program
    start = _inside_domain(dual, eta)
    if not start.is_solved:
        return start
    current, value = start, _value(dual, start)
    proximity = 0.0
    for _ in range(_OUTER_STEPS):
        moments = current.moments
        slope = program.slope_of_utility(moments)
        curvature = _curvature(program, moments, dual.family.scale[1 : 1 + program.valued])
        metric = dual.weight / dual.family.scale[1 : 1 + program.valued] ** 2
        held = curvature + proximity * np.diag(metric)
        centre = moments[: program.valued]
        trial = dual.modelled(slope, held, held, centre, current.multipliers)
        change = trial.moments[: program.valued] - centre
        model = float(slope @ change - 0.5 * change @ curvature @ change)
        expected = _unvalued(dual, trial) - _unvalued(dual, current) + model
        reached = _value(dual, trial) if trial.is_solved else -math.inf
        if reached >= value + 0.1 * expected and reached >= value:
            is_last = reached - value <= _GAIN * dual.weight
            current, value = trial, reached
            if is_last:
                break
            proximity = 0.0 if proximity < _LEAST_PROXIMITY else proximity / 10
        elif expected <= _GAIN * dual.weight:
            break
        else:
            proximity = max(_LEAST_PROXIMITY, 4 * proximity)
            if proximity > _KINK:
                break
    gap = _smooth_gap(dual, current)
    closed = max(_GAP, _ROUNDINGS * dual.family.precision**2)
    return replace(current, gap=gap) if gap <= closed * dual.weight else _by_cutting_planes(dual, current)


def _value(dual: _Dual, solution: LawSolution) -> float:
    """E_q[r] + U(m) − λ·KL, and the price of what a ridge lets pass."""
    return _unvalued(dual, solution) + dual.program.utility_at(solution.moments)


def _unvalued(dual: _Dual, solution: LawSolution) -> float:
    """The same without U."""
    program, member = dual.program, solution.member
    excess = solution.moments[program.valued :] - program.demanded
    excess = np.where(program.is_bound, np.maximum(excess, 0.0), excess)
    price = float(excess @ excess) / (2 * program.ridge) if program.ridge > 0 else 0.0
    return dual.share * float(member.mean[0]) - dual.weight * member.divergence - price


def _curvature(program: LawProgram, moments: Floats, scale: Floats) -> Floats:
    """−∇²U by central differences of its gradient, its positive part."""
    assert program.utility is not None
    centre = moments[: program.valued]
    steps = np.diag(1e-5 * scale)
    with np.errstate(all="ignore"):
        ahead = np.asarray(program.utility.gradient(centre + steps))
        behind = np.asarray(program.utility.gradient(centre - steps))
    matrix = -(ahead - behind) / (2e-5 * scale[:, None])
    matrix = np.where(np.isfinite(matrix), matrix, 0.0)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _smooth_gap(dual: _Dual, solution: LawSolution) -> float:
    """What is left to gain where U is smooth: with d = ∇U(m) − η, the step along d gains d·Cov·d/2λ at most."""
    valued = dual.program.valued
    distance = dual.program.slope_of_utility(solution.moments) - solution.multipliers[:valued]
    covariance = solution.member.covariance[1 : 1 + valued, 1 : 1 + valued]
    return float(distance @ covariance @ distance) / (2 * dual.weight)


def _by_cutting_planes(dual: _Dual, start: LawSolution) -> LawSolution:
    """A concave utility with kinks, bounded above by its tangents so far: η_U is then in the hull of their slopes.

    Source: J. E. Kelley, "The cutting-plane method for solving convex programs", Journal of the SIAM 8, 1960, in the
    moments; the dual of each bounded program is smooth, and its value proves how far the best law is from the optimum.
    """
    # scipy takes long to import.
    from scipy.optimize import minimize

    program, weight = dual.program, dual.weight
    u, demanded = program.valued, program.demanded
    slopes, levels = np.zeros((0, u)), np.zeros(0)
    best, at = start, start
    ceiling = math.inf
    shares = np.zeros(0)
    for _ in range(_CUTS):
        centre = _into_domain(program, best.moments[:u], at.moments[:u])
        slope = program.slope_of_utility(centre)
        slopes = np.vstack([slopes, slope])
        levels = np.append(levels, program.utility_at(centre) - slope @ centre)
        count = levels.size

        def master(z: Floats, slopes: Floats = slopes, levels: Floats = levels) -> tuple[float, Floats]:
            shares, others = z[: levels.size], z[levels.size :]
            member = dual.member(np.concatenate([shares @ slopes, others]))
            value = weight * member.log_partition + shares @ levels - others @ demanded
            value += 0.5 * program.ridge * float(others @ others)
            moments = member.mean[1:]
            ahead = [slopes @ moments[:u] + levels, moments[u:] - demanded + program.ridge * others]
            return float(value) / weight, np.asarray(np.concatenate(ahead) / weight)

        shares = np.append(shares * (1 - 1 / count), 1 / count)
        limits = [(0.0, 1.0)] * count + [(None, 0.0 if bound else None) for bound in program.is_bound]
        found = minimize(
            master,
            np.concatenate([shares, at.multipliers[u:]]),
            jac=True,
            method="SLSQP",
            bounds=limits,
            constraints={
                "type": "eq",
                "fun": lambda z, count=count: z[:count].sum() - 1.0,
                "jac": lambda z, count=count: np.r_[np.ones(count), np.zeros(z.size - count)],
            },
            options={"ftol": 1e-15, "maxiter": 500},
        )
        shares = np.maximum(found.x[:count], 0.0)
        shares /= shares.sum()
        ceiling = min(ceiling, weight * master(np.concatenate([shares, found.x[count:]]))[0])
        at = dual.constrained(np.concatenate([shares @ slopes, found.x[count:]]))
        if _value(dual, at) >= _value(dual, best):
            best = at
        gap = ceiling - _value(dual, best)
        if gap <= _KINKED_GAP * weight:
            break
    return replace(best, gap=max(gap, 0.0), is_solved=best.is_solved and gap <= _ROUGH_GAP * weight)


def _into_domain(program: LawProgram, inside: Floats, wanted: Floats) -> Floats:
    """The wanted moments, or a point towards them where U is finite."""
    for halvings in range(_HALVINGS):
        point: Floats = inside + (wanted - inside) / 2.0**halvings
        if math.isfinite(program.utility_at(point)):
            return point
    return inside


def _inside_domain(dual: _Dual, eta: Floats) -> LawSolution:
    """A law that meets the constraints, and whose moments U is finite at."""
    program = dual.program
    assert program.utility is not None
    start = dual.constrained(np.concatenate([np.zeros(program.valued), eta[program.valued :]]))
    if not start.is_solved or math.isfinite(program.utility_at(start.moments)):
        return start
    for margin in _MARGINS:
        rows, levels = _domain_rows(program, start.moments, dual.family.scale[1 : 1 + program.valued], margin)
        inner = _DomainFamily(dual.family, rows, program)
        bounded = LawProgram(
            valued=0,
            equalities=program.equalities,
            bounds=np.concatenate([program.bounds, levels]),
            ridge=program.ridge,
        )
        found = _Dual(inner, bounded, dual.weight, dual.share).constrained(np.zeros(bounded.size))
        moved = dual.solution(inner.outer(found.multipliers), is_solved=found.is_solved)
        if moved.is_solved and math.isfinite(program.utility_at(moved.moments)):
            return moved
    return replace(moved, is_solved=False)


def _domain_rows(program: LawProgram, moments: Floats, scale: Floats, margin: float) -> tuple[Floats, Floats]:
    """The conditions under which U is finite as G·m ≤ h, moved inside by a margin in standard deviations."""
    assert program.utility is not None
    centre = moments[: program.valued]
    rows, levels = [], []
    for condition in program.utility.domain:
        entries = np.asarray(condition.expression.value(centre), dtype=np.float64).ravel()
        for place, level in enumerate(entries):
            slope = np.asarray(_entry(condition.expression, place).gradient(centre), dtype=np.float64)
            width = float(np.linalg.norm(slope * scale))
            rows.append(-slope)
            levels.append(level - condition.bound - margin * width - slope @ centre)
    return np.array(rows).reshape(-1, program.valued), np.array(levels)


def _entry(expression: Expression, place: int) -> Expression:
    from alignkit.expressions import vec

    return vec(expression)[place]


class _DomainFamily:
    """The family of the constraints' moments, then of combinations G·m of the utility's."""

    def __init__(self, family: ExponentialFamily, rows: Floats, program: LawProgram) -> None:
        self._family, self._rows, self._program = family, rows, program
        u, e = program.valued, program.demanded.size
        self._map = np.zeros((1 + e + rows.shape[0], 1 + program.size))
        self._map[0, 0] = 1.0
        self._map[1 : 1 + e, 1 + u :] = np.eye(e)
        self._map[1 + e :, 1 : 1 + u] = rows
        self.size = self._map.shape[0]
        self.scale = np.maximum(np.abs(self._map) @ family.scale, 1e-300)
        self.precision = family.precision

    def at(self, slopes: Floats) -> Member:
        member = self._family.at(slopes @ self._map)
        return Member(
            slopes, member.log_partition, self._map @ member.mean, self._map @ member.covariance @ self._map.T
        )

    def reach(self, direction: Floats) -> float:
        return self._family.reach(direction @ self._map)

    def outer(self, multipliers: Floats) -> Floats:
        return multipliers @ self._map[1:, 1:]
