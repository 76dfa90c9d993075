"""The canonical form against the problem it stands for."""

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import ProxProblem
from alignkit.transport.canonical import Absolute, ProximalForm, Uncanonical, canonical_form

K, ROWS, WEIGHT = 4, 5, 1.3
_random = np.random.default_rng(0)
MATRIX, OFFSET = _random.normal(size=(6, K)), _random.normal(size=6)
ROOT = _random.normal(size=(K, K))
w = ak.Variable(K)
a = MATRIX @ w + OFFSET

REWARDS = {
    "log_sum_exp": -ak.log_sum_exp(a),
    "norm1 and linear": -2 * ak.norm1(a) + ak.sum(w),
    "min": ak.min(a),
    "max": -3 * ak.max(a),
    "minimum": ak.minimum(w[0], 2 * w[1], w[2] + 1),
    "norm_inf and concave quadratic": -0.5 * ak.quad_form(w, ROOT @ ROOT.T) - ak.norm_inf(a),
    "smooth, convex quadratic": -ak.sum(ak.huber(a, 0.5)) - ak.sum(ak.logistic(a)) + 0.2 * ak.sum_squares(w),
    "pos and abs": -ak.sum(ak.pos(a)) - 3 * ak.sum(ak.abs(w)),
    "neg": -ak.sum(ak.neg(a)) + 0.3 * w[1],
}  # fmt: skip


def _canonical(reward: ak.Expression, weight: float = WEIGHT) -> ProximalForm:
    form = canonical_form(ProxProblem(reward, weight, K, ROWS))
    assert isinstance(form, ProximalForm)
    return form


@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
def test_objectives_differ_by_a_constant_of_the_row(reward):
    form = _canonical(reward)
    random = np.random.default_rng(1)
    points = random.normal(size=(ROWS, K))

    def difference(z):
        y = z * np.sqrt(WEIGHT) if form.factor is None else z @ form.factor
        assert form.maximisers(y) == pytest.approx(z)
        canonical = 0.5 * ((y - form.centres(points)) ** 2).sum(axis=1) + form.value(y)
        return reward.value(z) - WEIGHT / 2 * ((z - points) ** 2).sum(axis=1) + canonical

    first, second = difference(random.normal(size=(ROWS, K))), difference(10 * random.normal(size=(ROWS, K)))
    assert first == pytest.approx(second, abs=1e-11)


def test_absolute_values_are_one_block():
    form = _canonical(REWARDS["pos and abs"])
    assert [type(block) for block in form.blocks] == [Absolute]
    assert form.sizes == (6 + K,)


def test_rows_that_do_not_move_are_left_out():
    form = _canonical(-ak.norm1(np.diag([1.0, 0.0, 1.0, 1.0]) @ w - 1.0))
    assert form.sizes == (3,)


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        (ak.norm1(a), "is not concave"),
        (-ak.norm2(a), "norm2 is not one of its atoms"),
        (-ak.norm1(ak.square(w)), "argument that is not affine"),
        (-ak.norm1(a) - ak.max(a), "different kinds"),
        (-ak.norm1(a) - ak.log_sum_exp(a), "different kinds"),
        (ak.sum_squares(w), "largest curvature, 2"),
    ],
)
def test_others_are_refused_by_name(reward, reason):
    refused = canonical_form(ProxProblem(reward, WEIGHT, K, ROWS))
    assert isinstance(refused, Uncanonical)
    assert reason in refused.reason
