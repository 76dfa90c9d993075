"""maximise f(z) − (λ/2)(z − v)² over z ∈ R for concave f, by two tangents that close in on the maximum."""

from __future__ import annotations

import numpy as np

from alignkit.contracts import Bid, Floats, Guarantee, Progress, ProxProblem, ProxSolution, Refusal

__all__ = ["BisectProxSolver", "BisectSession"]

_STEPS = 200
_SECONDS_PER_ROW = 3e-6
_ROUNDING = 32 * float(np.finfo(np.float64).eps)


class BisectProxSolver:
    """Takes any concave reward of one feature that is finite everywhere; see `alignkit.contracts.ProxSolver`."""

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a certified solve, or say what is missing."""
        f = problem.nonlinear
        if problem.dimension != 1:
            return Refusal("bisect", f"k = {problem.dimension}, and it takes rewards of one feature alone")
        if not f.is_concave():
            return Refusal("bisect", f"not concave: {f.curvature_rule}")
        if f.domain:
            return Refusal("bisect", f"not finite everywhere: it needs {f.domain[0]}")
        return Bid("bisect", "bracketing by tangents", Guarantee.CERTIFIED, 1e-4 + _SECONDS_PER_ROW * problem.rows)

    def open(self, problem: ProxProblem) -> BisectSession:
        """Nothing is compiled."""
        return BisectSession(problem)


class BisectSession:
    """One problem; see `alignkit.contracts.ProxSession`.

    A bracket [a, b] around the maximiser has slopes f'(a) and f'(b) whose tangents lie above f. What they allow at most
    is the upper bound of the gap, and where they allow it, the next point to look at.
    """

    def __init__(self, problem: ProxProblem) -> None:
        self.problem = problem

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, 1)."""
        weight, tolerance, v = self.problem.weight, self.problem.tolerance, points[:, 0].copy()
        with np.errstate(all="ignore"):
            value, slope = self._look(v)
            best, objective = v.copy(), value.copy()
            # f' falls, so that the maximiser lies between v and v + f'(v)/λ.
            low, high = np.minimum(v, v + slope / weight), np.maximum(v, v + slope / weight)
            ends = [[low, *self._look(low)], [high, *self._look(high)]]
            for step in range(_STEPS):
                upper, candidate = _highest(*ends, v, weight)
                if step % 2:
                    # Tangents alone may crawl; a bracket that is halved does not.
                    candidate = 0.5 * (ends[0][0] + ends[1][0])
                found, slope = self._look(candidate)
                reached = found - 0.5 * weight * (candidate - v) ** 2
                best, objective = np.where(reached > objective, candidate, best), np.fmax(objective, reached)
                rises = slope - weight * (candidate - v) > 0
                for end, moved in zip(ends, (rises, ~rises), strict=True):
                    end[:] = [
                        np.where(moved, new, old) for new, old in zip((candidate, found, slope), end, strict=True)
                    ]
                size = (
                    np.abs(objective) + weight * (best - v) ** 2 + np.abs(ends[0][2] * best) + np.abs(ends[1][2] * best)
                )
                gap = np.maximum(upper - objective, 0.0) + _ROUNDING * size
                gap = np.where(np.isfinite(gap) & np.isfinite(objective), gap, np.inf)
                if (gap <= 0.1 * tolerance).all():
                    break
        if progress is not None:
            progress("bisect", len(v), len(v))
        unfinished = ~(gap <= tolerance * np.maximum(1.0, np.abs(objective)))
        return ProxSolution(np.where(np.isfinite(best), best, v)[:, None], gap, unfinished)

    def _look(self, z: Floats) -> tuple[Floats, Floats]:
        """f and a supergradient of it at z, (n,) each."""
        f = self.problem.nonlinear
        return np.asarray(f.value(z[:, None])), np.asarray(f.gradient(z[:, None]))[:, 0]


def _highest(left: list[Floats], right: list[Floats], v: Floats, weight: float) -> tuple[Floats, Floats]:
    """The maximum over [a, b] of the lower of two tangents less (λ/2)(z − v)², and where it is."""
    (a, f_a, s_a), (b, f_b, s_b) = left, right
    crossing = np.where(s_a > s_b, (f_b - s_b * b - f_a + s_a * a) / (s_a - s_b), 0.5 * (a + b))
    crossing = np.clip(crossing, a, b)
    # Each tangent's own maximiser, where it lies on that tangent's side of the crossing.
    z = np.clip(crossing, np.minimum(v + s_b / weight, b), np.maximum(v + s_a / weight, a))
    model = np.minimum(f_a + s_a * (z - a), f_b + s_b * (z - b))
    return model - 0.5 * weight * (z - v) ** 2, z
