"""The grid and the global solvers, which share no code, on a hundred random rewards of no curvature."""

from __future__ import annotations

import numpy as np

import alignkit.expressions as ex
from alignkit import registry
from alignkit.contracts import Bid, ProxProblem
from alignkit_pyomo.prox import PyomoProxSolver

PROBLEMS = 100


def random_problem(seed: int) -> tuple[ProxProblem, np.ndarray]:
    """Two summands with a constant of Lipschitz, λ and a row, in one or two dimensions."""
    rng = np.random.default_rng(seed)
    k = 1 + seed % 2
    w = ex.Variable(k, name="w")
    slopes, heights = rng.normal(size=(3, k)), rng.normal(size=3)
    summands = [
        ex.inner(heights, ex.sin(1.5 * slopes @ w)),
        ex.inner(heights, ex.tanh(2.0 * slopes @ w)),
        -ex.distance_to_points(w, 2.0 * rng.normal(size=(4, k))),
        ex.max(slopes @ w),
        -ex.abs(w[0] - 0.3),
        ex.norm2(w),
        ex.clip(w[-1], -1.0, 1.0),
        -ex.norm_inf(w - 1.0),
        ex.sigmoid(3.0 * w[0]),
        ex.piecewise_linear(w[0], [-1.0, 0.0, 1.0], [0.0, 1.0, -0.5]),
    ]
    first, second = (summands[place] for place in rng.choice(len(summands), 2, replace=False))
    weight, point = float(rng.uniform(0.8, 3.0)), rng.normal(size=(1, k))
    return ProxProblem(first + float(rng.uniform(0.5, 1.5)) * second, weight, k, 1, tolerance=1e-4), point


def test_two_global_methods_agree_within_their_gaps():
    grid, solver = registry.require("grid", "prox_solver")(), PyomoProxSolver(workers=1)
    for seed in range(PROBLEMS):
        problem, point = random_problem(seed)
        assert isinstance(solver.bid(problem), Bid) and isinstance(grid.bid(problem), Bid)
        answers = [one.open(problem).solve(point) for one in (solver, grid)]
        reached = [
            float(problem.nonlinear.value(one.maximiser)[0])
            - 0.5 * problem.weight * float(np.sum((one.maximiser - point) ** 2))
            for one in answers
        ]
        upper = [value + float(one.gap[0]) for value, one in zip(reached, answers, strict=True)]
        assert max(reached) <= min(upper) + 1e-12, (seed, str(problem.nonlinear))
        assert not any(one.unfinished.any() for one in answers), (seed, str(problem.nonlinear))
