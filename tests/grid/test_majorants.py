"""The upper bounds of f on cubes, against f itself at many points of each."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.expressions import Variable
from alignkit_grid.curves import largest_value, taylor_bend
from alignkit_grid.majorants import majorants_of

VARIABLES = {k: Variable(k, name="w") for k in (1, 2, 3)}


def random_affine(rng, rows, k):
    matrix = rng.standard_normal((rows, k)) * np.exp(rng.uniform(-1.0, 1.0, (rows, 1)))
    return matrix @ VARIABLES[k] + rng.standard_normal(rows)


def a_user_s(points):
    return np.abs(np.sin(3.0 * points).sum(axis=1))


#: From a generator and k to a summand; k is the size of their variable.
SUMMANDS = {
    "sin": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.sin(random_affine(rng, 3, k)))),
    "cos": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.cos(random_affine(rng, 3, k)))),
    "tanh": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.tanh(random_affine(rng, 3, k)))),
    "sigmoid": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.sigmoid(random_affine(rng, 3, k)))),
    "arctan": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.arctan(random_affine(rng, 3, k)))),
    "clip": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.clip(random_affine(rng, 3, k), -0.4, 0.7))),
    "piecewise_linear": lambda rng, k: ak.sum(
        ak.multiply(
            rng.standard_normal(2),
            ak.piecewise_linear(random_affine(rng, 2, k), [-1.0, -0.2, 0.3, 1.0], rng.standard_normal(4)),
        )
    ),
    "abs of both signs": lambda rng, k: ak.sum(ak.multiply(rng.standard_normal(3), ak.abs(random_affine(rng, 3, k)))),
    "huber of both signs": lambda rng, k: ak.sum(
        ak.multiply(rng.standard_normal(3), ak.huber(random_affine(rng, 3, k), M=0.5))
    ),
    "logistic": lambda rng, k: rng.standard_normal() * ak.sum(ak.logistic(random_affine(rng, 2, k))),
    "log_sum_exp": lambda rng, k: rng.standard_normal() * ak.log_sum_exp(random_affine(rng, 4, k)),
    "norm2": lambda rng, k: rng.standard_normal() * ak.norm2(random_affine(rng, 4, k)),
    "norm_inf": lambda rng, k: rng.standard_normal() * ak.norm_inf(random_affine(rng, 4, k)),
    "minimum": lambda rng, k: rng.standard_normal() * ak.min(random_affine(rng, 4, k)),
    "distance to points": lambda rng, k: (
        rng.standard_normal() * ak.distance_to_points(random_affine(rng, 2, k), rng.standard_normal((4, 2)))
    ),
    "nested": lambda rng, k: rng.standard_normal() * ak.tanh(ak.norm2(random_affine(rng, 3, k)) - 1.0),
    "a user's": lambda rng, k: ak.lipschitz(a_user_s, 3.0 * np.sqrt(2.0), random_affine(rng, 2, k)),
    "affine": lambda rng, k: ak.sum(random_affine(rng, 3, k)),
}


def bound_and_truth(f, k, half, rng):
    """The largest bound over alternatives at points of cubes, and f there."""
    cubes, samples = 30, 80
    majorants = majorants_of(f)
    centres = 2.0 * rng.standard_normal((cubes, k))
    offsets = half * rng.uniform(-1.0, 1.0, (samples, k))
    offsets[: samples // 2] = half * np.sign(offsets[: samples // 2])
    bounds = np.full((cubes, samples), -np.inf)
    for alternative in range(majorants.alternatives):
        found = majorants.on_cubes(centres, half, np.full(cubes, alternative))
        quadratic = np.einsum("sk,nkl,sl->ns", offsets, found.hessian, offsets)
        separable = np.einsum("sk,nk->ns", offsets**2, found.diagonal)
        assert (separable >= quadratic - 1e-12 * (1.0 + np.abs(quadratic))).all()
        bounds = np.maximum(bounds, (found.value + found.excess)[:, None] + found.slope @ offsets.T + 0.5 * quadratic)
    points = (centres[:, None, :] + offsets).reshape(-1, k)
    return bounds, np.asarray(f.value(points)).reshape(cubes, samples)


class TestBounds:
    @pytest.mark.parametrize("k", [1, 2, 3])
    @pytest.mark.parametrize("name", SUMMANDS)
    def test_nothing_lies_above_the_bound_of_a_summand(self, name, k):
        rng = np.random.default_rng([len(name), k])
        for half in (4.0, 0.5, 0.05, 1e-4, 1e-8):
            bounds, truth = bound_and_truth(SUMMANDS[name](rng, k), k, half, rng)
            assert (bounds >= truth).all(), half

    @pytest.mark.parametrize("seed", range(8))
    def test_nothing_lies_above_the_bound_of_a_random_sum(self, seed):
        rng = np.random.default_rng([7, seed])
        k = 1 + seed % 3
        chosen = rng.choice(sorted(SUMMANDS), size=4, replace=False)
        f = sum(SUMMANDS[name](rng, k) for name in chosen)
        for half in (2.0, 0.2, 1e-3):
            bounds, truth = bound_and_truth(f, k, half, rng)
            assert (bounds >= truth).all(), (chosen, half)

    @pytest.mark.parametrize(
        "name", ["sin", "tanh", "arctan", "sigmoid", "log_sum_exp", "huber of both signs", "norm2"]
    )
    def test_smooth_summands_are_missed_by_the_square_of_the_width(self, name):
        for seed in range(5):
            rng = np.random.default_rng([11, seed])
            f = SUMMANDS[name](rng, 2)
            missed = []
            for half in (0.02, 0.002):
                bounds, truth = bound_and_truth(f, 2, half, np.random.default_rng(seed))
                missed.append(np.max(bounds - truth))
            # A tenth of the width, a hundredth of the miss, up to rounding.
            assert missed[1] <= missed[0] / 60.0 + 1e-11

    def test_waves_and_distances_are_missed_by_the_third_power_along_lines(self):
        w = Variable(1, name="w")
        f = ak.sum(ak.sin(np.array([[3.0], [-1.0]]) @ w)) - ak.distance_to_points(w, [[5.0], [9.0]])
        missed = []
        for half in (0.04, 0.004):
            bounds, truth = bound_and_truth(f, 1, half, np.random.default_rng(0))
            missed.append(np.max(bounds - truth))
        assert missed[1] <= missed[0] / 500.0 + 1e-11


class TestCurves:
    @pytest.mark.parametrize("make", [ak.sin, ak.cos, ak.tanh, ak.sigmoid, ak.arctan], ids=lambda make: make.__name__)
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_taylor_bends_and_largest_values_hold(self, make, sign):
        atom = make(Variable())
        rng = np.random.default_rng(3)
        centre = 3.0 * rng.standard_normal(400)
        reach = np.exp(rng.uniform(-12.0, 2.5, 400))
        bend = taylor_bend(atom, np.array(sign), centre, reach)
        top = largest_value(atom, np.array(sign), centre - reach, centre + reach)
        slope = np.asarray(atom.gradient(centre))
        for share in np.linspace(-1.0, 1.0, 41):
            value = sign * np.asarray(atom.value(centre + share * reach))
            step = share * reach
            parabola = sign * (np.asarray(atom.value(centre)) + slope * step) + 0.5 * bend * step**2
            assert (value <= parabola + 1e-14).all()
            assert (value <= top + 1e-15).all()

    def test_bends_are_those_of_small_intervals(self):
        atom = ak.tanh(Variable())
        t = np.tanh(0.7)
        bend = taylor_bend(atom, np.array(1.0), np.array([0.7]), np.array([1e-9]))
        assert bend[0] == pytest.approx(-2.0 * t * (1.0 - t * t), abs=1e-8)
