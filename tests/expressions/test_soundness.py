"""Twenty thousand random expressions: no claim of curvature, range, Lipschitz constant or composition is ever wrong.

What cvxpy proves of the expressions it can write is proved here too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

import alignkit.expressions as ex
from alignkit.compiler.composition import compose
from alignkit.errors import NonFiniteError
from tests.expressions.random_expressions import SHAPE, Recipe, recipes

#: How many expressions in all, and how many of each shard are also held against jax and cvxpy.
SHARDS, EXAMPLES, IN_JAX, IN_CVXPY = 20, 1000, 100, 500
ROWS = 6
#: Values beyond this lose the digits that the comparisons need.
HUGE = 1e8
common = {
    "deadline": None,
    "database": None,
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "suppress_health_check": list(HealthCheck),
}


def points(number: int, rows: int) -> np.ndarray:
    generator = np.random.default_rng(number)
    return generator.standard_normal((rows, *SHAPE)) * 10.0 ** generator.uniform(-1, 0.7, size=(rows, 1, 1))


def values(expression: ex.Expression, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return expression.value(x).reshape(len(x), -1)


def slack(*found: np.ndarray) -> float:
    return 1e-9 * (1.0 + max((float(np.abs(value).max(initial=0.0)) for value in found), default=0.0))


def check_curvature(expression: ex.Expression, number: int) -> int:
    """Hold curvature and Lipschitz claims against pairs of points; returns how many pairs decided something."""
    a, b = points(number, ROWS), points(number + 1, ROWS)
    b[ROWS // 2 :] = a[ROWS // 2 :] + 1e-2 * b[ROWS // 2 :]  # half of the pairs are close
    t = np.random.default_rng(number).uniform(size=(ROWS, 1, 1))
    at_a, at_b, between = (values(expression, x) for x in (a, b, t * a + (1 - t) * b))
    usable = (np.abs(at_a) < HUGE).all(axis=1) & (np.abs(at_b) < HUGE).all(axis=1)
    at_a, at_b, between, weight = at_a[usable], at_b[usable], between[usable], t[usable, :, 0]
    allowed = slack(at_a, at_b)
    chord = weight * at_a + (1 - weight) * at_b
    if expression.is_convex():
        assert (between <= chord + allowed).all(), f"not convex: {expression}"
    if expression.is_concave():
        assert (between >= chord - allowed).all(), f"not concave: {expression}"
    inside = inside_domain(expression, a)[usable] & inside_domain(expression, b)[usable]
    if math.isfinite(expression.lipschitz):
        moved = np.linalg.norm(at_a - at_b, axis=1)
        distance = np.linalg.norm((a - b)[usable].reshape(len(at_a), a[0].size), axis=1)
        steep = moved > expression.lipschitz * distance * (1 + 1e-9) + allowed
        assert not (steep & inside).any(), f"L is wrong: {expression}"
    for found in (at_a[inside], at_b[inside]):
        assert (found >= expression.range.lower - slack(found)).all(), f"below its range: {expression}"
        assert (found <= expression.range.upper + slack(found)).all(), f"above its range: {expression}"
    return int(usable.sum())


def inside_domain(expression: ex.Expression, x: np.ndarray) -> np.ndarray:
    """Rows where every condition of the domain holds, and no sub-expression is too large to keep its digits."""
    inside = largest_inside(expression, x) < HUGE
    for condition in expression.domain:
        inside &= (values(condition.expression, x) > condition.bound + 1e-6).all(axis=1)
    return inside


def check_domain(expression: ex.Expression, x: np.ndarray, found: np.ndarray) -> None:
    """Wherever every condition of the domain holds, the value is no NaN."""
    bad = inside_domain(expression, x) & np.isnan(found).any(axis=1)
    assert not bad.any(), f"NaN inside the domain: {expression} at {x[bad][0].tolist()}"


def check_libraries(expression: ex.Expression, x: np.ndarray, found: np.ndarray, *, in_jax: bool) -> None:
    """torch and jax give numpy's values to 1e-6, where no sub-expression has lost its digits."""
    settled = (largest_inside(expression, x) < HUGE)[:, None] & (np.abs(found) < HUGE)
    others = [expression.value(torch.tensor(x)).numpy().reshape(found.shape)]
    if in_jax:
        others.append(np.asarray(expression.value(jnp.asarray(x))).reshape(found.shape))
    for other in others:
        np.testing.assert_allclose(other[settled], found[settled], rtol=1e-6, atol=1e-6, err_msg=str(expression))


