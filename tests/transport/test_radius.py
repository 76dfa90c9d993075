"""The weight at which a transport map costs a radius: closed forms, linear programs over whole plans, jumps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linprog

import alignkit as ak
from alignkit.compiler.composition import compose
from alignkit.contracts import Bid, Guarantee, ProxSolution, Refusal
from alignkit.errors import (
    BackendRefusedError,
    InfeasibleError,
    ParameterError,
    StaleFitError,
    Status,
    UnboundedTransportError,
)
from alignkit.estimates import Estimate
from alignkit.transport.family import MapFamily
from alignkit.transport.radius import Moved, RadiusOutcome, search_weight
from alignkit.transport.randomised import RandomisedMap
from alignkit.transport.reduction import reduce_transport
from alignkit.transport.within_radius import fit_within_radius

D = 4
X, SCALAR = ak.Variable((D,)), ak.Variable((1,))
GAUSSIAN, NORMAL = ak.base.Gaussian(np.zeros(D), 1.0), ak.base.Gaussian(np.zeros(1), 1.0)
SLOPE = np.array([1.0, 2.0, 0.0, -1.0])
MATRIX = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.5
ALL_AT_ONCE = -ak.abs(SCALAR[0] - 3)


def solve(reward, base=GAUSSIAN, **closeness):
    return ak.Problem(reward, base, ak.Wasserstein(**closeness)).solve(seed=0)


@pytest.fixture
def few_rows(monkeypatch):
    """As many as go through a few points in turn."""
    monkeypatch.setattr("alignkit.problem.draws_wanted", lambda base, seconds: 128)


class TestSearch:
    """The mean cost as a function of λ alone."""

    @pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 5.0])
    @pytest.mark.parametrize("start", [1e-6, 1.0, 1e6])
    def test_a_power_law_is_inverted(self, power, start):
        found = search_weight(lambda weight: Moved(weight, Estimate(3 * weight**-power), 0.0), 0.2, start=start)
        assert found.outcome is RadiusOutcome.REACHED and found.dear is None
        assert found.weight == pytest.approx(15 ** (1 / power), rel=1e-8)
        assert len(found.tried) < 40

    def test_the_law_of_shifts_takes_two_maps(self):
        found = search_weight(lambda weight: Moved(weight, Estimate(3 / weight**2), 0.0), 0.2, start=1.0)
        assert len(found.tried) == 2

    @pytest.mark.parametrize("critical", [0.037, 1.0, 250.0])
    @pytest.mark.parametrize("low", [0.0, 0.3])
    def test_at_a_jump_two_maps_spend_the_radius(self, critical, low):
        def measure(weight):
            return Moved(weight, Estimate(low + (2.0 if weight < critical else 0.0)), critical)

        found = search_weight(measure, 0.8, start=1.0)
        assert found.dear is not None and found.dear.weight < critical <= found.cheap.weight
        assert found.weight == pytest.approx(critical, rel=1e-4)
        assert found.probability == pytest.approx((0.8 - low) / 2)

    @pytest.mark.parametrize(("error", "maps"), [(0.02, 1), (0.002, 2)])
    def test_a_jump_that_other_draws_would_not_show_is_left_alone(self, error, maps):
        def measure(weight):
            return Moved(weight, Estimate(0.801 if weight < 1 else 0.797, error), 10.0)

        found = search_weight(measure, 0.8, start=1.0)
        assert 1 + (found.dear is not None) == maps
        assert found.cheap.cost.value == (0.801 if maps == 1 else 0.797)

    def test_it_is_not_held_to_less_than_draws_can_tell(self):
        def measure(weight):
            return Moved(weight, Estimate(3 / weight**3, 0.03 / weight**3), 0.0)

        found = search_weight(measure, 0.2, start=1.0)
        assert 0.999 * 0.2 <= found.cheap.cost.value <= 0.2
        assert len(found.tried) <= 6

    def test_a_best_map_of_all_that_costs_less_leaves_it_inactive(self):
        found = search_weight(lambda weight: Moved(weight, Estimate(1 / (1 + weight) ** 2), 0.0, 1.0), 1.5, start=1.0)
        assert found.outcome is RadiusOutcome.INACTIVE
        assert found.weight == 0.0 and found.cheap.cost.value == pytest.approx(1.0, abs=1e-6)

    def test_a_reward_that_is_constant_leaves_it_inactive(self):
        found = search_weight(lambda weight: Moved(weight, Estimate(0.0), 0.0, 0.0), 1.5, start=1.0)
        assert found.outcome is RadiusOutcome.INACTIVE

    @pytest.mark.parametrize("start", [0.01, 100.0])
    def test_a_cost_that_stays_below_it_down_to_the_critical_weight_is_not_attained(self, start):
        def measure(weight):
            if weight < 2:
                raise UnboundedTransportError("unbounded")
            return Moved(weight, Estimate(0.5 / weight), 0.0)

        found = search_weight(measure, 1.0, start=start)
        assert found.outcome is RadiusOutcome.NOT_ATTAINED
        assert found.weight == pytest.approx(2.0, rel=1e-6)

    def test_a_weight_that_no_backend_takes_is_refused_where_it_is_needed_alone(self):
        def measure(weight):
            if weight < 2:
                raise BackendRefusedError("too many cells")
            return Moved(weight, Estimate(1 / weight), 0.0)

        assert search_weight(measure, 0.4, start=0.01).weight == pytest.approx(2.5, rel=1e-8)
        with pytest.raises(BackendRefusedError, match="too many cells"):
            search_weight(measure, 0.6, start=0.01)

    def test_a_cost_that_no_weight_lowers_is_out_of_reach(self):
        with pytest.raises(InfeasibleError, match=r"0\.25"):
            search_weight(lambda weight: Moved(weight, Estimate(0.25 + 1 / weight), 0.0), 0.2, start=1.0)


class TestClosedForms:
    """N(0, I) and rewards whose maps are known."""

    @pytest.mark.parametrize("radius", [1e-4, 0.5, 200.0])
    @pytest.mark.parametrize(
        ("cost", "squared"),
        [
            (ak.costs.SquaredEuclidean(), SLOPE @ SLOPE),
            (ak.costs.Mahalanobis(MATRIX), SLOPE @ np.linalg.solve(MATRIX, SLOPE)),
            (ak.costs.Weighted([1.0, 2.0, 3.0, 4.0]), (SLOPE**2 / [1.0, 2.0, 3.0, 4.0]).sum()),
        ],
        ids=["squared", "Mahalanobis", "weighted"],
    )
    def test_an_affine_reward_shifts_by_the_radius(self, cost, squared, radius):
        found = solve(ak.inner(SLOPE, X), radius=radius, cost=cost).certificate
        assert found.radius.weight == found.weight == pytest.approx(math.sqrt(squared / (2 * radius)), rel=1e-8)
        assert found.transport_cost.value == pytest.approx(radius, rel=1e-8)
        gained = found.reward_after.value - found.reward_before.value
        assert gained == pytest.approx(math.sqrt(2 * radius * squared), rel=1e-8)
        assert abs(found.radius.gap) <= 1e-6

    def test_an_affine_reward_under_another_power_shifts_too(self):
        """‖δ‖³/3 = ρ."""
        aligned = solve(ak.inner(SLOPE, X), radius=0.7, cost=ak.costs.Euclidean(3))
        moved = aligned.transport(np.zeros((1, D)))
        np.testing.assert_allclose(moved[0], 2.1 ** (1 / 3) * SLOPE / np.linalg.norm(SLOPE), rtol=1e-8)

    @pytest.mark.parametrize("radius", [0.02, 0.5, 1.5])
    def test_a_concave_quadratic(self, radius):
        """r = −‖y‖²: T(x) = x·λ/(λ + 2), and E[c] = 2d/(λ + 2)² in place of ρ, with E‖x‖² = d of the draws for d."""
        aligned = solve(-ak.sum_squares(X), radius=radius)
        found = aligned.certificate
        assert aligned.status is Status.SOLVED
        norms = -found.reward_before.value
        assert found.radius.weight == pytest.approx(math.sqrt(2 * norms / radius) - 2, rel=3e-3)
        assert found.transport_cost.value == pytest.approx(radius, rel=1e-3)
        assert 0 <= found.radius.gap <= 1e-3
        # The best value of all is known: a map along rays that spends ρ.
        best = -((math.sqrt(norms) - math.sqrt(2 * radius)) ** 2)
        assert found.reward_after.value == pytest.approx(best, rel=1e-3)
        assert found.radius.dual.value >= best - 1e-9

    def test_a_quadratic_of_critical_weight_two(self):
        """r = x₀²: T(x)₀ = x₀·λ/(λ − 2), E[c] = 2/(λ − 2)², for every ρ."""
        for radius in (0.01, 0.5, 40.0):
            problem = ak.Problem(ak.square(X[0]), GAUSSIAN, ak.Wasserstein(radius=radius))
            aligned = problem.solve(seed=0)
            second = aligned.certificate.reward_before.value
            assert aligned.certificate.weight == pytest.approx(2 + math.sqrt(2 * second / radius), rel=3e-3)
            assert aligned.certificate.transport_cost.value == pytest.approx(radius, rel=1e-3)
        assert "for λ above a critical value alone" in problem.explain()

    def test_a_cost_without_a_reduction_is_met_too(self, few_rows):
        aligned = solve(-ak.norm1(X[:2] - 1), radius=0.4, cost=ak.costs.ElasticNet(0.2))
        found = aligned.certificate
        assert aligned.status is Status.SOLVED
        assert found.transport_cost.value == pytest.approx(0.4, rel=1e-3)
        assert abs(found.radius.gap) <= 1e-3


class TestEnds:
    def test_a_logarithm_is_found_out_by_any_backend(self, few_rows):
        """log y on N(0, 1): half the draws have to reach the positive numbers, at E[c] = ¼."""
        with pytest.raises(InfeasibleError, match=r"No map costs as little as ρ = 0\.1: .* is 0\.[23]"):
            solve(ak.log(SCALAR[0]), NORMAL, radius=0.1)

    def test_a_radius_beyond_the_best_map_of_all_is_inactive(self):
        """Every draw goes to the maximisers y₀ = y₁ = 1, at E[c] = ½E‖x − 1‖² = 2."""
        aligned = solve(-ak.norm1(X[:2] - 1), radius=50.0)
        assert aligned.status is Status.RADIUS_INACTIVE and "inactive" in str(aligned)
        found = aligned.certificate
        assert found.radius.weight == 0.0 and found.weight > 0
        assert abs(found.transport_cost.value - 2.0) <= 4 * found.transport_cost.standard_error
        assert found.reward_after.value == pytest.approx(0.0, abs=1e-6) and found.radius.gap <= 1e-6
        np.testing.assert_allclose(aligned.transport(np.zeros((1, D))), [[1, 1, 0, 0]], atol=1e-6)

    def test_an_affine_reward_under_the_distance_jumps_from_staying_to_no_map(self):
        with pytest.raises(UnboundedTransportError, match=r"critical value λ = 2\.449"):
            solve(ak.inner(SLOPE, X), radius=0.5, cost=ak.costs.Euclidean())

    def test_a_mean_cost_below_it_at_a_critical_weight_known_from_structure_is_a_status(self):
        """r = ½y² − |y| on [−½, ½]: for λ > 1 every draw moves to 0 at most, and below there is no map."""
        data = np.linspace(-0.5, 0.5, 11)
        reward = ak.square(SCALAR[0]) / 2 - ak.abs(SCALAR[0])
        aligned = solve(reward, ak.base.Empirical(data[:, None]), radius=0.5)
        assert aligned.status is Status.RADIUS_NOT_ATTAINED and "critical" in str(aligned)
        found = aligned.certificate
        assert found.weight == pytest.approx(1.0, rel=1e-5)
        assert abs(found.transport_cost.value - (data**2).mean() / 2) <= 4 * found.transport_cost.standard_error
        # No law earns more than the dual value; more radius would earn λ for each unit.
        assert found.radius.dual.value == pytest.approx(0.5 - found.transport_cost.value, rel=1e-4)

    def test_a_mean_cost_below_it_at_a_critical_weight_that_the_backend_finds_is_a_status(self, few_rows):
        """r = min(2y, y) under |·|: for 1 < λ < 2 the negative draws move to 0, at E[c] = 1/√2π."""
        reward = ak.minimum(2 * SCALAR[0], SCALAR[0])
        aligned = solve(reward, NORMAL, radius=5.0, cost=ak.costs.Euclidean())
        assert aligned.status is Status.RADIUS_NOT_ATTAINED
        found = aligned.certificate
        assert found.weight == pytest.approx(1.0, rel=1e-5)
        expected = 1 / math.sqrt(2 * math.pi)
        assert abs(found.transport_cost.value - expected) <= 4 * found.transport_cost.standard_error + 1e-3

    def test_draws_where_the_reward_is_infinite_have_to_move_that_far(self):
        """log y: a draw at −½ has to reach the positive numbers, at E[c] = ⅛ of the mesh that begins at 0."""
        with pytest.raises(InfeasibleError, match=r"0\.1"):
            fit(ak.log(SCALAR[0]), Repeated([-0.5]), 0.1, ak.costs.SquaredEuclidean())

    def test_a_reward_that_no_weight_bounds_is_refused_when_compiled(self):
        with pytest.raises(UnboundedTransportError, match="for every λ"):
            ak.Problem(ak.exp(SCALAR[0]), NORMAL, ak.Wasserstein(radius=1.0)).compile()

    def test_ways_out_of_a_radius_name_no_weight_that_stood_for_it(self):
        bounded = ak.base.Empirical([[0.0], [1.0]])
        with pytest.raises(UnboundedTransportError, match=r"ak\.KL\(weight=1\) in place of Wasserstein"):
            ak.Problem(ak.exp(SCALAR[0]), bounded, ak.Wasserstein(radius=1.0)).compile()


@pytest.fixture(scope="module")
def aligned():
    return solve(ALL_AT_ONCE, NORMAL, radius=1.0, cost=ak.costs.Euclidean())


class TestJump:
    """W₁ and r = −|x − 3|: every λ < 1 moves every draw to 3, every λ > 1 none."""

    def test_a_coin_spends_the_radius(self, aligned):
        found = aligned.certificate
        assert aligned.status is Status.SOLVED
        assert found.transport_cost.value == pytest.approx(1.0, rel=1e-6)
        assert found.radius.weight == pytest.approx(1.0, rel=1e-4)
        cheap, dear = found.radius.costs
        assert cheap.value == 0.0
        assert found.radius.probability == pytest.approx(1 / dear.value, rel=1e-6)
        assert abs(dear.value - 3) <= 0.01  # E|x − 3|
        # One unit of distance earns one of reward.
        assert found.reward_after.value - found.reward_before.value == pytest.approx(1.0, rel=1e-5)
        assert 0 <= found.radius.gap <= 1e-4
        assert "with probability 0.33" in str(found)

    def test_samples_follow_the_coin(self, aligned):
        before, after = aligned.sample(4000, seed=1, return_base=True)
        moved = abs(after - 3) < 1e-3
        np.testing.assert_array_equal(after[~moved], before[~moved])
        probability = aligned.certificate.radius.probability
        assert abs(moved.mean() - probability) <= 4 * math.sqrt(probability * (1 - probability) / 4000)
        cost = abs(after - before).mean()
        assert abs(cost - 1.0) <= 4 * abs(after - before).std() / math.sqrt(4000)

    def test_draw_i_does_not_depend_on_n_and_seeds_toss_other_coins(self, aligned):
        draws = aligned.sample(50, seed=1)
        np.testing.assert_allclose(aligned.sample(20, seed=1), draws[:20], atol=1e-3)
        before, other = aligned.sample(50, seed=2, return_base=True)
        stayed = (aligned.sample(50, seed=1, return_base=True)[0] == draws).ravel()
        assert ((other == before).ravel() != stayed).any()

    def test_ones_own_rows_move_by_their_place(self, aligned):
        x = np.linspace(-2, 2, 60)[:, None]
        moved = aligned.transport(x)
        chosen = aligned.fitted.map.chosen(60)
        np.testing.assert_allclose(moved, np.where(chosen[:, None], 3.0, x), atol=1e-3)
        np.testing.assert_array_equal(aligned.transport(x), moved)
        np.testing.assert_allclose(aligned.transport(x[:7]), moved[:7], atol=1e-3)

    def test_details_are_those_of_the_map_that_each_row_took(self, aligned):
        x = np.zeros((40, 1))
        found = aligned.transport(x, return_details=True)
        np.testing.assert_allclose(found.cost, abs(found.y - x)[:, 0], atol=1e-9)
        weights = np.where(found.cost > 0, aligned.fitted.map.dear.weight, aligned.fitted.map.cheap.weight)
        np.testing.assert_allclose(found.objective, -abs(found.y[:, 0] - 3) - weights * found.cost, atol=1e-8)

    @pytest.mark.parametrize("kind", ["torch", "jax"])
    def test_other_arrays_move_alike_and_keep_their_kind(self, aligned, kind):
        array = pytest.importorskip("torch").asarray if kind == "torch" else pytest.importorskip("jax.numpy").asarray
        x = np.linspace(-2, 2, 30, dtype=np.float32)[:, None]
        moved = aligned.transport(array(x))
        assert type(moved) is type(array(x))
        np.testing.assert_allclose(np.asarray(moved), aligned.transport(x), atol=1e-3)

    def test_it_moves_rows_in_place(self, aligned):
        x = np.linspace(-2, 2, 30)[:, None]
        expected = aligned.transport(x.copy())
        assert aligned.transport(x, out=x) is x
        np.testing.assert_allclose(x, expected, atol=1e-3)

    def test_bad_rows_are_named_or_kept(self, aligned):
        x = np.zeros((30, 1))
        far = int(np.flatnonzero(aligned.fitted.map.chosen(30))[3])
        x[far] = np.nan
        with pytest.raises(ak.errors.NonFiniteError, match=f"Row {far} "):
            aligned.transport(x)
        kept = aligned.transport(x, on_error="keep", return_details=True)
        assert np.isnan(kept.y[far]).all() and kept.unfinished[far] and not kept.unfinished[:far].any()

    def test_no_rows_are_fine(self, aligned):
        assert aligned.transport(np.zeros((0, 1))).shape == (0, 1)

    def test_a_probability_is_one(self, aligned):
        both = aligned.fitted.map
        with pytest.raises(ParameterError, match="between 0 and 1"):
            RandomisedMap(both.cheap, both.dear, 1.5, 0)


class Exhaustive:
    """A backend that tries every point of a mesh, so that whole transport plans on the mesh are linear programs.

    Arguments:
        mesh: (m,), the only points that rows move to.
        least: the smallest λ it takes.
    """

    def __init__(self, mesh, least=0.0):
        self.mesh, self.least, self.opened = mesh, least, 0

    def bid(self, problem):
        if problem.weight < self.least:
            return Refusal("exhaustive", f"λ is below {self.least}")
        return Bid("exhaustive", "every point", Guarantee.EXACT, 1.0)

    def open(self, problem):
        self.opened += 1
        return ExhaustiveSession(self.mesh, problem)


class ExhaustiveSession:
    def __init__(self, mesh, problem):
        self.mesh, self.problem = mesh, problem
        with np.errstate(all="ignore"):
            value = problem.nonlinear.value(mesh[:, None])
        self.value = np.where(np.isnan(value), -np.inf, value)

    def update(self, problem):
        self.problem = problem
        return True

    def solve(self, points, progress=None):
        step = self.mesh[None, :] - points
        cost = 0.5 * step**2 if self.problem.displacement is None else abs(step)
        best = np.argmax(self.value - self.problem.weight * cost, axis=1)
        count = len(points)
        return ProxSolution(
            maximiser=self.mesh[best, None],
            gap=np.zeros(count),
            unfinished=np.zeros(count, dtype=bool),
            displacement=None if self.problem.displacement is None else self.mesh[best, None] - points,
        )


class Repeated(ak.base.BaseLaw):
    """Draws that go through a few points in turn."""

    shape, name = (1,), "a few points"

    def __init__(self, points):
        self.points = np.array(points)

    def sample(self, n, *, seed, progress=None):
        return self.points[np.arange(n) % len(self.points), None]

    def denoise(self, x, sigma):
        raise NotImplementedError


MESH = np.linspace(-6, 6, 481)
WELLS = ak.maximum(-ak.abs(SCALAR[0] + 1), 2 - 2 * ak.abs(SCALAR[0] - 3))
REWARDS = {"two wells": WELLS, "sin": ak.sin(3 * SCALAR[0]) + 0.3 * SCALAR[0], "all at once": ALL_AT_ONCE}
POINTS = {"one point": [0.0], "four points": [-2.0, 0.0, 0.5, 1.0]}


def fit(reward, base, radius, cost, *, mesh=MESH, least=0.0, rows=128):
    composition = compose(reward)
    solver = Exhaustive(mesh, least)
    request = reduce_transport(composition, 100.0, cost=cost, rows=10, tolerance=1e-6)
    family = MapFamily(composition, cost, request, solver)
    return *fit_within_radius(base, family, reward, radius, "for this test", rows=rows, start=1.0, seed=0), solver


def best_plan(reward, points, radius, cost):
    """max Σ q_ij r(y_j) over plans q from the points to the mesh with Σ q_ij c(x_i, y_j) ≤ ρ."""
    gains = np.tile(reward.value(MESH[:, None]), len(points))
    step = (MESH[None, :] - np.array(points)[:, None]).ravel()
    costs = cost.of_displacement(step[:, None])
    rows = np.kron(np.eye(len(points)), np.ones(len(MESH)))
    found = linprog(-gains, costs[None], [radius], rows, np.full(len(points), 1 / len(points)), method="highs")
    assert found.status == 0
    return -found.fun, -found.ineqlin.marginals[0]


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("cost", [ak.costs.SquaredEuclidean(), ak.costs.Euclidean()], ids=["squared", "distance"])
@pytest.mark.parametrize("radius", [0.0512, 0.4123, 1.3077])
def test_no_plan_is_better_than_the_randomised_map(points, reward, cost, radius):
    certificate, status, fitted, solver = fit(REWARDS[reward], Repeated(POINTS[points]), radius, cost)
    best, dual = best_plan(REWARDS[reward], POINTS[points], radius, cost)
    assert status is Status.SOLVED
    assert certificate.transport_cost.value == pytest.approx(radius, rel=1e-3)
    assert certificate.reward_after.value == pytest.approx(best, rel=1e-3, abs=1e-3)
    assert certificate.radius.dual.value >= best - 1e-9
    assert abs(certificate.radius.gap) <= 1e-3
    assert certificate.radius.weight == pytest.approx(dual, rel=1e-3)
    randomised = isinstance(fitted.map, RandomisedMap)
    # Beside the one that follows λ, the dearer map has a session of its own.
    assert solver.opened == 1 + randomised
    if randomised:
        assert fitted.map.cheap.session is not fitted.map.dear.session


def test_rows_that_jump_one_by_one_need_no_coin():
    """sin from N(0, 1): each draw crosses to the next crest at a λ of its own, a 4,096th of them at a time."""
    certificate, status, fitted, _ = fit(REWARDS["sin"], NORMAL, 0.3, ak.costs.SquaredEuclidean(), rows=4096)
    assert status is Status.SOLVED and not isinstance(fitted.map, RandomisedMap)
    assert certificate.transport_cost.value == pytest.approx(0.3, rel=1e-3)
    assert abs(certificate.radius.gap) <= 1e-3
    assert "4096 base draws" in certificate.details["rows"]


def test_a_weight_that_the_backend_refuses_is_an_error_where_the_radius_asks_for_it():
    with pytest.raises(BackendRefusedError, match=r"exhaustive does not take the problem at λ"):
        fit(-ak.abs(SCALAR[0]), NORMAL, 5.0, ak.costs.SquaredEuclidean(), least=0.5)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("reward", ["two wells", "sin"])
@pytest.mark.parametrize("radius", [0.0512, 1.3077])
def test_the_grid_backend_meets_it_too(points, reward, radius, few_rows):
    """On finer meshes a plan earns a little more: by the reward's slope of 3 times half a step at most."""
    problem = ak.Problem(REWARDS[reward], Repeated(POINTS[points]), ak.Wasserstein(radius=radius))
    aligned = problem.solve(seed=0, backend="grid", tolerance=1e-4)
    found = aligned.certificate
    best, _ = best_plan(REWARDS[reward], POINTS[points], radius, ak.costs.SquaredEuclidean())
    assert aligned.status is Status.SOLVED
    assert found.transport_cost.value == pytest.approx(radius, rel=1e-3)
    assert abs(found.radius.gap) <= 1e-3
    assert best - 1e-3 <= found.reward_after.value <= best + 3 * (MESH[1] - MESH[0]) / 2 + 1e-3


