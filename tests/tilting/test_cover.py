"""Covers: bounds that hold everywhere, and acceptance on draws of the mixtures they make."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import IntractableError
from alignkit.tilting.cover import cover
from alignkit.tilting.envelope import Convex, excess
from alignkit.tilting.measures import FiniteMeasure

GAUSSIAN = {k: ak.base.Gaussian(np.zeros(k), 1.0) for k in (1, 2, 3)}
MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
PLANES = {k: np.linalg.qr(np.random.default_rng(k).normal(size=(16, k)))[0].T for k in (1, 2, 3)}
ATOMS = {
    "abs": lambda w: ak.sum(ak.abs(w - 0.3)),
    "huber": lambda w: ak.sum(ak.huber(w)),
    "logistic": lambda w: ak.sum(ak.logistic(3 * w)),
    "pos": lambda w: ak.sum(ak.pos(w - 0.5)),
    "neg": lambda w: ak.sum(ak.neg(w)),
    "norm1": ak.norm1,
    "norm2": ak.norm2,
    "norm_inf": ak.norm_inf,
    "pnorm": lambda w: ak.pnorm(w, 3),
    "max": lambda w: ak.max(ak.concatenate([w, -w - 0.5])),
    "maximum": lambda w: ak.sum(ak.maximum(w, 2 * w - 1)),
    "sum_largest": lambda w: ak.sum_largest(ak.concatenate([w, -w]), 2),
    "log_sum_exp": lambda w: ak.log_sum_exp(ak.concatenate([w, -w, 0.5 * w])),
    "a sum": lambda w: ak.norm2(w) + ak.huber(w[0]) + ak.pos(-w[0] - 1),
}
GROWING = {
    "exp": lambda w: ak.sum(ak.exp(w)),
    "power 1.5": lambda w: ak.sum(ak.power(ak.abs(w), 1.5)),
    "square": ak.sum_squares,
    "fourth power": lambda w: ak.sum(ak.power(w, 4)),
    "quad_over_lin": lambda w: ak.quad_over_lin(w, w[0] + 4),
}


def seen(law, rows):
    """Pilot draws of w and log Z of its tilts."""
    pilot = law.sample(1000, seed=1).reshape(1000, -1) @ rows.T
    return pilot, lambda tilts: law.log_partition(tilts @ rows)


def acceptance(found, f, weight, law, rows, *, seed, count=4000):
    """The mean of exp(F)/M over proposals, its standard error, and the largest F − log M."""
    measure = found.measure
    shares = measure.log_weights + law.log_partition(measure.nodes @ rows)
    shares = np.exp(shares - np.logaddexp.reduce(shares))
    rng = np.random.default_rng(seed)
    tilts = measure.nodes[rng.choice(len(shares), size=count, p=shares)]
    w = law.draw_tilted(tilts @ rows, count, seed=seed).reshape(count, -1) @ rows.T
    logs = f.value(w).reshape(-1) / weight - measure.log_bound(w)
    return np.exp(logs).mean(), np.exp(logs).std() / np.sqrt(count), logs.max()


#: Sums of functions of one number each are covered one by one, so that two dimensions ask for the others.
SEPARABLE = {"abs", "huber", "logistic", "pos", "neg", "norm1", "maximum"}
CASES = [(name, 1, 0.9) for name in ATOMS] + [(name, 2, 0.8) for name in ATOMS if name not in SEPARABLE]


@pytest.mark.parametrize("law", ["Gaussian", "mixture"])
@pytest.mark.parametrize(("name", "k", "bar"), CASES)
def test_covers_bound_every_atom_and_waste_little(name, k, bar, law):
    weight = 1.0
    base, rows = (GAUSSIAN[k], np.eye(k)) if law == "Gaussian" else (MIXTURE, PLANES[k])
    f = ATOMS[name](ak.Variable(k))
    pilot, log_partition = seen(base, rows)
    found = cover(f, weight, pilot=pilot, log_partition=log_partition)
    predicted, error, largest = acceptance(found, f, weight, base, rows, seed=2)
    observed, other, _ = acceptance(found, f, weight, base, rows, seed=3)
    assert largest <= 0.0
    assert abs(observed - predicted) <= 0.1 * predicted + 3 * np.hypot(error, other)
    assert predicted + 3 * error >= bar
    far = np.random.default_rng(4).normal(size=(5000, k)) * np.exp(np.random.default_rng(5).uniform(-3, 7, (5000, 1)))
    assert (f.value(far).reshape(-1) / weight - found.measure.log_bound(far)).max() <= 0.0


@pytest.mark.parametrize("weight", [0.2, 5.0])
@pytest.mark.parametrize("name", ["abs", "huber", "log_sum_exp"])
def test_weak_and_strong_rewards(name, weight):
    f = ATOMS[name](ak.Variable(1))
    pilot, log_partition = seen(GAUSSIAN[1], np.eye(1))
    found = cover(f, weight, pilot=pilot, log_partition=log_partition)
    mean, error, largest = acceptance(found, f, weight, GAUSSIAN[1], np.eye(1), seed=2)
    assert largest <= 0.0 and mean + 3 * error >= 0.9


def test_a_program_that_general_solvers_give_up_on():
    w = ak.Variable(2)
    slopes = np.array([[1.0, 0.3], [-0.8, 0.6], [-0.3, -1.0]])
    f = ak.norm2(w - 0.5) + ak.sum(ak.pos(slopes @ w + np.array([0.0, 0.3, -0.2])))
    pilot, log_partition = seen(GAUSSIAN[2], np.eye(2))
    found = cover(f, 0.2, pilot=pilot, log_partition=log_partition)
    mean, error, largest = acceptance(found, f, 0.2, GAUSSIAN[2], np.eye(2), seed=2)
    assert largest <= 0.0 and mean + 3 * error >= 0.8
    # Masses come together on few of the tilts that were tried.
    assert found.measure.log_weights.size < 150


def test_a_law_of_one_point_is_covered():
    point = np.array([[0.3, -0.2]])
    f = ak.sum(ak.exp(ak.Variable(2)))
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = cover(
            f,
            1.0,
            pilot=np.repeat(point, 50, axis=0),
            log_partition=lambda tilts: tilts @ point[0],
            box=(point[0], point[0]),
        )
    assert 0.0 <= found.measure.log_bound(point)[0] - f.value(point)[0] <= 0.05


@pytest.mark.parametrize("name", ["norm2", "log_sum_exp"])
def test_three_dimensions(name):
    f = ATOMS[name](ak.Variable(3))
    pilot, log_partition = seen(GAUSSIAN[3], np.eye(3))
    found = cover(f, 2.0, pilot=pilot, log_partition=log_partition)
    mean, error, largest = acceptance(found, f, 2.0, GAUSSIAN[3], np.eye(3), seed=2)
    assert largest <= 0.0 and mean + 3 * error >= 0.6


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", GROWING)
def test_what_outgrows_lines_is_bounded_on_a_box_and_refused_without(name, k):
    f = GROWING[name](ak.Variable(k))
    data = ak.base.Empirical(np.random.default_rng(0).uniform(-1, 1, size=(400, k)))
    pilot, log_partition = seen(data, np.eye(k))
    box = np.full(k, -1.0), np.full(k, 1.0)
    found = cover(f, 1.0, pilot=pilot, log_partition=log_partition, box=box)
    mean, error, largest = acceptance(found, f, 1.0, data, np.eye(k), seed=2)
    assert largest <= 0.0 and mean + 3 * error >= 0.8
    inside = np.random.default_rng(1).uniform(-1, 1, size=(4000, k))
    assert (f.value(inside).reshape(-1) - found.measure.log_bound(inside)).max() <= 0.0
    with pytest.raises(IntractableError, match="faster than linearly"):
        cover(f, 1.0, pilot=pilot, log_partition=log_partition)


class TestProofs:
    """The bound of F − log M against its maximum."""

    LOW, HIGH = np.array([-3.0, -3.0]), np.array([3.0, 3.0])
    F = Convex(lambda w: np.linalg.norm(w, axis=1), lambda u: np.linalg.norm(u, axis=1))

    def ring(self, radius, count=24):
        angles = 2 * np.pi * np.arange(count) / count
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def test_the_bound_is_above_and_near_what_is_seen(self):
        mixture = FiniteMeasure(self.ring(1.3), np.full(24, -4.0))
        found = excess(self.F, mixture, self.LOW, self.HIGH, slack=0.01)
        points = np.random.default_rng(0).normal(size=(100_000, 2)) * np.exp(
            np.random.default_rng(1).uniform(-4, 5, size=(100_000, 1))
        )
        seen_at_most = (self.F.value(points) - mixture.log_bound(points)).max()
        assert seen_at_most <= found.at_most <= seen_at_most + 0.02

    def test_a_mixture_that_f_outgrows_is_not_proved(self):
        mixture = FiniteMeasure(self.ring(0.9), np.zeros(24))
        assert excess(self.F, mixture, self.LOW, self.HIGH, slack=0.01, cells_max=20_000).at_most == np.inf