def check_gradient(scalar: ex.Expression, x: np.ndarray, number: int) -> int:
    """The gradient is the slope of finite differences, where these agree; returns how many rows were decided."""
    direction = np.random.default_rng(number + 2).standard_normal(x.shape)
    direction /= np.linalg.norm(direction.reshape(len(x), -1), axis=1)[:, None, None]

    def slopes(step: float) -> tuple[np.ndarray, np.ndarray]:
        ahead, behind = values(scalar, x + step * direction)[:, 0], values(scalar, x - step * direction)[:, 0]
        return (ahead - here) / step, (here - behind) / step

    here = values(scalar, x)[:, 0]
    with np.errstate(all="ignore"):
        coarse, fine = slopes(2e-5), slopes(1e-5)
        found = (scalar.gradient(x) * direction).reshape(len(x), -1).sum(axis=1)
        central, coarser = (fine[0] + fine[1]) / 2, (coarse[0] + coarse[1]) / 2
        scale = 1.0 + np.abs(central) + 1e-11 * np.abs(here) / 1e-5
        # A kink shows as one-sided slopes that do not approach one another.
        smooth = (np.abs(fine[0] - fine[1]) <= 0.6 * np.abs(coarse[0] - coarse[1]) + 1e-4 * scale) & (
            np.abs(central - coarser) <= 1e-5 * scale
        )
        usable = np.isfinite(central) & np.isfinite(coarser) & (np.abs(here) < 1e5) & smooth
        usable &= inside_domain(scalar, x)
    error = np.abs(found - central)[usable] / scale[usable]
    assert (error <= 2e-4).all(), f"gradient: {scalar} off by {error.max():.1e}"
    return int(usable.sum())


def check_composition(reward: ex.Expression, scale: np.ndarray, x: np.ndarray) -> None:
    """f(Qx) + ⟨g, x⟩ + c is r(x) to 1e-9, Q is orthonormal, Qg = 0, and what is proved of r is proved of f."""
    composition = compose(reward)
    flat = x.reshape(len(x), -1)
    truth, found = values(reward, x)[:, 0], flat @ composition.linear + composition.constant
    f = composition.nonlinear
    if f is not None:
        with np.errstate(all="ignore"):
            found = found + f.value(composition.subspace.project(flat))
        basis = composition.subspace.embed(np.eye(composition.dimension))
        np.testing.assert_allclose(basis @ basis.T, np.eye(composition.dimension), atol=1e-12)
        assert np.abs(composition.subspace.project(composition.linear)).max() <= 1e-12
        assert f.is_convex() >= reward.is_convex(), f"convexity lost: {reward}"
        assert f.is_concave() >= reward.is_concave(), f"concavity lost: {reward}"
    usable = np.isfinite(truth) & (scale < HUGE)
    error = np.abs(found[usable] - truth[usable]) / (1.0 + scale[usable])
    assert (error <= 1e-9).all(), f"composition: {reward} off by {error.max():.1e}"


