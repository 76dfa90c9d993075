"""power, sqrt, inv_pos and geo_mean against closed forms, scipy and cvxpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

import alignkit.expressions as ex
from alignkit.errors import CurvatureError, NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.atoms import elementwise, exponential, powers
from alignkit.expressions.atoms.powers import GeoMean, InvPos, Power, Sqrt, cubic_root, geo_mean, inv_pos, power, sqrt
from tests.expressions.functions_of_a_number import (
    Truth,
    check_boxes,
    check_conjugate,
    check_extremes,
    check_gradients,
    check_libraries,
    check_prox,
    check_subgradients,
    check_values,
    check_verdict,
)


def powered(p: float) -> Truth:
    """What xᵖ is on its domain."""
    even = p > 0 and p % 2 == 0
    return Truth(
        lambda x: power(x, p),
        lambda x: x**p,
        lambda x: p * x ** (p - 1.0),
        least=-math.inf if even else 0.0,
        closed=p > 0.0,
        outside=-math.inf if 0.0 < p < 1.0 else math.inf,
        wide=4.0,
    )


FUNCTIONS = {f"power {p}": powered(p) for p in (3.0, 4.0, 6.0, 1.5, 2.7, 0.3, 0.9, -0.5, -2.0)} | {
    "sqrt": Truth(sqrt, np.sqrt, lambda x: 0.5 / np.sqrt(x), least=0.0, outside=-math.inf),
    "inv_pos": Truth(inv_pos, np.reciprocal, lambda x: -1.0 / x**2, least=0.0, closed=False, outside=math.inf),
}
COMMON = (check_values, check_libraries, check_gradients, check_subgradients, check_extremes, check_boxes)
CONCAVE = ("power 0.3", "power 0.9", "sqrt")


@pytest.mark.parametrize("check", COMMON)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_closed_forms(name: str, check: Callable[[Truth], None]) -> None:
    with np.errstate(all="ignore"):
        check(FUNCTIONS[name])


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in CONCAVE])
def test_conjugates(name: str) -> None:
    check_conjugate(FUNCTIONS[name])


@pytest.mark.parametrize("name", ["power 3.0", "power 4.0", "power 1.5", "sqrt", "inv_pos"])
def test_proximal_maps(name: str) -> None:
    check_prox(FUNCTIONS[name])


@pytest.mark.parametrize("name", CONCAVE)
def test_concave_powers_have_no_conjugate(name: str) -> None:
    atom = FUNCTIONS[name].atom()
    for method in (atom.conjugate, atom.project_dual):
        with pytest.raises(ParameterError, match="conjugate"):
            method(np.zeros(1))


def test_powers_without_a_closed_proximal_map_say_so() -> None:
    for p in (2.7, 6.0, 0.3, -2.0):
        with pytest.raises(ParameterError, match="no closed proximal map"):
            powered(p).atom().prox(np.zeros(1), 1.0)


def test_cubic_roots_solve_their_cubic() -> None:
    slopes = np.concatenate(
        [np.linspace(-5.0, 5.0, 2001), 10.0 ** np.linspace(0, 60, 61), -(10.0 ** np.linspace(0, 60, 61))]
    )
    found = cubic_root(np, slopes)
    for slope, root in zip(slopes[:2001:50], found[:2001:50], strict=True):
        roots = np.roots([1.0, 0.0, slope, -1.0])
        assert root == pytest.approx(float(roots[(abs(roots.imag) < 1e-9) & (roots.real > 0.0)].real.max()), rel=1e-12)
    assert (found > 0.0).all()
    # r² + a = 1/r, relative to the larger of its terms.
    residual = (found**2 + slopes - 1.0 / found) / np.maximum(found**2, np.maximum(np.abs(slopes), 1.0 / found))
    np.testing.assert_array_less(np.abs(residual), 1e-14)


def test_exponents_with_a_name_are_those_atoms() -> None:
    x = ex.Variable((2, 3))
    kinds = {2: elementwise.Square, 0.5: Sqrt, -1: InvPos, 3: Power, 4: Power, -2: Power, 0.3: Power}
    for p, kind in kinds.items():
        assert type(power(x, p)) is kind
        assert type(x**p) is kind
    assert power(x, 1) is x
    one = power(x, 0)
    assert isinstance(one, ex.Constant) and one.shape == (2, 3) and (one.dense() == 1.0).all()
    for three in (Fraction(3), np.float32(3.0), np.array(3), np.array([3.0]), torch.tensor(3), ex.Constant(3.0)):
        assert str(power(x, three)) == "power(x, 3)"
    assert str((x - 1.0) ** 0.3) == "power(x - 1, 0.3)"
    assert str(2.0 / (1.0 + x**4)) == "2 * inv_pos(1 + power(x, 4))"
    assert float(power(8.0, Fraction(1, 3)).value()) == pytest.approx(2.0)


def test_exponents_that_are_refused() -> None:
    x, y = ex.Variable((2, 3)), ex.Parameter(value=2.0, name="alpha")
    with pytest.raises(CurvatureError, match=r"(?s)\(x \+ 1\)\*\*abs\(x\).*exp\(e\)"):
        (x + 1.0) ** ex.abs(x)
    with pytest.raises(CurvatureError, match=r"(?s)x\*\*alpha.*float\(alpha.value\(\)\)"):
        x**y
    for wrong in (math.nan, math.inf, "3", None, 2j, np.ones(2), [1.0, 2.0], 10**400, x.shape):
        with pytest.raises(ParameterError, match=r"(?s)power needs a finite number.*x\*\*"):
            x**wrong


@pytest.mark.parametrize(
    "build",
    [
        lambda f, x: f.power(x, 3),
        lambda f, x: f.power(x, 4),
        lambda f, x: f.power(x, 0.3),
        lambda f, x: f.power(x, -2),
        lambda f, x: f.power(x, 1),
        lambda f, x: f.power(x, 0),
        lambda f, x: f.power(f.abs(x), 3),
        lambda f, x: f.power(f.abs(x), 1.5),
        lambda f, x: f.power(f.square(x) - 1.0, 4),
        lambda f, x: f.power(-f.abs(x), 4),
        lambda f, x: f.power(f.pos(x), 2.5),
        lambda f, x: -f.power(f.exp(x), 3),
        lambda f, x: f.power(f.log(x), 3),
        lambda f, x: f.power(f.sqrt(x), 0.7),
        lambda f, x: f.power(f.log(x), 0.5),
        lambda f, x: f.power(f.exp(x), 0.5),
        lambda f, x: f.power(f.sqrt(x), -3),
        lambda f, x: f.power(f.exp(x), -3),
        lambda f, x: f.sqrt(x),
        lambda f, x: f.sqrt(f.sqrt(x)),
        lambda f, x: f.sqrt(f.square(x)),
        lambda f, x: f.sqrt(f.minimum(x, 1.0)),
        lambda f, x: -f.sqrt(1.0 - f.square(x)),
        lambda f, x: f.inv_pos(x),
        lambda f, x: f.inv_pos(f.sqrt(x)),
        lambda f, x: f.inv_pos(f.inv_pos(x)),
        lambda f, x: f.inv_pos(1.0 - f.square(x)),
        lambda f, x: f.square(f.inv_pos(x)),
        lambda f, x: f.power(f.inv_pos(x), 3),
        lambda f, x: f.geo_mean(x[0]),
        lambda f, x: f.geo_mean(f.sqrt(x)[0]),
        lambda f, x: f.geo_mean(f.square(x)[0]),
        lambda f, x: f.geo_mean(x[0], [1.0, 0.0, 2.0]),
        lambda f, x: -f.geo_mean(1.0 - f.square(x[1])),
        lambda f, x: f.log(f.geo_mean(x[1])),
        lambda f, x: f.inv_pos(f.geo_mean(x[1])),
        lambda f, x: f.geo_mean(x, axis=1),
    ],
)
def test_verdicts_are_cvxpys(build: Callable[..., object]) -> None:
    check_verdict(build, elementwise.ENTRIES, exponential.ENTRIES, powers.ENTRIES)


def test_odd_powers_of_convex_arguments_that_may_be_negative_are_not_called_convex() -> None:
    """cvxpy calls (x² − 1)³ on x² ≥ 1 convex, and its domain is two half-lines."""
    x = ex.Variable()
    expression = power(ex.square(x) - 1.0, 3)
    assert cp.power(cp.square(cp.Variable()) - 1.0, 3).is_convex()
    assert expression.value(np.array([-2.0, 0.0, 2.0])).tolist() == [27.0, math.inf, 27.0]
    assert not expression.is_convex()
    assert "not monotone in square(x) - 1" in expression.curvature_rule
    assert power(ex.pos(ex.square(x) - 1.0), 3).is_convex()
    # Where the argument stays inside the domain there is nothing to object to.
    assert expression.over(1.0, 2.0).is_convex()
    # Where it meets the domain at its end only, the function is that of a convex set: {−1 ≤ x ≤ 1}.
    assert power(-ex.pos(ex.abs(x) - 1.0), 3).is_convex()
    assert power(ex.square(x), 3).is_convex()


def test_divisions_by_positive_expressions_are_reciprocals() -> None:
    x = ex.Variable(3)
    expression = 2.0 / (1.0 + ex.square(x))
    points = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(expression.value(points), 2.0 / (1.0 + points**2), rtol=1e-14)
    assert expression.range == ex.Interval(0.0, 2.0)
    assert ex.sum(expression).over(-1.0, 1.0).range == ex.Interval(3.0, 6.0)


def test_bounds_of_powers_overflow_to_infinity() -> None:
    x = ex.Variable()
    assert power(x, 4).over(1e100, 1e200).range == ex.Interval(np.finfo(float).max, math.inf)
    assert power(x, 4).over(0.0, 1e200).lipschitz == math.inf
    assert power(x, -4).over(1e-200, 1.0).range == ex.Interval(1.0, math.inf)
    assert power(x, -4).over(1e-200, 1.0).lipschitz == math.inf
    assert inv_pos(x).over(0.0, math.inf).range == ex.Interval(0.0, math.inf)
    above = ex.Interval(0.0, math.inf)
    for build, around in ((sqrt, ex.Interval()), (inv_pos, above), (lambda one: power(one, 3), above)):
        empty = build(x).over(-5.0, -2.0)
        assert empty.range == around and empty.lipschitz == 0.0


def test_constants_outside_the_domain_are_refused() -> None:
    for build, text in ((sqrt, "sqrt"), (inv_pos, "inv_pos"), (lambda one: power(one, 3), "power")):
        with pytest.raises(NonFiniteError, match=rf"{text}\(-1"):
            build(-1.0)
    with pytest.raises(NonFiniteError, match="geo_mean"):
        geo_mean([1.0, -1.0])


# ---- geometric means

WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25, 3.0, 1.5])
POSITIVE = np.random.default_rng(4).lognormal(size=(7, 2, 3))


def test_geometric_means_are_scipys() -> None:
    x = ex.Variable((2, 3))
    cases: list[tuple[ex.Expression, np.ndarray]] = [
        (geo_mean(x), stats.gmean(POSITIVE.reshape(7, 6), axis=1)),
        (geo_mean(x, WEIGHTS), stats.gmean(POSITIVE.reshape(7, 6), axis=1, weights=WEIGHTS)),
        (geo_mean(x, axis=0), stats.gmean(POSITIVE, axis=1)),
        (geo_mean(x, [1.0, 2.0, 4.0], axis=-1), stats.gmean(POSITIVE, axis=2, weights=np.array([1.0, 2.0, 4.0]))),
        (
            geo_mean(x, [1.0, 0.0, 4.0], axis=1),
            stats.gmean(POSITIVE[..., [0, 2]], axis=2, weights=np.array([1.0, 4.0])),
        ),
        (geo_mean(x, WEIGHTS.reshape(2, 3), axis=(0, 1)), stats.gmean(POSITIVE.reshape(7, 6), axis=1, weights=WEIGHTS)),
    ]
    for expression, truth in cases:
        np.testing.assert_allclose(expression.value(POSITIVE), truth, rtol=1e-13)
        with jax.enable_x64(True):
            for other in (torch.tensor(POSITIVE), jnp.asarray(POSITIVE)):
                np.testing.assert_allclose(np.asarray(expression.value(other)), truth, rtol=1e-13)
        assert expression.value(POSITIVE.astype(np.float32)).dtype == np.float32
        moved = expression.value(torch.zeros((4, 2, 3), device="meta", dtype=torch.bfloat16))
        assert (moved.dtype, moved.shape) == (torch.bfloat16, (4, *expression.shape))


def test_geometric_means_are_cvxpys() -> None:
    variable = cp.Variable(6, value=POSITIVE[0].ravel())
    for weights in (None, [1, 2, 3, 0, 1, 1], [0, 0, 0, 2, 0, 0]):
        theirs = cp.geo_mean(variable, weights)
        ours = geo_mean(ex.Variable(6), weights)
        np.testing.assert_allclose(ours.value(POSITIVE[0].ravel()), theirs.value, rtol=1e-12)
        assert (ours.is_convex(), ours.is_concave()) == (theirs.is_convex(), theirs.is_concave())


def test_geometric_means_at_the_edge_of_the_domain() -> None:
    x = ex.Variable(3)
    mean = geo_mean(x)
    assert mean.value([2.0, 0.0, 5.0]) == 0.0
    assert mean.value([2.0, -1e-300, 0.0]) == -math.inf
    assert math.isnan(mean.value(np.array([1.0, math.nan, 2.0])))
    assert mean.value([1e200, 1e300, 1e250]) == pytest.approx(1e250, rel=1e-12)
    assert mean.value([1e-200, 1e-300, 1e-250]) == pytest.approx(1e-250, rel=1e-12)
    assert [str(condition) for condition in mean.domain] == ["x ≥ 0"]
    # Entries of weight zero take no part, in the value and in the domain.
    partial = geo_mean(x, [1.0, 0.0, 1.0])
    assert partial.value([2.0, -5.0, 8.0]) == pytest.approx(4.0)
    assert [str(condition) for condition in partial.domain] == ["vec(x)[[2 indices]] ≥ 0"]
    # A single entry is returned as it is: affine, negative too.
    single = geo_mean(x, [0.0, 3.0, 0.0])
    assert single.is_affine() and single.value([1.0, -2.0, 1.0]) == -2.0 and single.domain == ()
    assert geo_mean(ex.Variable()).is_affine()
    rows = geo_mean(ex.Variable((2, 3)), [0.0, 0.0, 1.0], axis=1)
    assert rows.is_affine() and rows.value(np.arange(6.0).reshape(2, 3)).tolist() == [2.0, 5.0]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_gradients_of_geometric_means(weights: np.ndarray | None) -> None:
    mean = geo_mean(ex.Variable((2, 3)), weights)
    shares = (np.ones(6) if weights is None else weights) / (6.0 if weights is None else weights.sum())
    truth = mean.value(POSITIVE)[:, None, None] * shares.reshape(2, 3) / POSITIVE
    np.testing.assert_allclose(mean.gradient(POSITIVE), truth, rtol=1e-12)
    tensor = torch.tensor(POSITIVE, requires_grad=True)
    mean.value(tensor).sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), truth, rtol=1e-12)
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.asarray(mean.gradient(jnp.asarray(POSITIVE))), truth, rtol=1e-12)
    # At 0 the weights support the graph: the mean of the arithmetic kind is larger.
    origin = np.zeros((2, 3))
    np.testing.assert_allclose(mean.gradient(origin), shares.reshape(2, 3), rtol=1e-12)
    others = np.random.default_rng(2).exponential(size=(200, 2, 3))
    assert (mean.value(others) <= (others * mean.gradient(origin)).sum(axis=(1, 2)) + 1e-12).all()
    # Where some entries are 0 no gradient exists; a large one is given, and automatic differentiation has no NaN.
    partial = np.where(np.arange(6).reshape(2, 3) < 2, 0.0, 1.0)
    assert np.isfinite(mean.gradient(partial)).all()
    edge = torch.tensor(partial, requires_grad=True)
    mean.value(edge).backward()
    assert torch.isfinite(edge.grad).all()
    assert not np.isnan(mean.gradient(np.full((2, 3), math.inf))).any()


def test_gradients_of_geometric_means_along_an_axis() -> None:
    x = ex.Variable((2, 3))
    total = ex.inner([1.0, -2.0], geo_mean(x, [1.0, 0.0, 4.0], axis=1))
    step, direction = 1e-6, np.random.default_rng(1).normal(size=(7, 2, 3))
    slope = (total.value(POSITIVE + step * direction) - total.value(POSITIVE - step * direction)) / (2 * step)
    np.testing.assert_allclose((total.gradient(POSITIVE) * direction).sum(axis=(1, 2)), slope, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 1.5], [1.0, 30.0, 1.0]])
@pytest.mark.parametrize(("lower", "upper"), [(0.5, 2.0), (1.0, 1.1), (0.01, 5.0), (2.0, 2.0), (1e-3, 1e3)])
def test_lipschitz_constants_of_geometric_means_are_sound_and_tight(
    weights: list[float] | None, lower: float, upper: float
) -> None:
    mean = geo_mean(ex.Variable(3), weights).over(lower, upper)
    corners = np.array(np.meshgrid(*[[lower, upper]] * 3)).reshape(3, -1).T
    inside = np.random.default_rng(0).uniform(lower, upper, size=(2000, 3))
    lengths = np.linalg.norm(mean.gradient(np.concatenate([corners, inside])), axis=1)
    # The gradient is longest at a corner.
    assert lengths[: len(corners)].max() >= lengths.max() * (1.0 - 1e-12)
    assert lengths.max() * (1.0 - 1e-12) <= mean.lipschitz <= lengths.max() * 1.5
    assert mean.range == ex.Interval(lower, upper)
    a, b = inside[:1000], inside[1000:]
    moved = np.abs(mean.value(a) - mean.value(b))
    assert (moved <= mean.lipschitz * np.linalg.norm(a - b, axis=1) * (1.0 + 1e-12)).all()


def test_boxes_of_geometric_means_that_reach_the_edge() -> None:
    mean = geo_mean(ex.Variable(3))
    assert mean.over(0.0, 1.0).lipschitz == math.inf
    assert mean.over(1.0, math.inf).lipschitz == math.inf
    assert mean.over(-1.0, 4.0).range == ex.Interval(0.0, 4.0)
    assert mean.over(-2.0, -1.0).range == ex.Interval()
    assert mean.over(1e-300, 1e300).lipschitz == math.inf
    assert mean.lipschitz == math.inf and mean.sign is ex.Sign.NONNEGATIVE


def test_geometric_means_are_concave_and_increasing() -> None:
    assert geo_mean(ex.Variable(3)).curvature is ex.Curvature.CONCAVE
    mean = geo_mean(ex.Variable(3), [1.0, 3.0, 2.0])
    generator = np.random.default_rng(3)
    a, b = generator.exponential(size=(2, 500, 3))
    t = generator.uniform(size=(500, 1))
    between = mean.value(t * a + (1.0 - t) * b)
    assert (between >= t[:, 0] * mean.value(a) + (1.0 - t[:, 0]) * mean.value(b) - 1e-12).all()
    assert (mean.value(a + np.abs(b)) >= mean.value(a)).all()
    np.testing.assert_allclose(mean.value(7.0 * a), 7.0 * mean.value(a), rtol=1e-12)


def test_geometric_means_print_their_options() -> None:
    x = ex.Variable((2, 3))
    assert str(geo_mean(x)) == "geo_mean(x)"
    assert str(geo_mean(x, WEIGHTS)) == "geo_mean(x, [6 constant])"
    assert str(geo_mean(x, [1.0, 2.0], axis=0)) == "geo_mean(x, [2 constant], axis=0)"


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "too few": ([1.0, 2.0], ShapeError, r"6 entries.*2 weights"),
    "negative": ([1.0, -2.0, 1.0, 1.0, 1.0, 1.0], ParameterError, "one is -2"),
    "all zero": (np.zeros(6), ParameterError, "all are 0"),
    "NaN": ([math.nan] * 6, NonFiniteError, r"geo_mean\(x\)"),
    "strings": ("ab", ParameterError, r"geo_mean\(x\)"),
    "a parameter": (ex.Parameter(6, name="shares"), ParameterError, r"(?s)shares.*value"),
    "a variable": (ex.Variable(6, name="y"), ParameterError, r"geo_mean\(x, y\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_that_are_refused(name: str) -> None:
    weights, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        geo_mean(ex.Variable((2, 3)), weights)


def test_geometric_means_have_no_conjugate() -> None:
    mean = geo_mean(ex.Variable(3))
    assert isinstance(mean, GeoMean)
    with pytest.raises(ParameterError, match="conjugate"):
        mean.conjugate(np.zeros((1, 3)))


def test_large_geometric_means_cost_a_few_passes() -> None:
    size = 10**6
    mean = geo_mean(ex.Variable(size))
    assert mean.value(np.full(size, 3.0)) == pytest.approx(3.0, rel=1e-10)
    assert mean.over(1.0, 2.0).lipschitz <= 2.0 / math.sqrt(size)


def test_an_empty_domain_leaves_a_convex_power_nonnegative() -> None:
    """It is ∞ everywhere, and its norm is convex, as cvxpy has it."""
    nowhere = power(-power(ex.exp(ex.Variable((2, 3))), 3), -2)
    assert nowhere.sign is ex.Sign.NONNEGATIVE
    assert ex.norm2(nowhere).is_convex()
