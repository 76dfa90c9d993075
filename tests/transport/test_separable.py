import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse

import alignkit.expressions as ak
from alignkit.expressions.splitting import split
from alignkit.transport.separable import Inseparable, Separable, separable_form

w = ak.Variable(3, name="w")
D = np.diag([2.0, -3.0, 0.5])
RNG = np.random.default_rng(0)

SEPARABLE = {
    "abs": -ak.inner([1.0, 2.0, 3.0], ak.abs(D @ w - 1.0)),
    "norm1": -2.0 * ak.norm1(w[:2] + 1.0) + ak.sum(w),
    "norm1 axis": -ak.inner([1.0, 2.0], ak.norm1(ak.reshape(w[np.array([0, 1, 2, 0])], (2, 2)), axis=0)),
    "pos": -ak.sum(ak.pos(D @ w - 1.0)) - ak.pos(-w[1]),
    "neg": -ak.sum(ak.neg(D @ w - 1.0)) - 0.5 * ak.neg(w[1]),
    "huber": -ak.sum(ak.huber(D @ w - 1.0, M=0.7)),
    "squares": -ak.sum_squares(D @ w - 1.0) + 0.1 * ak.square(w[0]),
    "hidden diagonal": -ak.square(w[0] + w[1]) - ak.square(w[0] - w[1]),
    "minimum": ak.sum(ak.minimum(w, 2.0 - w)),
    "minimum of three": ak.sum(ak.minimum(2.0 * w, w + 1.0, 5.0 - w, 7.0)),
    "difference on one coordinate": ak.maximum(w[0] + w[1], w[1] - w[0]),
    "min": ak.min(ak.stack([w[0], 2.0 * w[0] - 1.0, 0.1 * w[0]])),
    "norm2 of one entry": -ak.norm2(w[1:2] - 0.5),
    "sparse": -ak.norm1(sparse.csr_array(D) @ w - 1.0),
    "mixed": -ak.norm1(w) - ak.sum(ak.huber(w - 1.0)) - ak.sum_squares(w) + ak.sum(w),
}


def derivative_bounds(form: Separable, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right derivatives of each p_i at each entry, (n, k)."""
    rows = np.arange(points.shape[1])
    found = []
    for side in ("left", "right"):
        piece = np.array(
            [np.searchsorted(kinks, z, side=side) for kinks, z in zip(form.kinks, points.T, strict=True)]
        ).T
        found.append(form.slopes[rows, piece] * points + form.intercepts[rows, piece])
    return found[0], found[1]


@pytest.mark.parametrize("name", SEPARABLE)
def test_the_pieces_have_the_derivative_of_the_expression(name):
    f = SEPARABLE[name]
    form = separable_form(split(f))
    assert isinstance(form, Separable), form
    points, step = 3.0 * RNG.standard_normal((50, 3)), 1e-6
    left, right = derivative_bounds(form, points)
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        rate = (f.value(points + shift) - f.value(points - shift)) / (2 * step)
        np.testing.assert_allclose(0.5 * (left + right)[:, axis], rate, atol=2e-5)


@pytest.mark.parametrize(
    ("f", "word"),
    [
        (-ak.norm1(np.array([[1.0, 1.0, 0.0]]) @ w), "couples"),
        (-ak.sum_squares(np.array([[1.0, 1.0, 0.0]]) @ w), "couples"),
        (-ak.max(w), "couples"),
        (-ak.norm2(w), "not piecewise quadratic"),
        (-ak.log_sum_exp(w), "not piecewise quadratic"),
        (-ak.square(ak.pos(w[0])), "not piecewise quadratic"),
        (-ak.abs(ak.pos(w[0])), "not affine"),
        (-ak.norm1(w) - ak.abs(w[0] + 1e-10 * w[1]), "couples"),
    ],
)
def test_the_summand_that_couples_is_named(f, word):
    form = separable_form(split(f))
    assert isinstance(form, Inseparable)
    assert word in form.reason
    assert any(name in form.reason for name in ("norm1", "sum_squares", "max", "norm2", "log_sum_exp", "square", "abs"))


def test_negligible_entries_are_dropped_and_accounted_for():
    row = np.array([[1.0, 1e-14, 0.0]])
    f = -ak.norm1(row @ w) - 0.5 * ak.sum_squares(row @ w - 1.0)
    form = separable_form(split(f))
    assert isinstance(form, Separable)
    assert 0 < form.dropped_linear < 1e-13 and 0 < form.dropped_quadratic < 1e-13
    exact = -ak.abs(w[0]) - 0.5 * ak.square(w[0] - 1.0)
    points = 1e3 * RNG.standard_normal((100, 3))
    size = np.linalg.norm(points, axis=1)
    bound = form.dropped_linear * size + form.dropped_quadratic * size**2
    assert (np.abs(f.value(points) - exact.value(points)) <= bound + 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=3, max_size=6, unique_by=lambda line: line[0]))
def test_envelopes_of_lines(lines):
    slopes, offsets = np.array(lines).T
    z = ak.Variable(1)
    f = ak.min(ak.multiply(slopes, ak.concatenate([z] * len(lines))) + offsets)
    form = separable_form(split(f))
    assert isinstance(form, Separable)
    grid = np.linspace(-20.0, 20.0, 4001)[:, None]
    left, right = derivative_bounds(form, grid)
    values = np.min(slopes * grid + offsets, axis=1)
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (right[:-1, 0] + left[1:, 0]) * np.diff(grid[:, 0]))])
    # The integral of the derivative is off by at most a jump times half a cell for each kink.
    np.testing.assert_allclose(values - values[0], integral, atol=len(lines) * 6.0 * 0.01)
    assert form.obstacle(1.0) is None


def test_obstacles_to_concavity():
    convex_kink = separable_form(split(ak.norm1(w)))
    assert isinstance(convex_kink, Separable) and "kink" in str(convex_kink.obstacle(10.0))
    curved = separable_form(split(ak.sum_squares(w)))
    assert isinstance(curved, Separable)
    assert "curvature" in str(curved.obstacle(2.0)) and curved.obstacle(2.1) is None


def test_many_coordinates_stay_sparse():
    wide = ak.Variable(300_000)
    form = separable_form(split(-ak.norm1(wide - 1.0) - ak.sum(ak.huber(wide))))
    assert isinstance(form, Separable) and form.kinks.shape == (300_000, 3)
