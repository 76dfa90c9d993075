"""The kernel of smooth losses against closed forms, root finding and its own certificate."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, softmax

from alignkit.transport.canonical import Block, HuberLoss, LogisticLoss, ProximalForm, SoftMaximum
from alignkit_numba.loss import SmoothLoss
from alignkit_numba.smooth import solve_smooth
from alignkit_numba.vectors import WIDTH, compiled, exponential, load, logarithm, scratch, store

TOLERANCE = 1e-6
KINDS = ("soft maximum", "logistic", "huber", "all")


def make(kind: str, rows: int, k: int, size: float = 1.0, correlation: float = 0.0) -> ProximalForm:
    random = np.random.default_rng(0)
    blocks: dict[str, Block] = {
        "soft maximum": SoftMaximum(1.5),
        "logistic": LogisticLoss(random.uniform(0.5, 2.0, rows)),
        "huber": HuberLoss(random.uniform(0.5, 2.0, rows), 0.7),
    }
    chosen = tuple(blocks.values()) if kind == "all" else (blocks[kind],)
    m = rows * len(chosen)
    common = random.normal(size=k)
    matrix = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * random.normal(size=(m, k))
    offset = random.normal(size=m)
    return ProximalForm(size * matrix, offset, chosen, (rows,) * len(chosen), None, np.zeros(k), 1.0)


def solve(form: ProximalForm, centres, scales=None, tolerance=TOLERANCE):
    scales = np.ones(len(centres)) if scales is None else scales
    return solve_smooth(SmoothLoss.of(form), centres, scales, tolerance)


def gradient(form: ProximalForm, y, centres, scales):
    """Of the objective, from the definitions."""
    entries = y @ form.matrix.T + form.offset
    slopes = np.empty_like(entries)
    for block, part in form.parts:
        if isinstance(block, SoftMaximum):
            slopes[:, part] = block.weight * softmax(entries[:, part], axis=1)
        elif isinstance(block, LogisticLoss):
            slopes[:, part] = block.weights * expit(entries[:, part])
        else:
            slopes[:, part] = 2 * block.weights * np.clip(entries[:, part], -block.threshold, block.threshold)
    return y - centres + scales[:, None] * (slopes @ form.matrix)


def check(form: ProximalForm, centres, scales=None, tolerance=TOLERANCE):
    scales = np.ones(len(centres)) if scales is None else scales
    solved = solve(form, centres, scales, tolerance)
    assert not solved.unfinished.any()
    objective = 0.5 * ((solved.solutions - centres) ** 2).sum(axis=1) + scales * form.value(solved.solutions)
    assert (solved.gap <= tolerance * np.maximum(scales, np.abs(objective))).all()
    bound = 0.5 * (gradient(form, solved.solutions, centres, scales) ** 2).sum(axis=1)
    # The kernel's bound includes an allowance for rounding, so that it is never below the one computed here.
    assert (bound <= solved.gap * (1 + 1e-6) + 1e-25).all()
    assert solved.value == pytest.approx(form.value(solved.solutions), rel=1e-9, abs=1e-9)
    return solved


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 8, 13])
def test_gradients_vanish(kind, k):
    centres = 3 * np.random.default_rng(1).normal(size=(37, k))
    check(make(kind, 7, k), centres)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("weight", [1e-2, 1e-5])
def test_small_weights_of_closeness_converge(kind, correlation, weight):
    form = make(kind, 8, 8, size=1 / np.sqrt(weight), correlation=correlation)
    check(form, np.sqrt(weight) * np.random.default_rng(1).normal(size=(50, 8)))


def test_large_dimensions():
    check(make("soft maximum", 64, 64), np.random.default_rng(1).normal(size=(10, 64)))
    check(make("all", 30, 64, size=300.0, correlation=0.9), np.random.default_rng(1).normal(size=(10, 64)))


def test_thresholds_far_below_a_step():
    random = np.random.default_rng(1)
    blocks = HuberLoss(random.uniform(0.01, 10.0, 12), 0.02), HuberLoss(random.uniform(0.01, 0.1, 4), 0.2)
    for seed in range(5):
        matrix = 3000 * np.random.default_rng(seed).normal(size=(16, 8))
        form = ProximalForm(matrix, random.normal(size=16), blocks, (12, 4), None, np.zeros(8), 1.0)
        centres, scales = random.normal(size=(40, 8)), np.full(40, 40.0)
        solved = solve(form, centres, scales)
        assert not solved.unfinished.any()
        # A curvature of 1e11 makes much of the rounding of y, yet both bounds are within the tolerance.
        bound = 0.5 * (gradient(form, solved.solutions, centres, scales) ** 2).sum(axis=1)
        assert (np.maximum(bound, solved.gap) <= TOLERANCE * scales).all()


def test_far_points():
    centres = 1e4 * np.random.default_rng(1).normal(size=(50, 3))
    for kind in KINDS:
        check(make(kind, 5, 3), centres)


def test_each_row_may_have_its_own_scale():
    random = np.random.default_rng(1)
    for kind in KINDS:
        check(make(kind, 6, 4), random.normal(size=(60, 4)), 10 ** random.uniform(-3, 5, 60))


def test_dependent_and_repeated_rows():
    form = make("all", 6, 3)
    matrix = form.matrix.copy()
    matrix[1], matrix[2], matrix[7], matrix[13:] = matrix[0], 0.0, 2 * matrix[6], matrix[12]
    flat = ProximalForm(matrix, form.offset, form.blocks, form.sizes, None, form.vector, 1.0)
    check(flat, np.random.default_rng(1).normal(size=(20, 3)))


def test_softplus_in_one_dimension_is_a_root():
    centres = np.linspace(-50.0, 50.0, 41)
    for slope in (0.1, 3.0, 1000.0):
        form = ProximalForm(
            np.array([[slope]]), np.array([0.3]), (LogisticLoss(np.array([2.0])),), (1,), None, np.zeros(1), 1.0
        )
        # No gap is below rounding; the iteration goes as far as there is anything to gain.
        solved = solve(form, centres[:, None], tolerance=1e-30)
        assert (solved.gap < 1e-14).all()
        for centre, y in zip(centres, solved.solutions[:, 0], strict=True):
            root = brentq(
                lambda x, c=centre, s=slope: x - c + 2 * s * expit(s * x + 0.3),
                centre - 2 * slope - 1,
                centre + 1,
                xtol=1e-14,
                rtol=1e-14,
            )
            assert y == pytest.approx(root, abs=1e-9, rel=1e-9)


def test_huber_in_one_dimension_shrinks_within_and_shifts_beyond():
    form = ProximalForm(np.eye(1), np.zeros(1), (HuberLoss(np.array([1.0]), 1.0),), (1,), None, np.zeros(1), 1.0)
    solved = check(form, np.array([[0.0], [1.5], [3.0], [8.0], [-5.0]]))
    assert solved.solutions[:, 0] == pytest.approx([0.0, 0.5, 1.0, 6.0, -3.0], abs=1e-12)


def test_the_soft_maximum_of_equal_rows_is_linear():
    form = ProximalForm(np.ones((4, 2)), np.zeros(4), (SoftMaximum(3.0),), (4,), None, np.zeros(2), 1.0)
    solved = check(form, np.array([[1.0, 2.0], [-7.0, 0.0]]))
    assert solved.solutions == pytest.approx(np.array([[-2.0, -1.0], [-10.0, -3.0]]))


def test_rows_do_not_depend_on_their_batch():
    form = make("all", 6, 5, size=30.0)
    centres = np.random.default_rng(1).normal(size=(70, 5))
    together = solve(form, centres)
    alone = [solve(form, centres[i : i + 1]).solutions[0] for i in range(70)]
    assert (together.solutions == np.array(alone)).all()
    shuffled = np.random.default_rng(2).permutation(70)
    assert (solve(form, centres[shuffled]).gap == together.gap[shuffled]).all()


def test_no_rows_and_one_row():
    form = make("all", 6, 5)
    assert solve(form, np.empty((0, 5))).solutions.shape == (0, 5)
    check(form, np.ones((1, 5)))


def test_rows_without_an_answer_leave_the_others_alone():
    form = make("all", 6, 3)
    centres = np.random.default_rng(1).normal(size=(20, 3))
    spoilt = centres.copy()
    spoilt[3, 1], spoilt[7, 0], spoilt[11] = np.nan, np.inf, 1e300
    solved, clean = solve(form, spoilt), solve(form, centres)
    bad = np.isin(np.arange(20), [3, 7, 11])
    assert (solved.unfinished == bad).all() and np.isinf(solved.gap[bad]).all()
    assert (solved.solutions[~bad] == clean.solutions[~bad]).all()


def test_a_tolerance_below_rounding_ends():
    form = make("all", 6, 5, size=100.0)
    solved = solve(form, np.random.default_rng(1).normal(size=(30, 5)), tolerance=1e-40)
    assert (solved.gap < 1e-12).all()


@compiled
def _tabulate(numbers, powers, logarithms):
    for i in range(len(numbers) // WIDTH):
        store(powers, i, exponential(load(numbers, i)))
        store(logarithms, i, logarithm(load(powers, i)))


def test_exponentials_and_logarithms_in_lanes():
    numbers, powers, logarithms = scratch(250), scratch(250), scratch(250)
    numbers[:] = np.concatenate([np.linspace(-700, 700, 2000), np.linspace(-1, 1, 2000)])
    _tabulate(numbers, powers, logarithms)
    assert powers == pytest.approx(np.exp(numbers), rel=1e-15)
    assert logarithms == pytest.approx(np.log(powers), rel=1e-15, abs=3e-16)
    numbers[:8] = [np.nan, 1e300, -1e300, np.inf, -np.inf, 0.0, -0.0, 1e-320]
    _tabulate(numbers, powers, logarithms)
    assert np.isnan(powers[0])
    assert powers[1:8] == pytest.approx(np.exp([709.0, -708.0, 709.0, -708.0, 0.0, 0.0, 0.0]), rel=1e-15)
