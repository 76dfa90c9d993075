"""Certified proximal maps on torch against closed forms, scipy and cvxpy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

import alignkit.expressions as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit.errors import StaleFitError
from alignkit_cvxpy.prox import CvxpyProxSolver
from alignkit_torch.prox import TorchProxSolver

TOLERANCE = 1e-6


def open_session(f, weight, k, **options):
    problem = ProxProblem(f, weight, k, 100, **options)
    bid = TorchProxSolver().bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED and bid.seconds > 0, bid
    return TorchProxSolver().open(problem)


def objective(f, weight, points, z):
    return f.value(z) - 0.5 * weight * np.sum((z - points) ** 2, axis=1)


def certified(f, weight, points, session=None, **options):
    """Solve, and check what every solution promises of itself."""
    session = session or open_session(f, weight if np.ndim(weight) == 0 else 1.0, points.shape[1], **options)
    solution = session.solve(points) if np.ndim(weight) == 0 else session.solve_weighted(points, weight)
    reached = objective(f, weight, points, solution.maximiser)
    assert not solution.unfinished.any()
    assert (solution.gap >= 0).all() and (solution.gap <= TOLERANCE * np.maximum(1.0, np.abs(reached))).all()
    np.testing.assert_allclose(solution.value, f.value(solution.maximiser), rtol=1e-9, atol=1e-9)
    return solution


def rewards(k, m, seed):
    """A reward of each kind, over (k,), with m affine rows."""
    random = np.random.default_rng(seed)
    matrix, offset = random.standard_normal((m, k)), random.standard_normal(m)
    root = random.standard_normal((k, k))
    w = ak.Variable(k, name="w")
    a = matrix @ w + offset
    return {
        "log_sum_exp": -2.0 * ak.log_sum_exp(a),
        "logistic and huber": -ak.sum(ak.logistic(a)) - 0.5 * ak.sum(ak.huber(a, 0.3)) + w[0],
        "two soft maxima": -ak.log_sum_exp(a) - ak.log_sum_exp(2.0 * a[:2]),
        "norm1": -ak.norm1(a),
        "norm1 and pos": -ak.norm1(a) - ak.sum(ak.pos(a[:2])) - 0.3 * w[0],
        "min": ak.min(a),
        "norm_inf": -1.5 * ak.norm_inf(a),
        "max with a quadratic": -ak.max(a) - 0.5 * ak.quad_form(w, root @ root.T),
        "huber with a dominated quadratic": -ak.sum(ak.huber(a)) + 0.2 * ak.sum_squares(w),
    }


KINDS = list(rewards(2, 5, 0))


@pytest.mark.parametrize(("place", "kind"), list(enumerate(KINDS)))
def test_it_agrees_with_cvxpy_within_the_gaps(place, kind):
    k, m = [(2, 5), (4, 4), (5, 3)][place % 3]
    f, weight = rewards(k, m, place)[kind], 0.9
    points = 2.0 * np.random.default_rng(m).standard_normal((8, k))
    solution = certified(f, weight, points)
    other = CvxpyProxSolver().open(ProxProblem(f, weight, k, len(points))).solve(points)
    here, there = (objective(f, weight, points, z) for z in (solution.maximiser, other.maximiser))
    rounding = 1e-13 * (1.0 + np.abs(here))
    assert (there - here <= solution.gap + rounding).all() and (here - there <= other.gap + rounding).all()


@pytest.mark.parametrize("kind", ["log_sum_exp", "logistic and huber", "two soft maxima"])
def test_smooth_rewards_are_as_scipy_has_them(kind):
    f, weight = rewards(4, 6, 3)[kind], 0.3
    points = np.random.default_rng(0).standard_normal((4, 4))
    solution = certified(f, weight, points)
    for v, z in zip(points, solution.maximiser, strict=True):
        found = minimize(lambda y, v=v: -objective(f, weight, v[None], y[None])[0], v, method="BFGS", tol=1e-10)
        assert objective(f, weight, v[None], z[None])[0] >= -found.fun - TOLERANCE
        np.testing.assert_allclose(z, found.x, atol=1e-3)


def test_rotated_soft_thresholding():
    """‖Qw − t‖₁ with QᵀQ = I: soft thresholding in rotated coordinates."""
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.standard_normal((6, 6)))[0]
    points, t, weight = 2.0 * random.standard_normal((300, 6)), random.standard_normal(6), 1.5
    turned = points @ rotation.T - t
    expected = (t + np.sign(turned) * np.maximum(np.abs(turned) - 1.0 / weight, 0.0)) @ rotation
    solution = certified(-ak.norm1(rotation @ ak.Variable(6) - t), weight, points)
    away = np.linalg.norm(solution.maximiser - expected, axis=1)
    assert (away <= np.sqrt(2 * solution.gap / weight)).all() and np.median(away) < 1e-10


def test_the_largest_entry_is_capped():
    """Of max wᵢ the map lowers the largest entries to a level, by 1/λ in all."""
    points, weight = np.random.default_rng(0).standard_normal((200, 5)), 0.8
    falling = -np.sort(-points, axis=1)
    levels = (np.cumsum(falling, axis=1) - 1.0 / weight) / np.arange(1, 6)
    level = levels.max(axis=1, keepdims=True)
    solution = certified(-ak.max(ak.Variable(5)), weight, points)
    away = np.linalg.norm(solution.maximiser - np.minimum(points, level), axis=1)
    assert (away <= np.sqrt(2 * solution.gap / weight)).all() and np.median(away) < 1e-10


@pytest.mark.parametrize("weight", [1e-5, 1e-2, 1e3])
@pytest.mark.parametrize("kind", KINDS[:7])
def test_any_weight_and_correlated_rows(kind, weight):
    """Rows of A correlated at 0.9, as many twice over: B is rank-deficient and nearly so again."""
    random = np.random.default_rng(1)
    matrix = np.sqrt(0.9) * random.standard_normal(4) + np.sqrt(0.1) * random.standard_normal((5, 4))
    matrix = np.vstack([matrix, matrix])
    a = matrix @ ak.Variable(4) + np.tile(random.standard_normal(5), 2)
    f = {
        "log_sum_exp": -ak.log_sum_exp(a),
        "logistic and huber": -ak.sum(ak.logistic(a)) - ak.sum(ak.huber(a, 0.1)),
        "two soft maxima": -ak.log_sum_exp(a) - ak.log_sum_exp(2.0 * a[:2]),
        "norm1": -ak.norm1(a),
        "norm1 and pos": -ak.norm1(a) - ak.sum(ak.pos(a[:2])),
        "min": ak.min(a),
        "norm_inf": -ak.norm_inf(a),
    }[kind]
    certified(f, weight, random.standard_normal((40, 4)))


def test_ties():
    """Pieces that coincide, and rows that start on a kink."""
    w = ak.Variable(3)
    points = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
    for f in (-ak.max(np.vstack([np.eye(3), np.eye(3)]) @ w), -ak.norm_inf(w), -ak.norm1(np.tri(3) @ w)):
        certified(f, 0.7, points)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_answered_by_itself(kind):
    f, points = rewards(4, 6, 5)[kind], 3.0 * np.random.default_rng(2).standard_normal((30, 4))
    session = open_session(f, 0.8, 4)
    together = certified(f, 0.8, points, session)
    assert session.solve(points[:0]).maximiser.shape == (0, 4)
    for row in (0, 17):
        alone = certified(f, 0.8, points[row : row + 1], session)
        allowed = np.sqrt(2 * alone.gap[0] / 0.4) + np.sqrt(2 * together.gap[row] / 0.4)
        assert np.linalg.norm(alone.maximiser[0] - together.maximiser[row]) <= allowed


def test_chunks_are_seamless(monkeypatch):
    f, points, seen = rewards(4, 6, 5)["min"], np.random.default_rng(2).standard_normal((25, 4)), []
    session = open_session(f, 0.8, 4)
    monkeypatch.setattr("alignkit_torch.prox_session._CACHE", 10 * session.engine.row_bytes)
    solution = session.solve(points, lambda *event: seen.append(event))
    assert seen == [("torch", 10, 25), ("torch", 20, 25), ("torch", 25, 25)]
    assert not solution.unfinished.any()


@pytest.mark.parametrize("kind", ["log_sum_exp", "logistic and huber", "norm1", "norm_inf"])
@pytest.mark.parametrize("direct", [2, 128])
def test_many_dimensions(kind, direct, monkeypatch):
    """Products with B instead of systems of size k, where k is large."""
    for module in ("prox_smooth", "prox_dual"):
        monkeypatch.setattr(f"alignkit_torch.{module}.DIRECT_DIMENSION", direct)
    f = rewards(12, 15, 4)[kind]
    points = np.random.default_rng(2).standard_normal((10, 12))
    certified(f, 1.0, points)
    certified(f, 1e-3, points)


class TestTheGap:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_about_the_point_and_not_about_the_problem(self, kind):
        """Move what the solver found: the gap must grow to at least the true error."""
        f, weight = rewards(4, 6, 5)[kind], 0.8
        points = np.random.default_rng(2).standard_normal((30, 4))
        session = open_session(f, weight, 4)
        best = objective(f, weight, points, certified(f, weight, points, session).maximiser)
        solve = session.engine.solver.solve

        def spoil(rows):
            y, dual = solve(rows)
            return y + 0.05, dual

        session.engine.solver.solve = spoil
        spoilt = session.solve(points)
        error = best - objective(f, weight, points, spoilt.maximiser)
        assert error.max() > 1e-3 and spoilt.unfinished.all() and (spoilt.gap >= error).all()

    @pytest.mark.parametrize("kind", ["norm1", "min", "norm_inf"])
    def test_it_follows_the_dual_point(self, kind):
        f, weight = rewards(4, 6, 5)[kind], 0.8
        points = np.random.default_rng(2).standard_normal((30, 4))
        session = open_session(f, weight, 4)
        solve, block = session.engine.solver.solve, session.engine.kinked

        def spoil(rows):
            y, dual = solve(rows)
            return y, block.nearest(dual + 0.1 * dual.flip(1) + 0.01)

        session.engine.solver.solve = spoil
        assert (session.solve(points).gap > 1e-6).mean() > 0.9


class TestUpdates:
    def test_another_weight_and_other_parameters(self):
        centre = ak.Parameter((3,), np.zeros(3), name="centre")
        matrix = np.random.default_rng(0).standard_normal((4, 3))
        w = ak.Variable(3)
        f = -ak.norm1(matrix @ (w - centre))
        points = np.random.default_rng(1).standard_normal((5, 3))
        session = open_session(f, 1.0, 3)
        first = certified(f, 1.0, points, session)
        assert session.update(ProxProblem(f, 2.0, 3, 5))
        certified(f, 2.0, points, session)
        centre.value = np.ones(3)
        moved = certified(f, 2.0, points + 1.0, session)
        assert session.update(ProxProblem(f, 1.0, 3, 5))
        moved = certified(f, 1.0, points + 1.0, session)
        np.testing.assert_allclose(moved.maximiser - 1.0, first.maximiser, atol=2e-3)

    def test_it_declines_what_has_another_form(self):
        scale = ak.Parameter((), 1.0, name="scale")
        w = ak.Variable(3)
        f = scale * ak.sum_squares(w) - ak.norm1(np.tri(3) @ w)
        session = open_session(f, 3.0, 3)
        assert not session.update(ProxProblem(f, 1.9, 3, 5))
        assert not session.update(ProxProblem(-ak.norm1(w), 3.0, 3, 5))
        points = np.ones((1, 3))
        certified(f, 3.0, points, session)
        scale.value = 2.0
        with pytest.raises(StaleFitError, match="Raise λ"):
            session.solve(points)


class TestWeightsOfTheirOwn:
    @pytest.mark.parametrize("kind", KINDS[:7])
    def test_each_row_is_solved_at_its_weight(self, kind):
        f, random = rewards(4, 6, 5)[kind], np.random.default_rng(3)
        points, weights = 2.0 * random.standard_normal((6, 4)), 10.0 ** random.uniform(-3, 3, 6)
        session = open_session(f, 1.0, 4)
        together = certified(f, weights, points, session)
        for row, weight in enumerate(weights):
            alone = certified(f, weight, points[row : row + 1])
            allowed = sum(np.sqrt(2 * gap / weight) for gap in (alone.gap[0], together.gap[row]))
            assert np.linalg.norm(alone.maximiser[0] - together.maximiser[row]) <= allowed

    def test_closed_forms_have_them_too(self):
        points, weights = np.random.default_rng(3).standard_normal((9, 4)), np.geomspace(0.1, 10.0, 9)
        session = TorchProxSolver().open(ProxProblem(-ak.norm1(ak.Variable(4)), 1.0, 4, 9))
        z = certified(-ak.norm1(ak.Variable(4)), weights, points, session).maximiser
        expected = np.sign(points) * np.maximum(np.abs(points) - 1.0 / weights[:, None], 0.0)
        np.testing.assert_allclose(z, expected, atol=1e-3)

    def test_quadratics_have_none(self):
        session = open_session(rewards(4, 6, 5)["max with a quadratic"], 1.0, 4)
        with pytest.raises(ValueError, match="without quadratic summands"):
            session.solve_weighted(np.ones((1, 4)), np.ones(1))

    def test_they_are_positive(self):
        with pytest.raises(ValueError, match="positive"):
            open_session(rewards(4, 6, 5)["min"], 1.0, 4).solve_weighted(np.ones((1, 4)), np.zeros(1))


def test_rows_that_do_not_finish_say_so(monkeypatch):
    monkeypatch.setattr("alignkit_torch.prox_dual._ITERATIONS", 1)
    monkeypatch.setattr("alignkit_torch.prox_dual._MULTIPLIER_STEPS", 0)
    monkeypatch.setattr("alignkit_torch.prox_smooth._ITERATIONS", 1)
    points = 3.0 * np.random.default_rng(3).standard_normal((20, 4))
    for kind in ("norm1", "log_sum_exp"):
        f = rewards(4, 6, 5)[kind]
        solution = open_session(f, 0.1, 4).solve(points)
        reached = objective(f, 0.1, points, solution.maximiser)
        missed = solution.gap > TOLERANCE * np.maximum(1.0, np.abs(reached))
        assert missed.any() and (missed == solution.unfinished).all()


def test_rows_far_out():
    """Where rounding is most of the gap."""
    for kind in KINDS[:7]:
        f = rewards(4, 6, 5)[kind]
        certified(f, 0.5, 1e6 * np.random.default_rng(3).standard_normal((10, 4)))


def test_other_costs_are_refused_by_name():
    """A displacement stands for a cost that is not quadratic."""
    f = rewards(4, 6, 5)["min"]
    refusal = TorchProxSolver().bid(replace(ProxProblem(f, 1.0, 4, 10), displacement=object()))
    assert isinstance(refusal, Refusal) and "half the squared distance" in refusal.reason
