"""exp, logistic, log, log1p and entr against closed forms, scipy and cvxpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import cvxpy as cp
import numpy as np
import pytest
from scipy import special

import alignkit.expressions as ex
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.expressions.atoms import elementwise, exponential, powers
from alignkit.expressions.atoms.exponential import entr, exp, log, log1p, logistic, wright_omega
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

FUNCTIONS = {
    "exp": Truth(exp, np.exp, np.exp),
    "logistic": Truth(logistic, lambda x: np.logaddexp(0.0, x), special.expit),
    "log": Truth(log, np.log, np.reciprocal, least=0.0, closed=False, outside=-math.inf),
    "log1p": Truth(log1p, np.log1p, lambda x: 1.0 / (1.0 + x), least=-1.0, closed=False, outside=-math.inf),
    "entr": Truth(entr, special.entr, lambda x: -1.0 - np.log(x), least=0.0, outside=-math.inf),
}
COMMON = (check_values, check_libraries, check_gradients, check_subgradients, check_extremes, check_boxes)


@pytest.mark.parametrize("check", COMMON)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_closed_forms(name: str, check: Callable[[Truth], None]) -> None:
    check(FUNCTIONS[name])


@pytest.mark.parametrize("name", ["exp", "logistic"])
def test_conjugates(name: str) -> None:
    check_conjugate(FUNCTIONS[name])


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "entr"])
def test_proximal_maps(name: str) -> None:
    check_prox(FUNCTIONS[name])


def test_what_has_no_closed_form_says_so() -> None:
    x = ex.Variable(2)
    for atom in (log(x), log1p(x), entr(x)):
        assert isinstance(atom, ex.Atom)
        with pytest.raises(ParameterError, match="conjugate"):
            atom.conjugate(np.zeros((1, 2)))
        with pytest.raises(ParameterError, match="conjugate"):
            atom.project_dual(np.zeros((1, 2)))
    smooth = logistic(x)
    assert isinstance(smooth, ex.Atom)
    with pytest.raises(ParameterError, match=r"(?s)logistic has no closed proximal map.*logistic\(x\)"):
        smooth.prox(np.zeros((1, 2)), 1.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda f, x: f.exp(x),
        lambda f, x: f.exp(f.square(x)),
        lambda f, x: f.exp(-f.sqrt(x)),
        lambda f, x: f.exp(f.sqrt(x)),
        lambda f, x: f.exp(f.log(x)),
        lambda f, x: -f.exp(f.abs(x)),
        lambda f, x: f.square(f.exp(x)),
        lambda f, x: f.square(-f.exp(x)),
        lambda f, x: f.abs(f.exp(x)),
        lambda f, x: f.logistic(x),
        lambda f, x: f.logistic(f.exp(x) - 1.0),
        lambda f, x: f.logistic(-f.log(x)),
        lambda f, x: f.logistic(f.log(x)),
        lambda f, x: f.logistic(-f.logistic(x)),
        lambda f, x: f.power(f.logistic(x), 3),
        lambda f, x: f.log(x),
        lambda f, x: f.log(f.sqrt(x)),
        lambda f, x: f.log(f.log(x)),
        lambda f, x: f.log(f.exp(x)),
        lambda f, x: f.log(1.0 + f.square(x)),
        lambda f, x: f.log(f.entr(x)),
        lambda f, x: -f.log(1.0 - f.exp(x)),
        lambda f, x: -f.log(f.minimum(x, 1.0)),
        lambda f, x: f.log1p(x),
        lambda f, x: f.log1p(f.sqrt(x)),
        lambda f, x: f.log1p(-f.square(x)),
        lambda f, x: f.log1p(f.square(x)),
        lambda f, x: f.log1p(f.exp(x)),
        lambda f, x: f.entr(x),
        lambda f, x: f.entr(f.abs(x)),
        lambda f, x: f.entr(f.sqrt(x)),
        lambda f, x: f.square(f.log(x)),
        lambda f, x: f.inv_pos(f.log(x)),
        lambda f, x: f.inv_pos(f.exp(x)),
        lambda f, x: f.neg(f.log(x)),
        lambda f, x: f.maximum(f.exp(x), f.logistic(-x)),
        lambda f, x: f.minimum(f.log(x), f.entr(x)),
        lambda f, x: f.sqrt(f.log1p(x)),
    ],
)
def test_verdicts_are_cvxpys(build: Callable[..., object]) -> None:
    check_verdict(build, elementwise.ENTRIES, exponential.ENTRIES, powers.ENTRIES)


def test_what_cvxpy_does_not_see() -> None:
    """Verdicts in our favour: cvxpy's entr has no monotonicity, and its logarithms no sign."""
    x = ex.Variable((2, 3))
    assert log(1.0 + ex.square(x)).sign is ex.Sign.NONNEGATIVE
    assert not cp.log(1.0 + cp.square(cp.Variable())).is_nonneg()
    assert entr(1.0 + ex.square(x)).is_concave()
    assert not cp.entr(1.0 + cp.square(cp.Variable())).is_concave()
    assert entr(ex.minimum(x, 0.3)).is_concave()
    assert entr(ex.minimum(ex.pos(x), 1.0)).sign is ex.Sign.NONNEGATIVE
    assert exp(ex.minimum(x, 0.0)).lipschitz <= math.sqrt(6.0)