def check_completeness(recipe: Recipe, expression: ex.Expression) -> str | None:
    """What cvxpy proves is proved here; returns what is proved here alone, "" if nothing, None if cvxpy has no such."""
    theirs = recipe.build(cp.Variable(SHAPE), ours=False)
    if theirs is None:
        return None
    assert tuple(theirs.shape) == expression.shape, str(expression)
    assert expression.is_convex() or not theirs.is_convex(), f"cvxpy proves convex: {theirs} ({expression})"
    assert expression.is_concave() or not theirs.is_concave(), f"cvxpy proves concave: {theirs} ({expression})"
    more = expression.is_convex() > theirs.is_convex() or expression.is_concave() > theirs.is_concave()
    return f"{expression.curvature}: {expression}" if more else ""


def largest_inside(expression: ex.Expression, x: np.ndarray) -> np.ndarray:
    """The largest magnitude among all sub-expressions at each row: what rounding is relative to."""
    found = np.zeros(len(x))
    for node in ex.expression.topological(expression):
        if node.depends:
            entries = np.abs(values(node, x)).max(axis=1)
            found = np.maximum(found, np.where(np.isfinite(entries), entries, HUGE))
    return found


@contextmanager
def double_precision() -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_claim_holds(shard: int, record_property: Callable[[str, object], None]) -> None:
    seen: set[str] = set()
    favourable: list[str] = []
    decided: Counter[str] = Counter()

    @seed(shard)
    @settings(max_examples=2 * EXAMPLES, **common)
    @given(recipes(SHAPE, 5) | recipes((), 5), st.integers(0, 2**20))
    def check(recipe: Recipe, number: int) -> None:
        key = str(recipe)
        if key in seen or len(seen) >= EXAMPLES:
            return
        x_variable = ex.Variable(SHAPE)
        try:
            expression = recipe.build(x_variable, ours=True)
        except NonFiniteError:  # a constant sub-expression outside its domain
            return
        decided["pairs"] += check_curvature(expression, number)
        decided["curved"] += expression.is_convex() or expression.is_concave()
        decided["Lipschitz"] += math.isfinite(expression.lipschitz)
        x = points(number + 3, 3)
        found = values(expression, x)
        check_domain(expression, x, found)
        check_libraries(expression, x, found, in_jax=len(seen) < IN_JAX)
        if len(seen) < IN_CVXPY:
            better = check_completeness(recipe, expression)
            decided["in cvxpy"] += better is not None
            favourable.extend([better] if better else [])
        weights = np.random.default_rng(number).uniform(0.5, 1.5, size=expression.shape)
        reward = ex.inner(weights, expression) + 0.25 * ex.mean(x_variable)
        decided["gradients"] += check_gradient(reward, x, number)
        try:
            check_composition(reward, largest_inside(reward, x), x)
        except NonFiniteError:  # as above, once rows that cancel have made it constant
            decided["refused"] += 1
        seen.add(key)

    with double_precision():
        check()
    assert len(seen) == EXAMPLES
    record_property("proved here and not by cvxpy", favourable)
    print(
        f"{decided['in cvxpy']} written in cvxpy too; proved here and not there, {len(favourable)}:",
        *favourable,
        sep="\n  ",
    )
    assert decided["refused"] <= EXAMPLES / 50
    # The run decides something: most claims are held against points, and many expressions have something to claim.
    assert decided["pairs"] > 2 * EXAMPLES and decided["gradients"] > EXAMPLES
    assert decided["in cvxpy"] > IN_CVXPY / 10
    assert decided["curved"] > EXAMPLES / 10 and decided["Lipschitz"] > EXAMPLES / 10


def test_a_power_is_not_increasing_across_zero() -> None:
    """cvxpy proves (x² − 1)₊-like powers convex by calling them increasing; outside their domain they are infinite."""
    theirs = cp.power(cp.square(cp.Variable()) - 1.0, 3)
    assert theirs.is_convex()
    ours = ex.power(ex.square(ex.Variable()) - 1.0, 3)
    assert not ours.is_convex()
    left, middle, right = (float(ours.value(x)) for x in (-2.0, 0.0, 2.0))
    assert middle > (left + right) / 2