class TestProblem:
    def test_a_parameter_changed_and_solved_again(self):
        radius, target = ak.Parameter(value=0.1, name="ρ"), ak.Parameter(2, np.ones(2))
        problem = ak.Problem(-ak.norm1(X[:2] - target), GAUSSIAN, ak.Wasserstein(radius=radius))
        assert set(problem.parameters) == {radius, target}
        first = problem.solve(seed=0)
        radius.value, target.value = 0.6, [1.0, -1.0]
        again = problem.solve(seed=0)
        assert again.fitted.map.session is first.fitted.map.session
        fixed = solve(-ak.norm1(X[:2] - np.array([1.0, -1.0])), radius=0.6)
        assert again.certificate.weight == pytest.approx(fixed.certificate.weight, rel=1e-6)
        rows = GAUSSIAN.sample(20, seed=5)
        np.testing.assert_allclose(again.transport(rows), fixed.transport(rows), atol=1e-6)
        with pytest.raises(StaleFitError, match="ρ"):
            first.sample(1, seed=0)

    def test_a_result_that_is_not_stale_keeps_its_map_when_the_problem_is_solved_again(self):
        problem = ak.Problem(-ak.norm1(X[:2] - 1), GAUSSIAN, ak.Wasserstein(radius=ak.Parameter(value=0.1)))
        first = problem.solve(seed=0)
        before = first.sample(5, seed=1)
        problem.solve(seed=1)
        np.testing.assert_array_equal(first.sample(5, seed=1), before)

    def test_the_same_seed_gives_the_same_fit(self):
        found = [solve(-ak.norm1(X), radius=0.3).certificate for _ in range(2)]
        assert str(found[0]) == str(found[1])

    def test_a_weight_that_was_found_gives_the_same_map_when_it_is_given(self):
        within = solve(-ak.norm1(X), radius=0.3)
        priced = solve(-ak.norm1(X), weight=within.certificate.weight)
        rows = GAUSSIAN.sample(20, seed=5)
        np.testing.assert_allclose(within.transport(rows), priced.transport(rows), atol=1e-9)

    def test_fresh_draws_cost_as_much_up_to_the_standard_error(self):
        aligned = solve(-ak.norm1(X), radius=0.3)
        assert "16384 base draws" in aligned.certificate.details["rows"]
        before, after = aligned.sample(50_000, seed=3, return_base=True)
        cost = 0.5 * ((after - before) ** 2).sum(axis=1)
        error = math.hypot(cost.std() / math.sqrt(50_000), aligned.certificate.transport_cost.standard_error)
        assert abs(cost.mean() - 0.3) <= 4 * error <= 0.01

    def test_rows_of_a_search_leave_room_for_the_gap_of_the_weight(self):
        problem = ak.Problem(ak.sin(X[0]), GAUSSIAN, ak.Wasserstein(radius=0.3))
        assert problem.compile().tolerance == 5e-4 and problem.compile(tolerance=1e-3).tolerance == 1e-3
        found = problem.solve(seed=0).certificate
        assert found.gap_max <= 5e-4 and abs(found.radius.gap) <= 1e-3

    def test_the_plan_says_how_the_weight_is_found(self):
        problem = ak.Problem(-ak.norm1(X), GAUSSIAN, ak.Wasserstein(radius=0.3))
        text = problem.explain()
        assert "E_q[r] subject to W_c(q, p) ≤ 0.3, c = ½‖x − y‖²" in text
        assert "λ minimises λρ + E_p sup_y" in text and "warning" not in text
        assert r"W_{c}\left(q,\, p\right) \le 0.3" in problem.to_latex()
        assert r"\mathbb{E}" in problem.compile().to_latex()
        assert "arg" in problem.compile().to_latex()
        assert "radius=0.3" in repr(problem.closeness)
        assert "Quantifying distributional model risk" in problem.cite()

    @pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
    def test_a_lipschitz_reward_that_is_concave_for_large_weights_alone_is_searched(self, scale):
        """huber is convex: for λ > 2 a concave program, but the radius asks for less."""
        problem = ak.Problem(scale * ak.huber(X[0]), GAUSSIAN, ak.Wasserstein(radius=2.0))
        assert problem.compile().route == "Lipschitz proximal transport"
        assert "nothing shows that λ·c makes up for it, for every λ that the radius may ask for" in problem.explain()
        aligned = problem.solve(seed=0)
        # Far out every draw moves by 2·scale/λ.
        assert aligned.status is Status.SOLVED and aligned.certificate.weight == pytest.approx(scale, rel=0.01)
        assert aligned.certificate.transport_cost.value == pytest.approx(2.0, rel=1e-3)

    @pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan, True, "1", [1.0]])
    def test_a_radius_is_a_positive_number(self, radius):
        with pytest.raises(ParameterError, match=r"Wasserstein\(radius=ρ\)"):
            ak.Wasserstein(radius=radius)

    def test_it_stands_in_place_of_a_weight(self):
        for arguments in ({}, {"weight": 1.0, "radius": 1.0}):
            with pytest.raises(ParameterError, match="either weight=λ") as caught:
                ak.Wasserstein(**arguments)
            assert len(caught.value.ways_out) == 2

    def test_parameters_are_checked_when_they_have_a_value(self):
        with pytest.raises(ParameterError, match="scalar"):
            ak.Wasserstein(radius=ak.Parameter(2))
        with pytest.raises(ParameterError, match="units of mean cost"):
            solve(-ak.norm1(X), radius=ak.Parameter(value=-1.0))
