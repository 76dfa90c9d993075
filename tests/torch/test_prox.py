import subprocess
import sys

import numpy as np
import pytest

import alignkit.expressions as ak
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit_torch.prox import TorchProxSolver

RNG = np.random.default_rng(0)
A = RNG.standard_normal((5, 4))
w = ak.Variable(4, name="w")


def solve(f, weight, points, **options):
    solver = TorchProxSolver()
    problem = ProxProblem(f, weight, points.shape[1], len(points), **options)
    bid = solver.bid(problem)
    assert isinstance(bid, Bid) and bid.guarantee is Guarantee.EXACT and bid.seconds > 0, bid
    solution = solver.open(problem).solve(points)
    assert solution.maximiser.dtype == np.float64 and not solution.unfinished.any()
    return solution


def objective(f, weight, points, z):
    return f.value(z) - 0.5 * weight * np.sum((z - points) ** 2, axis=1)


def test_norm1_is_soft_thresholding():
    points = np.array([[2.0, -2.0, 0.3, -0.5]])
    np.testing.assert_allclose(solve(-ak.norm1(w), 2.0, points).maximiser, [[1.5, -1.5, 0.0, 0.0]])
    shifted = solve(-3.0 * ak.norm1(w - 1.0), 2.0, points).maximiser
    np.testing.assert_allclose(shifted, [[1.0, -0.5, 1.0, 1.0]])


def test_kinks_are_hit_exactly():
    points = RNG.standard_normal((100, 4))
    assert ((solve(-ak.norm1(w - 0.1), 0.1, points).maximiser) == 0.1).all()


def test_pos_shifts_down_to_the_kink():
    z = solve(-ak.sum(ak.pos(w)), 1.0, np.array([[2.0, 0.5, 0.0, -1.0]])).maximiser
    np.testing.assert_allclose(z, [[1.0, 0.0, 0.0, -1.0]])


def test_huber_shrinks_within_and_shifts_beyond():
    # Within M: −2z = λ(z − v). Beyond: −2M = λ(z − v).
    z = solve(-ak.sum(ak.huber(w)), 2.0, np.array([[1.0, 4.0, -4.0, 2.0]])).maximiser
    np.testing.assert_allclose(z, [[0.5, 3.0, -3.0, 1.0]])


def test_minimum_waits_at_its_peak():
    # min(z, 2 − z) has slopes 1 and −1 around z = 1.
    z = solve(ak.sum(ak.minimum(w, 2.0 - w)), 1.0, np.array([[-3.0, 0.5, 1.9, 3.0]])).maximiser
    np.testing.assert_allclose(z, [[-2.0, 1.0, 1.0, 2.0]])


def test_quadratics_solve_the_normal_equations():
    t, points = RNG.standard_normal(5), RNG.standard_normal((30, 4))
    z = solve(-ak.sum_squares(A @ w - t), 0.7, points).maximiser
    expected = np.linalg.solve(2 * A.T @ A + 0.7 * np.eye(4), (0.7 * points + 2 * t @ A).T).T
    np.testing.assert_allclose(z, expected, rtol=1e-12)


def test_dominated_convex_quadratics_push_outwards():
    z = solve(ak.sum_squares(w - 1.0), 3.0, np.array([[2.0, 0.0, 1.0, -5.0]])).maximiser
    np.testing.assert_allclose(z, (3.0 * np.array([[2.0, 0.0, 1.0, -5.0]]) - 2.0) / 1.0)


REWARDS = {
    "quadratic": (-ak.sum_squares(A @ w - 1.0) + 0.3 * ak.sum_squares(w), 1.0),
    "barely dominated": (ak.sum_squares(w), 2.0 + 1e-6),
    "indefinite": (ak.quad_form(w, np.diag([1.0, -2.0, 0.3, 0.0])), 2.5),
    "mixed": (-2 * ak.norm1(w - 1.0) - ak.sum(ak.huber(3 * w + 1, M=0.5)) - ak.sum(ak.pos(-2 * w)) + ak.sum(w), 0.4),
    "convex huber": (ak.sum(ak.huber(w)) - ak.norm1(w + 0.2), 2.2),
    "coincident kinks": (-ak.norm1(w) - ak.sum(ak.pos(w)) - ak.sum(ak.pos(-w)) - ak.norm1(3.0 * w), 1.0),
    "negligible entry": (-ak.norm1((np.eye(4) + 1e-14 * np.ones((4, 4))) @ w - 1.0), 1.0),
}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_no_other_point_beats_the_maximiser_by_more_than_its_gap(name, scale):
    f, weight = REWARDS[name]
    points = scale * RNG.standard_normal((200, 4))
    solution = solve(f, weight, points)
    best = objective(f, weight, points, solution.maximiser)
    assert (solution.gap >= 0).all() and (solution.gap <= 1e-9 * np.maximum(1, np.abs(best))).all()
    # Of evaluating the objective: a barely dominated quadratic is the difference of two that are far larger.
    size = np.sum(points**2, axis=1) + np.sum(solution.maximiser**2, axis=1)
    rounding = 1e-14 * (np.abs(best) + (1.0 + weight) * (np.sqrt(size) + size))
    for step in 10.0 ** np.arange(-9, 3):
        other = solution.maximiser + scale * step * RNG.standard_normal(points.shape)
        assert (objective(f, weight, points, other) <= best + solution.gap + rounding).all()


