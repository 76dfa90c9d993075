"""The measure that a reward takes: of what kind, that it bounds exp F everywhere, and why there is none where so."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import alignkit as ak
from alignkit.errors import IntractableError, ParameterError
from alignkit.expressions.splitting import split
from alignkit.expressions.table import ENTRIES
from alignkit.tilting.blocks import blocks_of
from alignkit.tilting.measures import FiniteMeasure, GaussianMeasure, LabelsMeasure, PointMeasure, ProductMeasure
from alignkit.tilting.selection import choose_finite, choose_measure, has_finite_measure, missing_measure

RNG = np.random.default_rng(0)
PILOT = {k: np.random.default_rng(k).normal(size=(600, k)) for k in range(1, 11)}
#: Near, and out to a thousand standard deviations.
POINTS = {k: RNG.normal(size=(3000, k)) * np.exp(RNG.uniform(-3, 6, size=(3000, 1))) for k in range(1, 11)}
A = RNG.normal(size=(4, 6))


def normal(tilts):
    """log Z of a standard normal law."""
    return 0.5 * (tilts**2).sum(axis=1)


def uniform(tilts):
    """log Z of the uniform law on [−1, 1]^k."""
    sizes = np.maximum(np.abs(tilts), 1e-9)
    return (sizes + np.log1p(-np.exp(-2 * sizes)) - np.log(2 * sizes)).sum(axis=1)


def chosen(f, k, weight=1.0, *, choose=choose_measure, boxed=False):
    if not boxed:
        return choose(f, weight, pilot=PILOT[k], log_partition=normal)
    pilot = np.random.default_rng(k).uniform(-1, 1, size=(600, k))
    return choose(f, weight, pilot=pilot, log_partition=uniform, box=(np.full(k, -1.0), np.full(k, 1.0)))


def slack(measure, f, points, weight=1.0):
    """log M − F, and the rounding that it may have."""
    exponents = f.value(points).reshape(-1) / weight
    return measure.log_bound(points) - exponents, 1e-11 * np.maximum(1.0, np.abs(exponents))


def assert_bounds(measure, f, points, weight=1.0):
    over, rounding = slack(measure, f, points, weight)
    assert np.all(over >= -rounding)
    if measure.is_exact:
        assert np.all(over <= rounding)


W6 = ak.Variable(6)
KINDS = {
    "a quadratic": (lambda w: ak.sum_squares(A @ w) + w[0] - 2, (GaussianMeasure,)),
    "log_sum_exp, whole": (lambda w: 3 * ak.log_sum_exp(w) + 1, (PointMeasure, LabelsMeasure)),
    "log_sum_exp": (lambda w: 2.4 * ak.log_sum_exp(w), (LabelsMeasure,)),
    "max": (lambda w: ak.max(w) - 0.5 * w[1], (PointMeasure, FiniteMeasure)),
    "a minimum turned over": (lambda w: -ak.min(A @ w), (FiniteMeasure,)),
    "norm_inf": (ak.norm_inf, (FiniteMeasure,)),
    "norm1": (ak.norm1, (FiniteMeasure,) * 6),
    "norm1 of sums that overlap": (lambda w: ak.norm1(A @ w), (FiniteMeasure,) * 4),
    "entries of one line": (lambda w: ak.norm1(w) + ak.sum(ak.huber(2 * w + 1)), (FiniteMeasure,) * 6),
    "a nested function of each entry": (lambda w: ak.sum(ak.logistic(2 * ak.abs(w))), (FiniteMeasure,) * 6),
    "norms of groups": (lambda w: ak.sum(ak.norm2(ak.reshape(w, (3, 2)), axis=1)), (FiniteMeasure,) * 3),
    "a norm of rank 2": (lambda w: ak.norm2(A[:2] @ w), (FiniteMeasure,)),
    "all together": (
        lambda w: ak.sum_squares(w) + ak.max(w) + 2 * ak.log_sum_exp(A @ w) + ak.pos(w[0] - 1) + w[2] + 3,
        (GaussianMeasure, FiniteMeasure, LabelsMeasure, FiniteMeasure),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_summands_take_measures_by_kind(name):
    build, kinds = KINDS[name]
    f = build(W6)
    measure = chosen(f, 6)
    parts = measure.parts if isinstance(measure, ProductMeasure) else (measure,)
    assert sorted(type(part).__name__ for part in parts) == sorted(kind.__name__ for kind in kinds)
    assert_bounds(measure, f, POINTS[6])


def convex_entries():
    """Every convex atom of the table, of an argument that is positive on the box [−1, 1]^k."""
    return [row for row in ENTRIES if row.kind == "convex"]


def example(row, k):
    w = ak.Variable(k)
    matrix = np.random.default_rng(k).uniform(-0.5, 0.5, size=(6, k))
    return ak.sum(row.example(ak.reshape(matrix @ w, (2, 3)) + 1.5 * k))


@pytest.mark.parametrize("row", convex_entries(), ids=lambda row: row.name)
def test_every_convex_atom_has_a_measure_or_a_reason(row):
    for k in (1, 2, 3):
        f = example(row, k)
        assert f.is_convex()
        assert missing_measure(f, bounded=True) is None
        reason = missing_measure(f, bounded=False)
        assert reason is None or "faster than linearly" in reason
        if reason is not None:
            with pytest.raises(IntractableError, match="faster than linearly"):
                chosen(f, k, choose=choose_finite)


@pytest.mark.parametrize("row", convex_entries(), ids=lambda row: row.name)
def test_every_convex_atom_is_bounded(row):
    f = example(row, 1)
    inside = np.linspace(-1, 1, 2001)[:, None]
    measure = chosen(f, 1, 2.0, boxed=True)
    assert_bounds(measure, f, inside, 2.0)
    listed = chosen(f, 1, 2.0, choose=choose_finite, boxed=True)
    over, _ = slack(listed, f, inside, 2.0)
    # A lattice stands for a Gaussian up to what it leaves out.
    assert over.min() >= (-1e-6 if isinstance(measure, GaussianMeasure) else -1e-11)
    assert np.average(np.exp(-over)) > 0.3
    if missing_measure(f, bounded=False) is None and not isinstance(measure, GaussianMeasure):
        assert_bounds(chosen(f, 1, 2.0), f, POINTS[1], 2.0)


SUMMANDS = {
    "abs": lambda a: ak.sum(ak.abs(a)),
    "huber": lambda a: ak.sum(ak.huber(a, 0.7)),
    "logistic": lambda a: ak.sum(ak.logistic(a)),
    "pos": lambda a: ak.sum(ak.pos(a)),
    "max": ak.max,
    "log_sum_exp": ak.log_sum_exp,
    "norm2": ak.norm2,
    "norm_inf": ak.norm_inf,
    "sum_largest": lambda a: ak.sum_largest(a, 2),
    "minus minimum": lambda a: -ak.min(a),
    "squares": lambda a: 0.2 * ak.sum_squares(a),
    "line": ak.sum,
}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    names=st.lists(st.sampled_from(sorted(SUMMANDS)), min_size=1, max_size=3),
    k=st.sampled_from([1, 2, 5]),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    seed=st.integers(0, 2**16),
)
def test_random_sums_are_bounded(names, k, weight, seed):
    rng = np.random.default_rng(seed)
    w = ak.Variable(k)
    f = 0.5 + sum(
        rng.uniform(0.2, 1.5) * SUMMANDS[name](rng.integers(-2, 3, size=(2, k)) @ w + rng.normal(size=2))
        for name in names
    )
    assert missing_measure(f, bounded=False) is None
    assert_bounds(chosen(f, k, weight), f, POINTS[k], weight)


class TestListed:
    """Measures of few tilts, for the direct engine."""

    def test_a_lattice_is_a_quadratic(self):
        w = ak.Variable(2)
        f = 0.2 * ak.sum_squares(w) + 0.3 * w[0] + 1.5
        measure = chosen(f, 2, choose=choose_finite)
        near = PILOT[2]
        np.testing.assert_allclose(measure.log_bound(near), f.value(near).reshape(-1), atol=1e-7)

    @pytest.mark.parametrize("copies", [1, 2, 5])
    def test_log_sum_exp_over_a_whole_weight_is_its_multinomial_points(self, copies):
        f = ak.log_sum_exp(ak.Variable(3)) + 1.0
        measure = chosen(f, 3, 1 / copies, choose=choose_finite)
        assert measure.is_exact and len(measure.nodes) == (copies + 2) * (copies + 1) // 2
        assert_bounds(measure, f, POINTS[3], 1 / copies)

    def test_many_multinomial_points_give_way_to_a_cover(self):
        w = ak.Variable(1)
        f = ak.log_sum_exp(np.linspace(-1, 1, 12)[:, None] @ w)
        measure = chosen(f, 1, 1 / 6, choose=choose_finite)
        assert not measure.is_exact and len(measure.nodes) < 500
        assert_bounds(measure, f, POINTS[1], 1 / 6)

    @pytest.mark.parametrize("weight", [0.3, 1.0])
    def test_separate_coordinates_multiply(self, weight):
        w = ak.Variable(3)
        f = ak.norm1(w) + ak.sum(ak.pos(w - 1)) + 0.5 * w[1] - 1
        measure = chosen(f, 3, weight, choose=choose_finite)
        assert_bounds(measure, f, POINTS[3], weight)
        log_masses = measure.log_weights + normal(measure.nodes)
        shares = np.exp(log_masses - np.logaddexp.reduce(log_masses))
        rng = np.random.default_rng(1)
        draws = measure.nodes[rng.choice(len(shares), size=4000, p=shares)] + rng.normal(size=(4000, 3))
        assert np.exp(-slack(measure, f, draws, weight)[0]).mean() >= 0.6

    def test_few_pieces_in_many_dimensions(self):
        measure = chosen(ak.max(W6) + 1.0, 6, choose=choose_finite)
        assert len(measure.nodes) == 6
        assert_bounds(measure, ak.max(W6) + 1.0, POINTS[6])

    @pytest.mark.parametrize(
        "f",
        [
            ak.sum_squares(W6),
            ak.norm1(W6) + ak.sum(ak.logistic(3 * W6)),
            ak.max(A @ W6) + ak.sum_squares(W6),
            6.3 * ak.log_sum_exp(ak.concatenate([W6, -W6])),
        ],
        ids=["quadratic", "product", "quadratic and more", "labels"],
    )
    def test_too_many_are_refused(self, f):
        assert not has_finite_measure(f)
        with pytest.raises(ParameterError, match="annealed"):
            chosen(f, 6, choose=choose_finite)

    @pytest.mark.parametrize(
        "name", [name for name in KINDS if name not in {"max", "a minimum turned over", "norm_inf"}]
    )
    def test_they_are_not_promised_in_many_dimensions(self, name):
        assert not has_finite_measure(KINDS[name][0](W6))

    @pytest.mark.parametrize("name", ["max", "a minimum turned over", "norm_inf"])
    def test_they_are_promised_for_few_pieces(self, name):
        assert has_finite_measure(KINDS[name][0](W6))


class TestReasons:
    @pytest.mark.parametrize(
        ("f", "bounded", "names"),
        [
            (ak.norm1(W6) + ak.norm2(A @ W6), False, r"norm2\(.*sees 4 features"),
            (ak.norm1(W6) + ak.exp(W6[0]), False, r"exp\(.*faster than linearly"),
            (ak.sum(ak.exp(np.array([[0.0, 0.0], [1.0, 1.0]]) @ W6[:2])), False, r"exp\(.*faster than linearly"),
            (ak.sum(ak.power(ak.pos(W6), 3)), False, "faster than linearly"),
            (ak.sum_largest(W6, 2), True, r"sum_largest\(.*sees \d features"),
        ],
    )
    def test_they_name_the_summand(self, f, bounded, names):
        reason = missing_measure(f, bounded=bounded)
        assert reason is not None
        assert re.search(names, reason)
        with pytest.raises(IntractableError):
            chosen(f, 6, boxed=bounded)

    def test_bounded_data_take_what_outgrows_lines(self):
        f = ak.norm1(W6) + ak.exp(W6[0]) + ak.sum(ak.square(ak.pos(W6)))
        assert missing_measure(f, bounded=True) is None
        assert_bounds(chosen(f, 6, boxed=True), f, RNG.uniform(-1, 1, size=(3000, 6)))


class TestBlocks:
    def test_their_sum_is_the_reward(self):
        f = ak.sum(ak.norm2(ak.reshape(A[:, ::-1] @ W6, (2, 2)), axis=0)) + ak.norm1(W6[:2]) + ak.sum(ak.pos(W6) ** 3)
        blocks = blocks_of(split(f).terms, 6, 3)
        total = sum(block.function.value(PILOT[6] @ block.rows.T).reshape(-1) for block in blocks)
        np.testing.assert_allclose(total, f.value(PILOT[6]).reshape(-1))

    def test_what_is_constant_is_a_point(self):
        """An entry that sees nothing of w."""
        matrix = np.array([[0.0] * 6, [1.0] + [0.0] * 5])
        f = ak.sum(ak.exp(matrix @ W6 + 0.5)) + ak.norm1(W6[1:])
        assert_bounds(chosen(f, 6, boxed=True), f, RNG.uniform(-1, 1, size=(3000, 6)))

    def test_a_shared_entry_is_seen_once(self):
        inner = ak.abs(W6)
        f = ak.sum(ak.huber(inner)) + ak.sum(inner) + ak.max(inner[:2])
        assert sorted(block.rank for block in blocks_of(split(f).terms, 6, 3)) == [1, 1, 1, 1, 2]
