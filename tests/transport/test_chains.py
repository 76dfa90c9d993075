"""The total variation that a reward is recognised as, against the reward itself."""

import numpy as np
import pytest
from scipy import sparse

import alignkit as ak
from alignkit.contracts import ProxProblem
from alignkit.transport.chains import TotalVariationForm, total_variation_form

K = 6
w = ak.Variable(K)
_random = np.random.default_rng(0)
DIFFERENCES = np.diff(np.eye(K), axis=0)
STRENGTHS = _random.exponential(size=K - 1)
KINKS = _random.normal(size=K - 1)

CHAINS = {
    "total_variation": -2.0 * ak.total_variation(w),
    "norm1 of diff": ak.sum(w) - ak.norm1(ak.diff(w)),
    "dense": -ak.norm1(DIFFERENCES @ w) + 3.0,
    "sparse": -ak.norm1(sparse.csr_array(DIFFERENCES) @ w),
    "weighted": -ak.sum(ak.multiply(STRENGTHS, ak.abs(ak.diff(w)))),
    "rows with factors": -ak.norm1(-0.5 * STRENGTHS[:, None] * DIFFERENCES @ w),
    "shifted": 0.5 * w[2] - ak.norm1(ak.diff(w) - KINKS),
    "two sums, the same kinks": -ak.norm1(ak.diff(w) - KINKS) - ak.norm1(2 * (ak.diff(w[:3]) - KINKS[:2])),
    "shuffled rows, one repeated, one constant": -ak.norm1(
        np.vstack([DIFFERENCES[[3, 1, 1]], np.zeros(K)]) @ w + np.array([0.0, 0.0, 0.0, -7.0])
    ),
    "single entries": -ak.abs(w[1] - w[0]) - 3 * ak.abs(w[4] - w[5]),
    "rows of a grid": -ak.norm1(ak.diff(ak.reshape(w, (2, 3)), axis=1)),
}  # fmt: skip

OTHERS = {
    "norm1": -ak.norm1(w),
    "convex": ak.total_variation(w),
    "second differences": -ak.norm1(ak.diff(w, k=2)),
    "columns of a grid": -ak.norm1(ak.diff(ak.reshape(w, (2, 3)), axis=0)),
    "image": -ak.total_variation(ak.reshape(w, (2, 3))),
    "unequal factors": -ak.abs(w[1] - 2 * w[0]),
    "two kinks": -ak.abs(w[1] - w[0]) - ak.abs(w[1] - w[0] - 1),
    "two kinks of one sum": -ak.norm1(DIFFERENCES[[0, 0]] @ w - np.array([0.0, 1.0])),
    "with a square": -ak.total_variation(w) - ak.sum_squares(w),
    "huber": -ak.sum(ak.huber(ak.diff(w))),
    "affine": ak.sum(w),
}  # fmt: skip


def _form(reward, weight=1.5):
    return total_variation_form(ProxProblem(reward, weight, K, rows=1))


@pytest.mark.parametrize("reward", CHAINS.values(), ids=CHAINS)
def test_forms_equal_their_rewards(reward):
    form = _form(reward)
    assert isinstance(form, TotalVariationForm)
    rows = np.random.default_rng(1).normal(size=(20, K)) * 3
    np.testing.assert_allclose(form.value(rows - form.origin), reward.value(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reward", CHAINS.values(), ids=CHAINS)
def test_objectives_differ_by_a_constant_of_the_row(reward):
    form = _form(reward)
    random = np.random.default_rng(2)
    point, rows = random.normal(size=K), random.normal(size=(20, K)) * 2
    objective = reward.value(rows) - 0.5 * form.weight * ((rows - point) ** 2).sum(axis=1)
    solutions = rows - form.origin
    variation = np.abs(np.diff(solutions, axis=1)) @ form.strengths
    reduced = -variation - 0.5 * form.weight * ((solutions - form.centres(point[None])) ** 2).sum(axis=1)
    assert np.ptp(objective - reduced) < 1e-11


@pytest.mark.parametrize("reward", OTHERS.values(), ids=OTHERS)
def test_other_rewards_are_left_alone(reward):
    assert _form(reward) is None


def test_long_chains_are_recognised_without_a_dense_matrix():
    x = ak.Variable(200_000)
    form = total_variation_form(ProxProblem(-3.0 * ak.total_variation(x), 1.0, 200_000, rows=1))
    assert form is not None
    np.testing.assert_array_equal(form.strengths, 3.0)