def test_the_gap_is_about_the_point_and_not_about_the_problem():
    """Spoil the closed form: the reported gap must grow to at least the true error."""
    f, weight = REWARDS["mixed"]
    points = RNG.standard_normal((50, 4))
    session = TorchProxSolver().open(ProxProblem(f, weight, 4, 50))
    best = objective(f, weight, points, session.solve(points).maximiser)
    session.engine.columns[1] += 0.01  # where the pieces start
    spoilt = session.solve(points)
    error = best - objective(f, weight, points, spoilt.maximiser)
    assert error.max() > 1e-6 and (spoilt.gap >= error - 1e-12).all()

    f, weight = REWARDS["quadratic"]
    session = TorchProxSolver().open(ProxProblem(f, weight, 4, 50))
    best = objective(f, weight, points, session.solve(points).maximiser)
    session.engine.inverse *= 1.01
    spoilt = session.solve(points)
    error = best - objective(f, weight, points, spoilt.maximiser)
    assert error.max() > 1e-6 and (spoilt.gap >= error - 1e-12).all()


def test_many_dimensions():
    wide = ak.Variable(3000)
    points = RNG.standard_normal((3, 3000))
    z = solve(-ak.norm1(wide), 2.0, points).maximiser
    np.testing.assert_allclose(z, np.sign(points) * np.maximum(np.abs(points) - 0.5, 0.0), atol=1e-15)
    flat = solve(-ak.sum_squares(wide), 2.0, points).maximiser
    np.testing.assert_allclose(flat, points / 2, rtol=1e-12)


def test_chunks_and_empty_batches(monkeypatch):
    session = TorchProxSolver().open(ProxProblem(-ak.norm1(w), 2.0, 4, 10))
    points, seen = RNG.standard_normal((23, 4)), []
    whole = session.solve(points)
    monkeypatch.setattr("alignkit_torch.prox_session._CACHE", 10 * session.engine.row_bytes)
    parts = session.solve(points, lambda *event: seen.append(event))
    np.testing.assert_array_equal(parts.maximiser, whole.maximiser)
    assert seen == [("torch", 10, 23), ("torch", 20, 23), ("torch", 23, 23)]
    assert session.solve(np.empty((0, 4))).maximiser.shape == (0, 4)


@pytest.mark.parametrize(
    ("f", "weight", "word"),
    [
        (-ak.norm1(A @ w) - ak.log_sum_exp(w), 1.0, "are of different kinds"),
        (-ak.norm2(w), 1.0, "norm2(w)"),
        (ak.norm1(w), 1.0, "convex kink"),
        (ak.norm1(A @ w), 1.0, "norm1([5×4 constant] @ w) is not concave"),
        (ak.sum_squares(w), 2.0, "λ = 2"),
        (ak.sum_squares(w) - ak.norm1(w), 1.9, "curvature"),
    ],
)
def test_refusals_say_which_summand(f, weight, word):
    problem = ProxProblem(f, weight, 4, 10)
    refusal = TorchProxSolver().bid(problem)
    assert isinstance(refusal, Refusal) and refusal.backend == "torch"
    assert word in refusal.reason
    with pytest.raises(ValueError, match="refuses"):
        TorchProxSolver().open(problem)


def test_a_device_without_float64_gives_way_to_the_cpu():
    assert solve(-ak.norm1(w), 1.0, np.ones((1, 4)), device="mps").maximiser.shape == (1, 4)


def test_a_bid_does_not_import_torch():
    program = (
        "import sys, alignkit.expressions as ak\n"
        "from alignkit.contracts import ProxProblem\n"
        "from alignkit_torch.prox import TorchProxSolver\n"
        "bid = TorchProxSolver().bid(ProxProblem(-ak.norm1(ak.Variable(3)), 1.0, 3, 10))\n"
        "print(bid.backend, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "False"]
