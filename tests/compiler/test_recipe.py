"""New values of parameters: the refreshed composition is the one that composing anew would give, with the same f."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import alignkit.expressions as ex
from alignkit.compiler.composition import Recipe, compose
from alignkit.expressions.arrays import Floats

SHAPE = (4, 5)
X = np.random.default_rng(0).normal(size=(9, *SHAPE))
H = np.random.default_rng(1).normal(size=(3, 20))

#: name: (reward of x, a target (3,), a matrix (3, 20) and a nonnegative weight), the dimension, whether Q stays)
REWARDS: dict[str, tuple[Callable[..., ex.Expression], int, bool]] = {
    "target": (lambda x, t, m, a: -ex.norm1(H @ ex.vec(x) - t), 3, True),
    "target of a maximum": (lambda x, t, m, a: ex.max(H @ ex.vec(x) - t), 2, True),
    "target of pieces": (lambda x, t, m, a: ex.maximum(x[0, 0] - t[0], x[1, 1], t[1]), 2, True),
    "matrix": (lambda x, t, m, a: ex.log_sum_exp(m @ ex.vec(x)), 2, False),
    "matrix and target": (lambda x, t, m, a: -ex.huber(ex.norm2(m @ ex.vec(x) - t)), 3, False),
    "weight": (lambda x, t, m, a: a * ex.norm1(H @ ex.vec(x)) + ex.mean(x), 3, True),
    "weight of one of two": (lambda x, t, m, a: a * ex.square(x[0, 0]) + ex.abs(x[1, 1] - 1.0), 2, True),
    "negative weight": (lambda x, t, m, a: -a * ex.norm1(H @ ex.vec(x) - t), 3, True),
    "linear part": (lambda x, t, m, a: ex.inner(t, x[:3, 0]) + ex.square(x[0, 0]), 1, True),
    "linear part in the row space": (lambda x, t, m, a: a * ex.sum(H @ ex.vec(x)) - ex.norm1(H @ ex.vec(x)), 3, True),
    "affine": (lambda x, t, m, a: ex.inner(t, x[:3, 0]) + a, 0, True),
    "inside an atom": (lambda x, t, m, a: ex.square(a * ex.abs(x[0, 0]) + t[0] + x[1, 1]), 2, True),
    "full dimension": (lambda x, t, m, a: a * ex.norm1(x) + ex.mean(x), 20, True),
    "weights of entries": (lambda x, t, m, a: ex.inner(ex.square(t), ex.abs(H @ ex.vec(x))), 3, True),
    "constant atoms": (lambda x, t, m, a: ex.abs(ex.inner(0 * X[0], x) + t[0]) + ex.mean(x), 0, True),
}


def evaluate(composition: Any, points: Floats) -> Floats:
    flat = points.reshape(len(points), -1)
    found = flat @ composition.linear + composition.constant
    if composition.nonlinear is not None:
        found = found + composition.nonlinear.value(composition.subspace.project(flat))
    return np.asarray(found)


def draw(seed: int) -> tuple[Floats, Floats, float]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=3), generator.normal(size=(3, 20)), abs(float(generator.normal()))


@pytest.mark.parametrize("name", REWARDS)
def test_refreshing_is_composing_anew(name: str) -> None:
    build, dimension, keeps_basis = REWARDS[name]
    x = ex.Variable(SHAPE)
    t, m, a = ex.Parameter(3, name="t"), ex.Parameter((3, 20), name="B"), ex.Parameter((), nonneg=True, name="a")
    t.value, m.value, a.value = draw(5)
    reward = build(x, t, m, a)
    recipe = Recipe(reward)
    first = recipe.composition
    assert first.dimension == dimension
    for seed in (6, 7):
        t.value, m.value, a.value = draw(seed)
        assert recipe.refresh()
        found = recipe.composition
        assert found.nonlinear is first.nonlinear
        assert (found.subspace is first.subspace) or not keeps_basis or dimension == 0
        np.testing.assert_allclose(evaluate(found, X), reward.value(X).ravel(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(evaluate(found, X), evaluate(compose(reward), X), rtol=1e-10, atol=1e-10)
        if found.nonlinear is not None and not found.subspace.is_identity:
            assert np.abs(found.subspace.project(found.linear)).max() <= 1e-12
            assert found.nonlinear.is_convex() >= reward.is_convex()
            assert found.nonlinear.is_concave() >= reward.is_concave()


def test_a_change_of_rank_needs_a_new_composition() -> None:
    m = ex.Parameter((2, 20), np.eye(2, 20))
    recipe = Recipe(ex.norm1(m @ ex.vec(ex.Variable(SHAPE))))
    m.value = np.ones((2, 20))
    assert not recipe.refresh()


def test_what_was_dropped_is_noted_with_its_sub_expression() -> None:
    x = ex.Variable(SHAPE)
    rows = np.vstack([H, H[0] - H[1], 0 * H[0], 1e9 * H[2]])
    notes = compose(ex.norm1(rows @ ex.vec(x)) + ex.square(x[0, 0])).notes
    assert any(note.startswith("1 of 6 rows of [6×20 constant] @ vec(x) are zero") for note in notes)
    assert any(note.startswith("2 of 6 rows of [6×20 constant] @ vec(x) lie in the span") for note in notes)
    assert any("differ in length by a factor of" in note for note in notes)
    assert compose(ex.norm1(H @ ex.vec(x))).notes == ()
