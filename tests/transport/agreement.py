"""Random proximal problems, and what the answers of any two solvers that take one have to agree on."""

import itertools
from collections.abc import Collection

import numpy as np

import alignkit.expressions as ak
from alignkit import registry
from alignkit.contracts import Bid, Displacement, Guarantee, ProxProblem
from alignkit.expressions.splitting import split
from alignkit.transport.costs import L1, ElasticNet, Euclidean, PNorm

BACKENDS = registry.offers("prox_solver")
ROWS = 4
#: Solvers with a time limit, which rows may miss on a busy machine: their bounds hold all the same.
LIMITED = {"pyomo"}
EPS = float(np.finfo(np.float64).eps)


# ---- problems: A with rows repeated, dependent, zero or alike; f from a kind of atom, quadratics and a linear part


def matrix(rng, rows, k):
    found = rng.standard_normal((rows, k)) * 10.0 ** rng.uniform(-0.7, 0.7, (rows, 1))
    shape = rng.integers(6)
    if shape == 1:
        found[rows // 2 :] = found[: rows - rows // 2]
    elif shape == 2:
        found = np.outer(rng.standard_normal(rows), found[0])
    elif shape == 3:
        found[rng.integers(rows)] = 0.0
    elif shape == 4:
        found = 0.3 * found + rng.standard_normal(k)
    return found


def affine(rng, w, *, least=1):
    k = w.size
    rows = int(rng.integers(least, 2 * k + 3))
    return matrix(rng, rows, k) @ w - rng.standard_normal(rows), rows


def absolute(rng, w):
    a, rows = affine(rng, w)
    return -ak.inner(rng.uniform(0.1, 2.0, rows), ak.abs(a)) if rng.random() < 0.5 else -ak.norm1(a)


def halved(rng, w):
    a, rows = affine(rng, w)
    return -ak.inner(rng.uniform(0.1, 2.0, rows), ak.pos(a)) - ak.sum(ak.neg(a))


def separable(rng, w):
    scales, centres = rng.uniform(0.2, 3.0, w.size), rng.standard_normal(w.size)
    pieces = [
        -ak.inner(scales, ak.abs(w - centres)),
        -ak.sum(ak.huber(ak.multiply(scales, w) + centres, M=float(rng.uniform(0.2, 2.0)))),
        -ak.sum(ak.pos(ak.multiply(centres, w) - scales)),
    ]
    return pieces[rng.integers(3)] + pieces[rng.integers(3)]


def top(rng, w):
    a, _ = affine(rng, w, least=2)
    return -float(rng.uniform(0.2, 3.0)) * [ak.max, ak.norm_inf][rng.integers(2)](a)


def bottom(rng, w):
    a, _ = affine(rng, w, least=2)
    if rng.random() < 0.5:
        return float(rng.uniform(0.2, 3.0)) * ak.min(a)
    return ak.minimum(*(a[place] for place in range(a.size)), 0.5)


def soft_top(rng, w):
    a, _ = affine(rng, w, least=2)
    return -float(rng.uniform(0.2, 3.0)) * ak.log_sum_exp(a)


def huber(rng, w):
    a, rows = affine(rng, w)
    return -ak.inner(rng.uniform(0.1, 2.0, rows), ak.huber(a, M=float(rng.uniform(0.1, 2.0))))


def logistic(rng, w):
    a, rows = affine(rng, w)
    return -ak.inner(rng.uniform(0.1, 2.0, rows), ak.logistic(a))


def smooth_sum(rng, w):
    return soft_top(rng, w) + huber(rng, w) + logistic(rng, w)


def quadratic(rng, w):
    a, _ = affine(rng, w)
    return -ak.sum_squares(a)


KINDS = (absolute, halved, separable, top, bottom, soft_top, huber, logistic, smooth_sum, quadratic)


def with_quadratics(rng, f, w, weight):
    """f and a linear part, a concave quadratic, or a convex one that λ dominates."""
    chosen = rng.integers(5)
    if chosen == 1:
        f = f + ak.inner(rng.standard_normal(w.size), w)
    elif chosen == 2:
        f = f - 0.5 * ak.sum_squares(matrix(rng, int(rng.integers(1, w.size + 2)), w.size) @ w)
    elif chosen == 3:
        f = f + float(rng.uniform(0.05, 0.4)) * weight * ak.sum_squares(w - 1.0)
    elif chosen == 4:
        f = f - ak.square(rng.standard_normal(w.size) @ w - 1.0) + ak.sum(w)
    return f


def problem_of(kind, seed):
    """One of the problems, with its rows v near kinks and far from them."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    k, weight = int(rng.integers(1, 7)), float(np.exp(rng.uniform(np.log(0.05), np.log(20.0))))
    w = ak.Variable(k, name="w")
    f = with_quadratics(rng, kind(rng, w), w, weight)
    points = rng.standard_normal((ROWS, k)) * np.array([0.0, 1.0, 3.0, 50.0])[:, None]
    return ProxProblem(f, weight, k, ROWS), points


PRICED = (L1(), Euclidean(), Euclidean(1.5), PNorm(np.inf), PNorm(3, 2), ElasticNet(0.3))
BOUNDED = (absolute, huber, quadratic, top)


def priced_problem_of(place, seed):
    """The same for a cost that is not quadratic, of f bounded above, so that small g leave the problem bounded."""
    cost = PRICED[place]
    rng = np.random.default_rng([1000 + place, seed])
    k, m, weight = int(rng.integers(1, 5)), int(rng.integers(5, 12)), float(np.exp(rng.uniform(-1.5, 2.0)))
    w = ak.Variable(k, name="w")
    f = -ak.norm_inf(affine(rng, w)[0]) if seed % 4 == 3 else BOUNDED[seed % 3](rng, w)
    rows = np.linalg.qr(rng.standard_normal((m, k)))[0].T
    linear = rng.standard_normal(m)
    linear -= rows.T @ (rows @ linear)
    linear *= (0.0 if seed % 2 else 0.3 * weight) / np.abs(linear).sum()
    if isinstance(cost, Euclidean):  # as the reduction leaves it
        rows, linear = np.eye(k, k + 1), np.append(np.zeros(k), np.linalg.norm(linear))
    points = rng.standard_normal((ROWS, k)) * np.array([0.0, 1.0, 3.0, 20.0])[:, None]
    return ProxProblem(f, weight, k, ROWS, displacement=Displacement(cost, rows, linear)), points


# ---- what is asked of the answers


def bidders(problem, names=BACKENDS):
    """The solvers among those named that take a problem, with their bids."""
    solvers = {name: registry.require(name, "prox_solver")() for name in names}
    if problem.displacement is not None:
        solvers = {name: one for name, one in solvers.items() if getattr(one, "takes_displacements", False)}
    bids = {name: solver.bid(problem) for name, solver in solvers.items()}
    return {name: (solvers[name], bid) for name, bid in bids.items() if isinstance(bid, Bid)}


def objective(problem, points, solution):
    value = problem.nonlinear.value(solution.maximiser)
    if problem.displacement is None:
        paid = problem.weight / 2 * np.sum((solution.maximiser - points) ** 2, axis=1)
        return value - paid, np.abs(value) + paid
    found = solution.displacement
    if not isinstance(found, np.ndarray):
        found = found.dense(problem.displacement.size)
    rows = problem.displacement.rows
    moved = points + (found if rows is None else found @ rows.T)
    np.testing.assert_allclose(moved, solution.maximiser, rtol=1e-9, atol=1e-9)
    paid = problem.weight * problem.displacement.cost.of_displacement(found)
    earned = found @ problem.displacement.linear
    return value - paid + earned, np.abs(value) + paid + np.abs(earned)


def check_agreement(problem, points, names: Collection[str] = BACKENDS):
    """Raise AssertionError where two of the solvers named disagree; those that were compared."""
    answers = {}
    for name, (solver, bid) in bidders(problem, names).items():
        solution = solver.open(problem).solve(points.copy())
        best, size = objective(problem, points, solution)
        if bid.guarantee >= Guarantee.CERTIFIED:
            within = solution.gap <= problem.tolerance * np.maximum(1.0, np.abs(best))
            assert (within | solution.unfinished).all(), (name, solution.gap)
        assert name in LIMITED or not solution.unfinished.any(), (name, solution.gap)
        answers[name] = best, solution.gap + 1e3 * EPS * (1.0 + size), solution.maximiser
    strength = problem.weight - split(problem.nonlinear).critical_weight
    for (one, (best, slack, at)), (other, (rival, rival_slack, rival_at)) in itertools.combinations(answers.items(), 2):
        assert (best <= rival + rival_slack).all(), (other, "is below", one, best - rival, rival_slack)
        assert (rival <= best + slack).all(), (one, "is below", other, rival - best, slack)
        if problem.displacement is None:
            distance = np.linalg.norm(at - rival_at, axis=1)
            # A point whose objective lacks ε lies within √(2ε/μ) of the one maximiser.
            allowed = np.sqrt(2.0 * slack / strength) + np.sqrt(2.0 * rival_slack / strength)
            assert (distance <= allowed).all(), (one, other, distance, allowed)
    return tuple(answers)
