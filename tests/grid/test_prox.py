"""The grid backend as a solver: certificates against dense references, ties, contradictions, refusals and updates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.expressions import Parameter, Variable
from alignkit_grid import search, table
from alignkit_grid.forecast import MOST_EVALUATIONS
from alignkit_grid.prox import GridProxSolver

VARIABLES = {k: Variable(k, name="w") for k in (1, 2, 3)}


def waves_and_points(k, seed, waves=4):
    """Σ sin⟨ω, w⟩ − min_j ‖w − p_j‖, |ω| ≤ 3."""
    rng = np.random.default_rng([k, seed])
    directions = rng.standard_normal((waves, k))
    directions *= rng.uniform(0.5, 3.0, (waves, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    w = VARIABLES[k]
    return ak.sum(ak.sin(directions @ w)) - ak.distance_to_points(w, 2.0 * rng.standard_normal((5, k)))


def opened(f, k, weight=1.0, *, rows=100, tolerance=1e-3):
    return GridProxSolver().open(ProxProblem(f, weight, k, rows, tolerance))


def objective(f, weight, z, points):
    return np.asarray(f.value(z)) - 0.5 * weight * np.sum((z - points) ** 2, axis=1)


def densest(f, weight, points, count):
    """The best of a grid of `count` points about each row, out to where maximisers can be, improved twice."""
    k = points.shape[1]
    best = np.full(len(points), -np.inf)
    for row, point in enumerate(points):
        centre, reach = point, f.lipschitz / weight
        for _ in range(4):
            axes = np.meshgrid(*(np.linspace(-reach, reach, round(count ** (1 / k))),) * k, indexing="ij")
            z = centre + np.stack([axis.ravel() for axis in axes], axis=1)
            heights = objective(f, weight, z, point[None])
            centre = z[heights.argmax()]
            best[row] = max(best[row], heights.max())
            reach *= 6.0 / count ** (1 / k)
    return best


def checked(f, weight, points, solution, tolerance):
    """The objectives of a solution whose every claim about itself holds."""
    reached = objective(f, weight, solution.maximiser, points)
    np.testing.assert_allclose(solution.value, f.value(solution.maximiser), rtol=1e-13, atol=1e-13)
    assert not solution.unfinished.any()
    assert (solution.gap <= tolerance * np.maximum(1.0, np.abs(reached))).all()
    return reached


class TestCertificates:
    @pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
    @pytest.mark.parametrize("k", [1, 2, 3])
    @pytest.mark.parametrize("seed", range(3))
    def test_no_dense_grid_beats_an_answer_by_more_than_its_gap(self, k, seed, tolerance):
        f, weight = waves_and_points(k, seed), (1.0, 3.0, 0.7)[seed]
        points = 1.5 * np.random.default_rng(seed).standard_normal((6, k))
        solution = opened(f, k, weight, rows=6, tolerance=tolerance).solve(points)
        reached = checked(f, weight, points, solution, tolerance)
        reference = densest(f, weight, points, {1: 20_000, 2: 40_000, 3: 60_000}[k])
        assert (reference <= reached + solution.gap).all()
        assert (solution.evaluations > 0).all()

    @pytest.mark.parametrize("k", [1, 2])
    def test_a_table_gives_what_a_search_gives(self, k):
        f, points = waves_and_points(k, 0), np.random.default_rng(1).standard_normal((1500, k))
        session = opened(f, k, rows=10_000)
        searched = opened(f, k, rows=1, tolerance=1e-6).solve(points)
        best = objective(f, 1.0, searched.maximiser, points)
        for _ in range(2):
            solution = session.solve(points)
            reached = checked(f, 1.0, points, solution, 1e-3)
            assert (best - reached <= solution.gap).all() and (reached - best <= searched.gap).all()
        # Nearly all rows look at the corners of one cell and no more.
        assert np.mean(solution.evaluations == 2**k) >= 0.9

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_an_answer_depends_on_its_row_alone(self, k):
        f, points = waves_and_points(k, 1), np.random.default_rng(2).standard_normal((40, k))
        rows = {1: 10_000, 2: 10_000, 3: 10}[k]
        together = opened(f, k, rows=rows).solve(points)
        session = opened(f, k, rows=rows)
        session.solve(points[::-1] + 0.25)
        for chosen in ([3], [17, 5, 39], range(39, -1, -1)):
            alone = session.solve(points[list(chosen)])
            np.testing.assert_allclose(alone.maximiser, together.maximiser[list(chosen)], atol=1e-12)
            np.testing.assert_allclose(alone.gap, together.gap[list(chosen)], atol=1e-12)
            assert (alone.evaluations == together.evaluations[list(chosen)]).all()

    @pytest.mark.parametrize("k", [1, 2])
    def test_outliers_neither_fill_memory_nor_lose_their_bound(self, k):
        f = waves_and_points(k, 2)
        points = np.zeros((5, k))
        points[:, 0] = [0.0, 1e3, -1e6, 1e9, 1e300]
        session = opened(f, k, rows=10_000)
        solution = session.solve(points)
        assert not solution.unfinished[:4].any() and np.isfinite(solution.gap[:4]).all()
        assert solution.unfinished[4] and solution.gap[4] == np.inf and np.isfinite(solution.maximiser).all()
        reached = objective(f, 1.0, solution.maximiser[:4], points[:4])
        reference = densest(f, 1.0, points[:3], 10_000)
        assert (reference <= reached[:3] + solution.gap[:3] + 1e-9 * np.abs(reached[:3])).all()

    def test_a_row_that_takes_too_long_keeps_its_bound_and_is_listed(self, monkeypatch):
        f, points = waves_and_points(2, 0), np.random.default_rng(3).standard_normal((5, 2))
        finished = opened(f, 2, tolerance=1e-6).solve(points)
        monkeypatch.setattr(search, "_MOST_VISITED", 200)
        solution = opened(f, 2, tolerance=1e-6).solve(points)
        assert solution.unfinished.all() and np.isfinite(solution.gap).all()
        best, reached = (objective(f, 1.0, one.maximiser, points) for one in (finished, solution))
        assert (best <= reached + solution.gap).all()

    def test_rows_that_take_too_much_room_are_searched_for_apart(self, monkeypatch):
        f, points = waves_and_points(3, 0), np.random.default_rng(3).standard_normal((6, 3))
        together = opened(f, 3).solve(points)
        monkeypatch.setattr(search, "_MOST_OPEN", 300)
        apart = opened(f, 3).solve(points)
        np.testing.assert_allclose(apart.maximiser, together.maximiser, atol=1e-12)
        assert not apart.unfinished.any()

    def test_rounding_leaves_no_row_just_above_the_tolerance(self):
        def rough(t):
            return np.abs(np.sin(3.0 * t[:, 0]))

        # Far to search, and so with rounding that the gap has to allow for.
        f, points = ak.lipschitz(rough, 3.0, VARIABLES[1]), np.linspace(-8.0, 8.0, 501)[:, None]
        checked(f, 0.02, points, opened(f, 1, 0.02, rows=1, tolerance=1e-6).solve(points), 1e-6)

    @pytest.mark.parametrize("k", [1, 2])
    def test_what_is_forgotten_is_found_again_as_it_was(self, k, monkeypatch):
        f, points = waves_and_points(k, 0), np.random.default_rng(3).standard_normal((300, k))
        whole = opened(f, k, rows=10_000).solve(points)
        monkeypatch.setattr(search, "_LARGEST_TREE", 20)
        monkeypatch.setattr(table, "_MOST_CELLS", 50)
        session = opened(f, k, rows=10_000)
        parts = [session.solve(points[first : first + 30]) for first in range(0, 300, 30)]
        for name in ("maximiser", "gap", "evaluations"):
            np.testing.assert_allclose(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))

    def test_rows_that_are_no_points_have_no_bound(self):
        solution = opened(waves_and_points(2, 0), 2).solve(np.array([[np.nan, 0.0], [1.0, np.inf], [0.0, 1.0]]))
        assert solution.unfinished.tolist() == [True, True, False]
        assert np.isinf(solution.gap[:2]).all() and np.isfinite(solution.maximiser).all()

    def test_a_black_box_of_one_number_is_searched_by_its_constant_alone(self):
        def rough(t):
            return np.abs(np.sin(5.0 * t[:, 0])) + 0.5 * np.abs(t[:, 0] - 1.0)

        f = ak.lipschitz(rough, 5.5, VARIABLES[1])
        points = np.linspace(-2.0, 2.0, 9)[:, None]
        for rows in (9, 10_000):
            solution = opened(f, 1, 2.0, rows=rows).solve(points)
            reached = checked(f, 2.0, points, solution, 1e-3)
            assert (densest(f, 2.0, points, 50_000) <= reached + solution.gap).all()


class TestTies:
    def well(self, k):
        """Two points at ±1 along the first axis."""
        return -2.0 * ak.distance_to_points(VARIABLES[k], np.eye(1, k)[0] * np.array([[1.0], [-1.0]]))

    @pytest.mark.parametrize("rows", [1, 10_000])
    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_rows_halfway_are_tied_and_take_the_first(self, k, rows):
        points = np.zeros((4, k))
        points[:, 0] = [0.0, 0.4, -0.4, 0.0]
        if k > 1:
            points[3, 1] = 0.3
        for order in (slice(None), slice(None, None, -1)):
            solution = opened(self.well(k), k, rows=rows).solve(points[order])
            assert solution.tied[order].tolist() == [True, False, False, True]
            first = solution.maximiser[order][:, 0]
            np.testing.assert_allclose(first[:3], [-1.0, 1.0, -1.0], atol=2e-3)
            assert first[3] < 0.0

    def test_concave_rewards_have_no_ties(self):
        w = VARIABLES[2]
        points = np.random.default_rng(0).standard_normal((200, 2))
        solution = opened(-ak.norm1(w) - ak.log_sum_exp(3.0 * w), 2, rows=10_000).solve(points)
        assert not solution.tied.any()

    def test_flat_tops_have_no_ties(self):
        f = ak.clip(VARIABLES[1][0], -1.0, 1.0)
        assert not opened(f, 1, 1e-3).solve(np.linspace(-3.0, 3.0, 20)[:, None]).tied.any()


class TestBadInput:
    def test_a_contradicted_constant_is_reported_with_the_pair_of_points(self):
        def steep(t):
            return np.sin(10.0 * t[:, 0])

        f = ak.lipschitz(steep, 2.0, 0.5 * VARIABLES[1] + 1.0)
        with pytest.raises(ParameterError, match="steep is not Lipschitz with the constant 2") as caught:
            opened(f, 1).solve(np.linspace(-1.0, 1.0, 20)[:, None])
        # The pair and its quotient are those of the message.
        numbers = caught.value.message.split("it is ")[1]
        left, right = numbers.split(" and ")
        values = [float(part.split(" at ")[0]) for part in (left, right)]
        places = [float(part.split("[")[1].split("]")[0]) for part in (left, right)]
        for value, place in zip(values, places, strict=True):
            assert value == pytest.approx(np.sin(10.0 * place), abs=1e-4)
        quotient = float(numbers.split("quotient of ")[1].rstrip("."))
        assert quotient > 2.0
        assert any("lipschitz(fn, constant, expression)" in way for way in caught.value.ways_out)

    def test_a_constant_that_holds_is_never_contradicted(self):
        def exact(t):
            return 3.0 * np.abs(t[:, 0] - 0.3)

        def narrow(t):
            return exact(t.astype(np.float32)).astype(np.float64)

        for function in (exact, narrow):
            f = ak.lipschitz(function, 3.0, VARIABLES[1])
            assert not opened(f, 1, tolerance=1e-4).solve(np.linspace(-5.0, 5.0, 50)[:, None]).unfinished.any()

    def test_a_nan_is_reported_with_its_input(self):
        def broken(t):
            return np.where(t[:, 0] > 1.5, np.nan, t[:, 0])

        with pytest.raises(NonFiniteError, match=r"broken returned nan .* for the input \["):
            opened(ak.lipschitz(broken, 1.0, VARIABLES[1]), 1).solve(np.array([[1.0]]))

    @pytest.mark.parametrize(
        ("f", "k", "says"),
        [
            (ak.norm1(Variable(4)), 4, "up to 3 dimensions, and k = 4"),
            (ak.square(VARIABLES[1][0]), 1, "no Lipschitz constant"),
            (ak.square(VARIABLES[1][0]).over(-1.0, 1.0), 1, "quadratic summands"),
            (ak.lipschitz(lambda t: t[:, 0], 100.0, VARIABLES[3]), 3, "evaluations a row at the tolerance 0.001"),
        ],
        ids=["four dimensions", "no constant", "a constant on a box", "too much work"],
    )
    def test_what_cannot_be_searched_is_refused_with_the_reason(self, f, k, says):
        problem = ProxProblem(f, 1.0, k, 100, 1e-3)
        answer = GridProxSolver().bid(problem)
        assert isinstance(answer, Refusal) and says in answer.reason
        with pytest.raises(ValueError, match="refuses this problem"):
            GridProxSolver().open(problem)

    def test_too_much_work_is_refused_with_a_tolerance_that_would_do(self):
        f = ak.lipschitz(lambda t: np.sin(t).sum(axis=1), 2.0, VARIABLES[2])
        problem = ProxProblem(f, 1.0, 2, 100, 1e-6)
        reason = GridProxSolver().bid(problem).reason
        feasible = float(reason.split("tolerance=")[1].split()[0])
        assert isinstance(GridProxSolver().bid(replace(problem, tolerance=feasible)), Bid)

    def test_other_devices_are_refused(self):
        problem = replace(ProxProblem(ak.abs(VARIABLES[1][0]), 1.0, 1, 100, 1e-3), device="cuda")
        assert "CPU" in GridProxSolver().bid(problem).reason


class TestForecasts:
    @pytest.mark.parametrize("weight", [0.3, 1.0, 10.0])
    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_evaluations_are_those_foretold_within_an_order_of_magnitude(self, k, weight):
        f = waves_and_points(k, 3)
        problem = ProxProblem(f, weight, k, 20, 1e-3)
        bid = GridProxSolver().bid(problem)
        assert isinstance(bid, Bid) and bid.guarantee is Guarantee.CERTIFIED and len(bid.citations) == 3
        foretold = float(bid.method.split("about ")[1].split()[0])
        found = GridProxSolver().open(problem).solve(np.random.default_rng(0).standard_normal((20, k)))
        assert foretold / 10.0 <= found.evaluations.mean() <= foretold * 10.0 <= MOST_EVALUATIONS * 10.0

    def test_of_constants_alone_too(self):
        f = ak.lipschitz(lambda t: np.sin(3.0 * t[:, 0]), 3.0, VARIABLES[1])
        problem = ProxProblem(f, 1.0, 1, 20, 1e-3)
        foretold = float(GridProxSolver().bid(problem).method.split("about ")[1].split()[0])
        found = GridProxSolver().open(problem).solve(np.random.default_rng(0).standard_normal((20, 1)))
        assert foretold / 10.0 <= found.evaluations.mean() <= foretold * 10.0


class TestUpdates:
    def test_a_session_follows_the_weight_and_parameters(self):
        centre = Parameter((2,), np.zeros(2), name="centre")
        f = ak.cos(VARIABLES[2][0]) - ak.norm2(VARIABLES[2] - centre)
        points = np.random.default_rng(0).standard_normal((8, 2))
        problem = ProxProblem(f, 1.0, 2, 8, 1e-4)
        session = GridProxSolver().open(problem)
        session.solve(points)
        centre.value = np.array([1.0, -2.0])
        for weight in (1.0, 3.0):
            other = replace(problem, weight=weight)
            assert session.update(other)
            solution = session.solve(points)
            reached = checked(f, weight, points, solution, 1e-4)
            assert (densest(f, weight, points, 10_000) <= reached + solution.gap).all()
        # A session that nobody told answers at the present values as well.
        centre.value = np.array([-1.0, 0.5])
        solution = session.solve(points)
        reached = checked(f, 3.0, points, solution, 1e-4)
        assert (densest(f, 3.0, points, 10_000) <= reached + solution.gap).all()

    def test_what_would_be_refused_is_not_answered(self):
        f = waves_and_points(2, 0)
        problem = ProxProblem(f, 1.0, 2, 8, 1e-3)
        session = GridProxSolver().open(problem)
        points = np.ones((3, 2))
        before = session.solve(points)
        assert not session.update(replace(problem, device="cuda"))
        np.testing.assert_array_equal(session.solve(points).maximiser, before.maximiser)


def test_a_reward_without_slope_leaves_rows_where_they_are():
    w = Variable(2)
    problem = ProxProblem(-ak.norm1(np.zeros((1, 2)) @ w - 1.0), 2.0, 2, 3)
    points = np.array([[0.0, 0.0], [1.0, -2.0], [40.0, 7.0]])
    found = GridProxSolver().open(problem).solve(points)
    np.testing.assert_allclose(found.maximiser, points, atol=1e-3)
    assert not found.unfinished.any() and (found.gap <= problem.tolerance).all()