def test_compositions_that_are_claimed_concave_are_so_beyond_their_domains() -> None:
    # entr falls beyond 1/e, and inv_pos is inf for x ≤ 0: the composition is −inf there, and concave on the line.
    expression = entr(1.0 + powers.inv_pos(ex.Variable()))
    assert expression.is_concave()
    points = np.linspace(-2.0, 3.0, 501)
    values = expression.value(points)
    assert (values[points <= 0.0] == -math.inf).all()
    inside = values[points > 0.0]
    assert np.diff(inside, 2).max() <= 1e-12


def test_constants_fold_inside_the_domain_and_are_refused_outside() -> None:
    np.testing.assert_allclose(np.asarray(log([1.0, math.e]).value()), [0.0, 1.0])
    assert isinstance(entr(0.0), ex.Constant) and float(entr(0.0).value()) == 0.0
    for build, text in ((log, "log"), (entr, "entr")):
        with pytest.raises(NonFiniteError, match=rf"{text}\(-1\)"):
            build(-1.0)
    with pytest.raises(NonFiniteError, match="exp"):
        exp(1000.0)
    with pytest.raises(ParameterError, match="logistic"):
        logistic("a")


def test_bounds_overflow_to_infinity() -> None:
    x = ex.Variable()
    assert exp(x).over(0.0, 1000.0).range == ex.Interval(1.0, math.inf)
    assert exp(x).over(800.0, 1000.0).range.lower == np.finfo(float).max
    assert exp(x).over(-math.inf, 1000.0).lipschitz == math.inf
    assert log(x).over(5e-324, 1.0).lipschitz == math.inf
    assert logistic(x).over(-2000.0, -1000.0).lipschitz == 0.0
    for build in (log, log1p, entr):
        empty = build(x).over(-5.0, -2.0)
        assert empty.range == ex.Interval() and not math.isnan(empty.lipschitz)


def test_domains_print_their_conditions() -> None:
    x = ex.Variable(3)
    assert [str(condition) for condition in log(x - 1.0).domain] == ["x - 1 > 0"]
    assert [str(condition) for condition in (log1p(x) + entr(2.0 * x)).domain] == ["x > -1", "2 * x ≥ 0"]
    assert exp(x).domain == logistic(x).domain == ()


def test_wright_omega_is_scipys() -> None:
    points = np.concatenate([np.linspace(-60.0, 60.0, 4001), 10.0 ** np.linspace(0, 100, 101), [-1e3, -1e100]])
    np.testing.assert_allclose(wright_omega(np, points), special.wrightomega(points), rtol=2e-14)


def test_slopes_that_are_infinite_at_the_edge_are_large_and_finite() -> None:
    x = ex.Variable(2)
    total = ex.sum(entr(np.array([[1.0, -1.0], [0.0, 1.0]]) @ x))
    assert np.isfinite(total.gradient([0.0, 0.0])).all()
    assert entr(ex.Variable()).gradient(np.array([0.0]))[0] > 700.0
