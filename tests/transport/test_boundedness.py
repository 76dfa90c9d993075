import numpy as np
import pytest

import alignkit.expressions as ak
from alignkit.errors import UnboundedTransportError
from alignkit.transport.boundedness import check_bounded, dominated_by_penalty

A = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
w = ak.Variable(2, name="w")
CRITICAL = float(np.linalg.eigvalsh(2 * A.T @ A)[-1])


@pytest.mark.parametrize("lipschitz", [0.0, -5.0 * ak.norm1(w), 5.0 * ak.norm1(w), ak.max(w), -ak.sum(ak.huber(w))])
def test_quadratics_are_decided_exactly_whatever_grows_linearly_beside_them(lipschitz):
    f = ak.sum_squares(A @ w - 1.0) + lipschitz
    check_bounded(f, CRITICAL * (1 + 1e-9))
    with pytest.raises(UnboundedTransportError) as caught:
        check_bounded(f, CRITICAL * (1 - 1e-9))
    assert f"{CRITICAL:.10g}" in str(caught.value)
    assert "sum_squares([3×2 constant] @ w" in caught.value.expression
    assert any("weight" in way for way in caught.value.ways_out)


def test_the_supremum_really_is_infinite_below_the_critical_weight_and_finite_above():
    f = ak.sum_squares(A @ w)
    direction = np.linalg.eigh(A.T @ A)[1][:, -1]
    far = np.array([[1e3], [1e4]]) * direction
    below, above = (f.value(far) - 0.5 * weight * np.sum(far**2, axis=1) for weight in (CRITICAL - 0.1, CRITICAL + 0.1))
    assert below[1] > below[0] > 0 > above[0] > above[1]


def test_at_the_critical_weight_a_drift_decides():
    with pytest.raises(UnboundedTransportError, match="equals"):
        check_bounded(ak.square(w[0]) + w[0], 2.0)
    # −|w₀| stops rows with |λv₀| ≤ 1: structure alone does not decide.
    check_bounded(ak.square(w[0]) - ak.abs(w[0]), 2.0)


def test_concave_quadratics_offset_convex_ones():
    check_bounded(2.0 * ak.square(w[0] - 1.0) - 1.5 * ak.square(w[0]), 1.1)
    with pytest.raises(UnboundedTransportError):
        check_bounded(2.0 * ak.square(w[0] - 1.0) - 1.5 * ak.square(w[0]), 0.9)


@pytest.mark.parametrize("f", [ak.norm1(w), -ak.sum_squares(w), ak.log_sum_exp(w), -ak.square(ak.pos(w[0])), ak.min(w)])
def test_lipschitz_and_concave_rewards_are_bounded_for_every_weight(f):
    check_bounded(f, 1e-9)


def test_squares_of_convex_functions_are_decided_by_their_growth():
    f = ak.square(ak.norm2(A @ w))
    check_bounded(f, CRITICAL * (1 + 1e-9))
    with pytest.raises(UnboundedTransportError, match="square") as caught:
        check_bounded(f, CRITICAL * (1 - 1e-9))
    assert f"{CRITICAL:.9g}"[:-1] in str(caught.value)


def test_dominated_by_penalty():
    assert dominated_by_penalty(ak.sum_squares(w) - ak.norm1(w), 2.1)
    assert not dominated_by_penalty(ak.sum_squares(w) - ak.norm1(w), 2.0)
    assert dominated_by_penalty(ak.sum(ak.huber(w)), 2.1)
    assert not dominated_by_penalty(ak.sum(ak.huber(w)), 1.9)
    assert not dominated_by_penalty(ak.norm1(w), 100.0)
    assert dominated_by_penalty(-ak.norm2(w), 1e-3)
