import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import alignkit.expressions as ak
from alignkit.expressions.splitting import quadratic_form, split

RNG = np.random.default_rng(0)
A = RNG.standard_normal((5, 3))
P = RNG.standard_normal((5, 5))
P = P + P.T
b = RNG.standard_normal(5)
w = ak.Variable(3, name="w")

QUADRATICS = {
    "sum_squares": -2.0 * ak.sum_squares(A @ w - b) + 3.0,
    "square": ak.inner([1.0, -2.0, 0.5], ak.square(w - 1.0)) + w[0],
    "weighted": ak.mean(ak.multiply(np.arange(5.0), ak.square(A @ w))),
    "quad_form": 0.5 * ak.quad_form(A @ w + b, P),
    "sparse": ak.sum_squares(sparse.csr_array(A) @ w) - ak.quad_form(w, sparse.csr_array(np.diag([1.0, 2.0, 0.0]))),
    "operator": ak.sum_squares(ak.linear_map(aslinearoperator(A), w) - b),
    "axis": ak.inner([1.0, -1.0], ak.sum_squares(ak.reshape((A @ w)[:4], (2, 2)), axis=0)),
    "twice": ak.square(w[0] - w[1]) + 2.0 * ak.square(w[0] - w[1]),
    "cancelling": ak.sum_squares(w) - ak.sum_squares(w) + w[1],
}


@pytest.mark.parametrize("name", QUADRATICS)
def test_recognised_quadratics_have_the_values_of_the_expression(name):
    f = QUADRATICS[name]
    quadratic = quadratic_form(f)
    assert quadratic is not None
    points = RNG.standard_normal((20, 3))
    np.testing.assert_allclose(quadratic.value(points), f.value(points), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(quadratic.matrix, quadratic.matrix.T)


@pytest.mark.parametrize("f", [ak.sum_squares(w) + ak.norm1(w), ak.square(ak.pos(w[0])), ak.sum(ak.huber(w))])
def test_other_rewards_are_not_quadratic(f):
    assert quadratic_form(f) is None


def test_the_parts_add_up():
    f = -ak.norm1(A @ w - b) + 2.0 * ak.sum_squares(w - 1.0) - ak.square(ak.pos(w[0])) + w[2] - 4.0
    parts = split(f)
    assert [term.atom.name for term in parts.terms] == ["norm1", "square"]
    assert [term.bends(-1) for term in parts.terms] == [True, True]
    points = RNG.standard_normal((10, 3))
    total = parts.quadratic.value(points)
    for term in parts.terms:
        total = total + np.reshape(term.atom.value(points), (10, -1)) @ term.coefficients
    np.testing.assert_allclose(total, f.value(points), rtol=1e-12)


def test_critical_weight_is_the_largest_eigenvalue():
    spectrum = np.linalg.eigvalsh(2.0 * A.T @ A)
    assert split(ak.sum_squares(A @ w)).critical_weight == pytest.approx(spectrum[-1], rel=1e-12)
    assert split(-ak.sum_squares(A @ w)).critical_weight == 0.0


def test_critical_weight_beyond_a_dense_hessian():
    wide = ak.Variable(5000)
    scales = np.linspace(0.1, 3.0, 5000)
    parts = split(ak.sum_squares(ak.multiply(scales, wide)) - 0.5 * ak.sum_squares(wide))
    assert not parts.has_small_hessian and quadratic_form(ak.sum_squares(wide)) is None
    assert parts.critical_weight == pytest.approx(2 * 9.0 - 1.0, rel=1e-6)


class TestKeeping:
    def test_the_same_expression_is_split_once(self):
        w = ak.Variable(3)
        f = ak.sum_squares(w) - ak.norm1(w)
        assert split(f) is split(f)

    def test_another_value_of_a_parameter_is_another_split(self):
        w = ak.Variable(3)
        weight = ak.Parameter(value=1.0, nonneg=True)
        f = weight * ak.sum_squares(w)
        assert split(f).critical_weight == 2.0
        weight.value = 3.0
        assert split(f).critical_weight == 6.0

    def test_the_same_node_over_other_arguments_has_a_split_of_its_own(self):
        w = ak.Variable(3)
        f = -ak.sum_squares(w)
        assert split(f).critical_weight == 0.0
        assert split(f.with_args((-ak.sum_squares(w),))).critical_weight == 2.0
