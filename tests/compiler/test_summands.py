"""Rewards taken apart: the pieces add up, and what is called convex is convex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import alignkit.expressions as ex
from alignkit.compiler.summands import features, summands_of
from alignkit.compiler.violations import violations
from alignkit.expressions import Curvature
from alignkit.expressions.atom import substitute

X = ex.Variable((2, 3))
GENERATOR = np.random.default_rng(0)
H = GENERATOR.normal(size=(2, 3))
POINTS = GENERATOR.normal(size=(40, 2, 3))


def one_of(*choices):
    return st.one_of(*(st.just(choice) for choice in choices))


ATOMS = (ex.square, ex.abs, ex.huber, ex.pos, lambda a: -ex.square(a), lambda a: 2.0 * a - 1.0, lambda a: -0.5 * a)
REDUCTIONS = (ex.sum, ex.norm1, ex.norm2, ex.max, ex.min, ex.sum_squares, ex.log_sum_exp, lambda a: ex.inner(H, a))


@st.composite
def expressions(draw, depth=3):
    """Random scalar expressions, with shared parts, differences and sums under linear operations."""
    arrays = [X, X - 1.0]
    for _ in range(draw(st.integers(0, depth))):
        first, second = draw(st.sampled_from(arrays)), draw(st.sampled_from(arrays))
        arrays.append(draw(st.sampled_from(ATOMS))(first) + draw(one_of(-1.0, 0.5)) * second)
    scalars = [draw(st.sampled_from(REDUCTIONS))(draw(st.sampled_from(arrays))) for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(0, 2))):
        scalars.append(draw(one_of(ex.square, ex.abs, ex.pos))(draw(st.sampled_from(scalars))))
    total = scalars[0]
    for other in scalars[1:]:
        total = draw(one_of(1.0, -1.0, 2.0)) * (total - other)
    return total


class TestSums:
    @settings(max_examples=200, deadline=None)
    @given(expressions())
    def test_the_summands_add_up_to_the_reward(self, reward):
        found = sum(np.asarray(term.value(POINTS)).reshape(-1) for term in summands_of(reward).terms)
        np.testing.assert_allclose(found, reward.value(POINTS), rtol=1e-9, atol=1e-8)

    @settings(max_examples=200, deadline=None)
    @given(expressions())
    def test_the_parts_of_a_difference_of_convex_functions_add_up_and_are_proved(self, reward):
        summands = summands_of(reward)
        parts = summands.convex_part, summands.concave_part, summands.affine_part
        assert parts[0] is None or parts[0].is_convex()
        assert parts[1] is None or parts[1].is_concave()
        assert parts[2] is None or parts[2].is_affine()
        if summands.is_difference_of_convex:
            found = sum(part.value(POINTS) for part in parts if part is not None)
            np.testing.assert_allclose(found, reward.value(POINTS), rtol=1e-9, atol=1e-8)
        else:
            assert all(not term.is_convex() and not term.is_concave() for term in summands.undecided)

    @pytest.mark.parametrize(
        ("build", "shown"),
        [
            (lambda x: 2 * (ex.sum_squares(x) - ex.norm1(x)), ["2 * sum_squares(x)", "-2 * norm1(x)"]),
            (lambda x: -(ex.norm1(x) - x[0, 0]), ["-norm1(x)", "x[0, 0]"]),
            (lambda x: ex.sum(ex.square(x) - ex.abs(x)), ["sum(square(x))", "-sum(abs(x))"]),
            (lambda x: ex.square(ex.norm1(x) - 1), ["square(norm1(x) - 1)"]),
            (lambda x: ex.sum(x) + 3.0, ["sum(x) + 3"]),
            (lambda x: (ex.norm1(x) + 1.0) / 4, ["norm1(x) / 4", "0.25"]),
        ],
    )
    def test_they_read_as_their_author_would_write_them(self, build, shown):
        assert [str(term) for term in summands_of(build(ex.Variable((2, 3)))).terms] == shown

    def test_weights_of_both_signs_are_told_apart(self):
        x = ex.Variable(4)
        summands = summands_of(ex.inner(np.array([1.0, -2.0, 0.0, 3.0]), ex.square(x)))
        assert summands.is_difference_of_convex
        point = np.array([1.0, 1.0, 1.0, 2.0])
        assert float(summands.convex_part.value(point)) == 13.0
        assert float(summands.concave_part.value(point)) == -2.0

    def test_weights_that_may_change_sign_are_not(self):
        x = ex.Variable(2)
        weights = ex.Parameter(2, [1.0, -1.0])
        assert not summands_of(ex.inner(weights, ex.square(x))).is_difference_of_convex

    def test_what_is_no_difference_of_convex_functions_is_named(self):
        x = ex.Variable(2)
        undecided = ex.square(ex.abs(x[0]) - 1)
        assert summands_of(ex.norm1(x) + undecided).undecided == (undecided,)

    def test_sums_that_sharing_makes_exponential_stay_whole(self):
        total = ex.norm1(ex.Variable(2))
        for _ in range(40):
            total = ex.reshape(total, (1,))[0] * 0.5 + ex.reshape(total, (1,))[0] * 0.5
        assert 1 <= len(summands_of(total).terms) <= 1000


class TestFeatures:
    def test_they_are_the_affine_arguments_of_nonlinear_atoms(self):
        x = ex.Variable(5)
        inside = x[1:3] - 1.0
        reward = ex.square(ex.abs(x[0]) + 2 * x[3]) + ex.norm1(inside) + ex.norm2(inside) + ex.sum(x)
        assert sorted(map(str, features(reward))) == ["2 * x[3]", "x[0]", "x[1:3] - 1"]

    def test_affine_rewards_have_none(self):
        assert features(ex.sum(X)) == ()


class TestViolations:
    @settings(max_examples=300, deadline=None)
    @given(expressions(), st.sampled_from([Curvature.CONVEX, Curvature.CONCAVE]))
    def test_without_them_the_curvature_would_be_proved(self, reward, wanted):
        """The truth: put something affine in each named place, and nothing but the named places was in the way."""
        found = violations(reward, wanted)
        has = reward.is_convex if wanted is Curvature.CONVEX else reward.is_concave
        assert bool(found) == (not has())
        places = {}
        for violation in found:
            place = violation.node if violation.argument is None else violation.argument
            places[id(place)] = ex.reshape(ex.inner(H, X), (1,) * place.ndim) * np.ones(place.shape)
        changed = substitute(reward, places)
        assert changed.is_convex() if wanted is Curvature.CONVEX else changed.is_concave()

    @settings(max_examples=100, deadline=None)
    @given(expressions(), st.sampled_from([Curvature.CONVEX, Curvature.CONCAVE]))
    def test_each_is_in_the_expression_and_is_named_in_its_reason(self, reward, wanted):
        nodes = {id(node) for node in ex.expression.topological(reward)}
        for violation in violations(reward, wanted):
            assert id(violation.node) in nodes
            assert violation.argument is None or any(violation.argument is arg for arg in violation.node.args)
            assert " … " in violation.reason or str(violation.node) in violation.reason

    def test_the_argument_is_named_where_it_is_to_blame(self):
        x = ex.Variable(2)
        reward = ex.square(ex.abs(x[0]) - 1) + ex.norm1(x)
        (violation,) = violations(reward, Curvature.CONVEX)
        assert str(violation.node) == "square(abs(x[0]) - 1)" and str(violation.argument) == "abs(x[0]) - 1"
        assert "not monotone in abs(x[0]) - 1, which is convex" in violation.reason

    def test_the_deepest_culprit_is_found_through_decreasing_operations(self):
        x = ex.Variable(2)
        (violation,) = violations(3.0 - 2 * ex.norm1(x), Curvature.CONVEX)
        assert str(violation.node) == "norm1(x)" and violation.argument is None
        assert violation.reason == "norm1(x) must be concave here, and norm1 is convex."
