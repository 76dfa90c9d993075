"""Proximal maps by SCIP and HiGHS: against dense grids, another solver and closed forms, and what they promise."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

import alignkit as ak
import alignkit.expressions as ex
from alignkit import registry
from alignkit.contracts import Bid, Displacement, Guarantee, ProxProblem, Refusal
from alignkit.errors import ParameterError, StaleFitError, UnboundedTransportError
from alignkit.expressions.table import ENTRIES
from alignkit.transport import costs
from alignkit_pyomo.forms import FORMS, UNFORMED
from alignkit_pyomo.lowering import LOWERINGS, REFUSED
from alignkit_pyomo.model import Model
from alignkit_pyomo.preparation import prepare
from alignkit_pyomo.program import Unsupported, program_of
from alignkit_pyomo.prox import PyomoProxSolver
from alignkit_pyomo.scip import solve as solve_by_scip
from alignkit_pyomo.session import PyomoSession
from alignkit_pyomo.solving import Task
from alignkit_pyomo.workers import Workers

RNG = np.random.default_rng(20260511)
SHAPE = (2, 3)
W1, W2 = ex.Variable(1, name="w"), ex.Variable(2, name="w")
FREQUENCIES = RNG.normal(size=(3, 2))
PLACES = 2.0 * RNG.normal(size=(4, 2))

#: Of no curvature, λ each, with a Lipschitz constant for the grid they are held against.
ALGEBRAIC = {
    "waves": (ex.sin(3.0 * W1[0]) + 0.5 * ex.cos(5.0 * W1[0]), 1.0),
    "saturation": (2.0 * ex.tanh(3.0 * W1[0]) - ex.sigmoid(4.0 * W1[0] - 6.0) + ex.arctan(2.0 - W1[0]), 0.7),
    "far saturation": (ex.sigmoid(100.0 * W1[0] - 20.0), 0.5),
    "a convex curve": (ex.logistic(2.0 * W1[0]) + ex.huber(W1[0] - 0.5, 0.3), 1.5),
    "a product": (ex.sin(W2[0]) * ex.tanh(W2[1]) - ex.norm2(W2), 1.0),
    "waves and wells": (ex.sum(ex.sin(FREQUENCIES @ W2)) - ex.distance_to_points(W2, PLACES), 2.0),
    "kinks": (ex.max(FREQUENCIES @ W2) - 1.5 * ex.norm_inf(W2) + ex.abs(W2[0] - 0.4), 1.2),
    "steps": (ex.piecewise_linear(W2[0], [-1.0, 0.0, 0.5, 2.0], [0, 1, -1, 0.5]) + ex.clip(2 * W2[1], -1, 1), 2.0),
}  # fmt: skip

PIECEWISE = {
    "clipped": (ex.sum(ex.clip(2.0 * W2, -1.0, 1.0)) - 0.3 * ex.norm1(W2 - 0.4), 1.0),
    "zigzag": (ex.piecewise_linear(W2[0] + W2[1], [-2, -1, 0, 1, 2], [0, 1, -1, 2, 0.5]) - ex.abs(W2[0] - W2[1]), 1.0),
    "selection": (ex.sum_smallest(ex.stack([W2[0], W2[1], -W2[0] - W2[1]]), 1.5) + 0.5 * ex.max(W2), 2.0),
    "a fraction of the largest": (ex.sum_largest(ex.stack([W2[0], W2[1], 0.5 - W2[0]]), 1.5), 2.0),
    "capped": (ex.minimum(ex.norm1(W2), 1.0) - ex.pos(W2[0]) + ex.neg(W2[1] - 1.0), 1.8),
    "convex less concave": (ex.norm1(W2) - 2.0 * ex.norm_inf(W2 - 1.0), 1.1),
}  # fmt: skip


def solver(**options) -> PyomoProxSolver:
    return PyomoProxSolver(**({"workers": 1} | options))


def objective(problem: ProxProblem, points, found, steps=None):
    value = np.asarray(problem.nonlinear.value(found))
    if steps is None:
        return value - 0.5 * problem.weight * np.sum((found - points) ** 2, axis=-1)
    penalty = problem.displacement
    return value - problem.weight * penalty.cost.of_displacement(steps) + steps @ penalty.linear


def grid_around(point, radius, count):
    ticks = [np.linspace(one - radius, one + radius, count) for one in point]
    return np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(-1, len(point))


class TestForms:
    def test_every_atom_has_a_form_or_a_reason(self):
        assert FORMS.keys() == LOWERINGS.keys() and UNFORMED.keys() == REFUSED.keys()

    @pytest.mark.parametrize("entry", [one for one in ENTRIES if one.nodes], ids=lambda one: one.name)
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_a_program_at_a_point_has_the_value_there(self, entry, sign):
        """In a tiny ball the largest value of the program is that of the expression, from above and from below."""
        example = entry.example(ex.Variable(SHAPE))
        expression = sign * ex.inner(np.linspace(1.0, 2.0, example.size).reshape(example.shape), example)
        try:
            program = program_of(expression)
        except Unsupported as obstacle:
            assert any(kind in UNFORMED for kind in entry.nodes) and "has no algebraic form" in str(obstacle)
            return
        drawn = np.random.default_rng(3).normal(size=(4000, *SHAPE))
        point = drawn[np.isfinite(expression.value(drawn))][0].ravel()
        model = Model(point.size, unit=10.0)
        lower, upper = program.bounds(point[None], np.array([1e-7]))
        rest = program.write(model, point, 1e-7 * np.eye(point.size), lower[0], upper[0])
        model.objective = rest * model.unit
        answer = solve_by_scip(model, gap=1e-6, floor=-1e6, seconds=10.0)
        parts = program.parts
        quadratic = parts.quadratic.value(point[None])[0] if parts.curved else parts.vector @ point + parts.constant
        assert answer.bound / model.unit + quadratic == pytest.approx(
            float(expression.value(point.reshape(SHAPE))), rel=1e-5, abs=1e-4
        )


class TestAgainstGrids:
    @pytest.mark.parametrize("name", ALGEBRAIC)
    def test_algebraic(self, name):
        nonlinear, weight = ALGEBRAIC[name]
        k = nonlinear.variables()[0].size
        points = np.random.default_rng(1).normal(size=(3, k))
        problem = ProxProblem(nonlinear, weight, k, 3, tolerance=1e-4)
        bid = solver().bid(problem)
        assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED and bid.method.startswith("SCIP")
        solution = solver().open(problem).solve(points)
        found = objective(problem, points, solution.maximiser)
        assert not solution.unfinished.any()
        assert (solution.gap <= 1e-4 * np.maximum(1.0, np.abs(found))).all()
        assert solution.tied is None and (solution.evaluations >= 0).all()
        radius = nonlinear.lipschitz / weight
        for point, best, gap in zip(points, found, solution.gap, strict=True):
            brute = objective(problem, point, grid_around(point, radius, 20_001 if k == 1 else 601)).max()
            assert brute <= best + gap + 1e-9
            assert best <= brute + (2e-3 if k == 1 else 0.1)

    @pytest.mark.parametrize("cost", [costs.L1(), costs.PNorm(math.inf)], ids=["l1", "linf"])
    @pytest.mark.parametrize("name", PIECEWISE)
    def test_piecewise_linear(self, name, cost):
        nonlinear, weight = PIECEWISE[name]
        points = np.random.default_rng(2).normal(size=(3, 2))
        penalty = Displacement(cost, None, np.array([0.1, -0.2]))
        problem = ProxProblem(nonlinear, weight, 2, 3, displacement=penalty)
        bid = solver().bid(problem)
        assert isinstance(bid, Bid) and bid.method.startswith("HiGHS")
        solution = solver().open(problem).solve(points)
        found = objective(problem, points, solution.maximiser, solution.displacement)
        np.testing.assert_allclose(solution.maximiser, points + solution.displacement, atol=1e-12)
        assert not solution.unfinished.any() and (solution.gap <= 1e-6 * np.maximum(1.0, np.abs(found))).all()
        for point, best, gap in zip(points, found, solution.gap, strict=True):
            steps = grid_around(np.zeros(2), 4.0, 801)
            brute = objective(problem, point, point + steps, steps).max()
            assert brute <= best + gap + 1e-9
            assert best <= brute + 0.06

    def test_a_curve_under_a_distance(self):
        nonlinear = ex.sin(2.0 * W2[0]) + ex.cos(3.0 * W2[1])
        penalty = Displacement(costs.L1(), None, np.array([0.1, -0.2]))
        problem = ProxProblem(nonlinear, 3.0, 2, 2, tolerance=1e-4, displacement=penalty)
        points = np.random.default_rng(2).normal(size=(2, 2))
        solution = solver().open(problem).solve(points)
        found = objective(problem, points, solution.maximiser, solution.displacement)
        steps = grid_around(np.zeros(2), 1.5, 601)
        for point, best, gap in zip(points, found, solution.gap, strict=True):
            assert objective(problem, point, point + steps, steps).max() <= best + gap + 1e-9
        assert (solution.gap <= 2e-4).all()


class TestPrograms:
    def test_linear_programs_agree_with_cvxpy(self):
        """Concave piecewise linear rewards need no box, and many entries may move."""
        rng = np.random.default_rng(5)
        w = ex.Variable(3, name="w")
        nonlinear = -2.0 * ex.norm1(w - 1.0) + ex.min(rng.normal(size=(4, 3)) @ w)
        rows = np.linalg.qr(rng.normal(size=(40, 3)))[0].T
        penalty = Displacement(costs.L1(), rows, np.zeros(40))
        problem = ProxProblem(nonlinear, 1.5, 3, 4, displacement=penalty)
        points = rng.normal(size=(4, 3))
        found = solver().open(problem).solve(points)
        other = registry.require("cvxpy", "prox_solver")().open(problem).solve(points)
        mine, theirs = (objective(problem, points, one.maximiser, one.displacement) for one in (found, other))
        assert (np.abs(mine - theirs) <= found.gap + other.gap + 1e-9).all() and (found.gap < 1e-6).all()

    def test_an_unbounded_program_is_an_error(self):
        problem = ProxProblem(ex.min(W2) * 3.0, 1.0, 2, 1, displacement=Displacement(costs.L1(), None, np.zeros(2)))
        with pytest.raises(UnboundedTransportError, match="outgrows λ times the cost"):
            solver().open(problem).solve(np.zeros((1, 2)))

    def test_rows_outside_the_domain_find_their_way_in(self):
        problem = ProxProblem(ex.sum(ex.log(W2)) + ex.sin(W2[0]), 1.0, 2, 2, tolerance=1e-4)
        points = np.array([[-2.0, 3.0], [-40.0, -1.0]])
        solution = solver().open(problem).solve(points)
        assert not solution.unfinished.any()
        for point, best in zip(points, objective(problem, points, solution.maximiser), strict=True):
            ticks = np.linspace(1e-3, 6.0, 1500)
            grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
            assert objective(problem, point, grid).max() <= best + 2e-4 * max(1.0, abs(best))

    def test_the_box_holds_every_maximiser(self):
        """‖z − v‖ ≤ L/λ, and less where a summand is concave; a bounded summand is bounded by its range."""
        points = np.random.default_rng(4).normal(size=(20, 1))
        for nonlinear, weight in (
            (ex.sin(3.0 * W1[0]), 0.5),
            (-ex.exp(W1[0]) + ex.cos(4.0 * W1[0]), 0.8),
            (-ex.square(ex.sin(W1[0]) * W1[0]) - 2.0 * ex.abs(W1[0] - 1.0), 0.3),
        ):
            prepared = prepare(ProxProblem(nonlinear, weight, 1, 20))
            ball = prepared.reach.ball(points)
            ticks = np.linspace(-20.0, 20.0, 40_001)[:, None]
            for point, centre, radius in zip(points, ball.centres, ball.radii, strict=True):
                best = ticks[np.argmax(objective(prepared.problem, point, ticks))]
                assert abs(best[0] - centre[0]) <= radius + 1e-3


class TestLimits:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_time_limit_is_honoured_with_what_was_found(self, workers):
        w = ex.Variable(3, name="w")
        nonlinear = ex.sum(ex.sin(1.5 * np.random.default_rng(0).normal(size=(8, 3)) @ w))
        problem = ProxProblem(nonlinear, 0.5, 3, 2)
        session = PyomoSession(prepare(problem), seconds=0.5, workers=workers)
        points = np.random.default_rng(0).normal(size=(2, 3))
        session.solve(points)  # workers start
        told = []
        begun = time.perf_counter()
        solution = session.solve(points, lambda *event: told.append((event, time.perf_counter() - begun)))
        taken = time.perf_counter() - begun
        # Two rows by one worker, and one row each by two; what is written in Python comes on top.
        assert taken <= 1.2 * 0.5 * (2 if workers == 1 else 1) + 0.3
        assert [event for event, _ in told] == [("pyomo", 1, 2), ("pyomo", 2, 2)]
        assert solution.unfinished.all() and np.isfinite(solution.gap).all()
        found = objective(problem, points, solution.maximiser)
        assert (found >= objective(problem, points, points)).all()
        for point, best, gap in zip(points, found, solution.gap, strict=True):
            assert objective(problem, point, grid_around(point, 3.0, 61)).max() <= best + gap + 1e-9
        session.close()

    def test_answers_do_not_depend_on_the_number_of_workers(self):
        nonlinear, weight = ALGEBRAIC["waves"]
        problem = ProxProblem(nonlinear, weight, 1, 6)
        points = np.random.default_rng(7).normal(size=(6, 1))
        alone = solver().open(problem).solve(points)
        session = solver(workers=3).open(problem)
        together = session.solve(points)
        session.close()
        again = session.solve(points)
        session.close()
        for other in (together, again):
            np.testing.assert_array_equal(other.maximiser, alone.maximiser)
            np.testing.assert_array_equal(other.gap, alone.gap)

    def test_a_worker_that_dies_leaves_its_row_unanswered(self):
        prepared = prepare(ProxProblem(*ALGEBRAIC["waves"], 1, 2))
        points = np.zeros((2, 1))
        ball = prepared.reach.ball(points)
        rows = prepared.rows(points, ball, prepared.objective(points, points, None), np.full(2, 1e-4))
        tasks = [Task(row.model, 4e-5, 0.0, 10.0) for row in rows]
        workers = Workers(2)
        assert all(answer.is_finished for _, answer in workers.solve(tasks))
        workers._processes[0].end()
        answers = [answer for _, answer in workers.solve(tasks * 2)]
        lost = [answer for answer in answers if not answer.is_finished]
        assert len(answers) == 4 and len(lost) == 1
        assert lost[0].bound == math.inf and len(lost[0].solutions) == 0
        assert all(answer.is_finished for _, answer in workers.solve(tasks))
        workers.close()

    def test_processes_end_when_their_answers_are_no_longer_wanted(self):
        prepared = prepare(ProxProblem(*ALGEBRAIC["waves"], 1, 4))
        points = np.zeros((4, 1))
        ball = prepared.reach.ball(points)
        rows = prepared.rows(points, ball, prepared.objective(points, points, None), np.full(4, 1e-4))
        workers = Workers(2)
        answers = workers.solve([Task(row.model, 4e-5, 0.0, 10.0) for row in rows])
        next(answers)
        processes = [one._process for one in workers._processes]
        answers.close()
        assert all(process.poll() is not None for process in processes) and workers._processes == []


class TestUpdates:
    def test_a_session_follows_parameters_and_refuses_what_the_backend_refuses(self):
        height = ex.Parameter((), 1.0, name="height")
        nonlinear = ex.sin(2.0 * W1[0]) + height * ex.sum_squares(W1)
        problem = ProxProblem(nonlinear, 3.0, 1, 2, tolerance=1e-4)
        session = solver().open(problem)
        points = np.array([[0.3], [-1.0]])
        for value in (1.0, -1.0, 0.5):
            height.value = value
            found = session.solve(points)
            for point, best in zip(points, objective(problem, points, found.maximiser), strict=True):
                brute = objective(problem, point, grid_around(point, 6.0, 20_001)).max()
                assert abs(best - brute) <= 2e-4 * max(1.0, abs(best))
        height.value = 2.0
        with pytest.raises(StaleFitError, match="cannot answer it"):
            session.solve(points)
        assert session.update(ProxProblem(nonlinear, 5.0, 1, 2)) is True
        assert session.update(ProxProblem(nonlinear, 4.0, 1, 2)) is False
        assert session.update(ProxProblem(ex.sin(W1[0]), 1.0, 1, 2)) is True
        assert not session.solve(points).unfinished.any()


class TestRefusals:
    @pytest.mark.parametrize(
        ("problem", "reason"),
        [
            (ProxProblem(ex.lipschitz(lambda x: x[:, 0], 1.0, W2), 1.0, 2, 1), "has no algebraic form: of a"),
            (ProxProblem(ex.sum_squares(W2) + ex.norm1(W2), 2.0, 2, 1), "of the quadratic summands, 2, is not"),
            (ProxProblem(ex.square(ex.norm2(W2) + 1.0), 9.0, 2, 1), "neither concave nor Lipschitz nor bounded above"),
            (ProxProblem(ex.sum(ex.sin(W2)), 1.0, 2, 1, device="cuda"), "on the CPU alone, not on cuda"),
            (
                ProxProblem(ex.abs(W1[0]), 1.0, 1, 1, displacement=Displacement(costs.Euclidean(), None, np.zeros(1))),
                "the cost is ‖x − y‖",
            ),
            (
                ProxProblem(2.0 * ex.norm1(W2), 1.0, 2, 1, displacement=Displacement(costs.L1(), None, np.zeros(2))),
                "nothing bounds how far a maximiser lies",
            ),
            (ProxProblem(ex.sum(ex.sin(30.0 * ex.Variable(6, name="w"))), 0.1, 6, 1), "a row would take about"),
        ],
        ids=["atom", "curvature", "growth", "device", "cost", "slope", "time"],
    )  # fmt: skip
    def test_reasons(self, problem, reason):
        answer = solver().bid(problem)
        assert isinstance(answer, Refusal) and reason in answer.reason
        with pytest.raises(ValueError, match="refuses this problem"):
            solver().open(problem)

    def test_options(self):
        with pytest.raises(ParameterError, match="seconds_per_row"):
            PyomoProxSolver(seconds_per_row=0.0)
        with pytest.raises(ParameterError, match="workers"):
            PyomoProxSolver(workers=0)


def test_what_a_user_sees():
    x = ak.Variable((3, 3))
    direction = np.random.default_rng(1).normal(size=(1, 9))
    base = ak.base.Gaussian(np.zeros((3, 3)), 1.0)
    reward = ak.sum(ak.abs(direction @ ak.vec(x) - 0.5)) + ak.mean(x)
    problem = ak.Problem(reward, base, ak.Wasserstein(weight=2.0))
    plan = problem.compile(backend="pyomo", tolerance=1e-4)
    assert plan.backend == "pyomo"
