"""Parameters: constant in the variable, changeable in value, and with a curvature that no value changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy import sparse

import alignkit.expressions as ex
from alignkit.errors import NonFiniteError, ParameterError, ShapeError

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(5, 2, 3))

#: name: (expression of x, vector parameter (3,) and matrix parameter (4, 6), both of declared sign or not)
EXPRESSIONS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "offset": lambda f, x, t, m: m @ f.vec(x) - t[0],
    "entrywise weight": lambda f, x, t, m: t * f.abs(x),
    "weight on the right": lambda f, x, t, m: f.square(x) * t,
    "division": lambda f, x, t, m: f.abs(x) / t,
    "matrix": lambda f, x, t, m: f.norm1(m @ f.vec(x)),
    "matrix of convex": lambda f, x, t, m: m @ f.vec(f.abs(x)),
    "vector on the right": lambda f, x, t, m: f.abs(x) @ t,
    "inner": lambda f, x, t, m: f.inner(t, f.square(x[0])),
    "expression of parameters": lambda f, x, t, m: (2.0 * t + f.square(t)) * f.abs(x),
    "target": lambda f, x, t, m: f.norm2(x[0] - t) + f.sum(t),
    "scalar times matrix": lambda f, x, t, m: f.sum(t[0] * (m @ f.vec(x))),
}
SIGNS = {"free": {}, "nonneg": {"nonneg": True}, "nonpos": {"nonpos": True}}


def values(sign: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    found = generator.normal(size=3) + 0.1, generator.normal(size=(4, 6))
    if sign == "free":
        return found
    return tuple(np.abs(value) * (1 if sign == "nonneg" else -1) for value in found)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_parameter_acts_like_a_constant_of_its_present_value(name: str, sign: str) -> None:
    build = EXPRESSIONS[name]
    x = ex.Variable((2, 3))
    t, m = (ex.Parameter(shape, **SIGNS[sign]) for shape in ((3,), (4, 6)))
    expression = build(ex, x, t, m)
    for seed in range(3):
        t.value, m.value = values(sign, seed)
        frozen = build(ex, x, *values(sign, seed))
        np.testing.assert_allclose(expression.value(X), frozen.value(X), rtol=1e-12, atol=1e-14)
        tensor = expression.value(torch.tensor(X))
        np.testing.assert_allclose(tensor.numpy(), frozen.value(X), rtol=1e-12, atol=1e-14)
        assert expression.lipschitz == pytest.approx(frozen.lipschitz, rel=1e-12)
        bounds, sharp = expression.range, frozen.range
        assert bounds.lower <= sharp.lower and bounds.upper >= sharp.upper


class Cvxpy:
    """cvxpy under the names used above."""

    abs, square, sum, norm1, norm2 = cp.abs, cp.square, cp.sum, cp.norm1, cp.norm2
    vec = staticmethod(lambda x: cp.vec(x, order="C"))
    inner = staticmethod(lambda h, x: cp.sum(cp.multiply(h, x)))


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(
    "name", ["matrix", "matrix of convex", "vector on the right", "inner", "target", "scalar times matrix"]
)
def test_curvature_is_cvxpys_for_parameters_of_the_same_sign(name: str, sign: str) -> None:
    ours, theirs = (
        EXPRESSIONS[name](
            namespace, make.Variable((2, 3)), *(make.Parameter(shape, **SIGNS[sign]) for shape in ((3,), (4, 6)))
        )
        for namespace, make in ((ex, ex), (Cvxpy, cp))
    )
    assert ours.is_convex() == theirs.is_convex()
    assert ours.is_concave() == theirs.is_concave()


def test_values_are_checked() -> None:
    t = ex.Parameter(3, nonneg=True, name="target")
    with pytest.raises(ShapeError, match=r"target has shape \(3,\).*\(2,\)"):
        t.value = np.zeros(2)
    with pytest.raises(ParameterError, match=r"declared nonneg.*-1"):
        t.value = [-1.0, 0.0, 1.0]
    with pytest.raises(NonFiniteError, match="target"):
        t.value = [np.nan, 0.0, 1.0]
    with pytest.raises(ParameterError, match="both"):
        ex.Parameter(3, nonneg=True, nonpos=True)
    with pytest.raises(ParameterError, match=r"target has no value yet.\n(.|\n)*target.value = "):
        (ex.Variable(3) - t).value(np.zeros(3))
    assert (t * ex.Variable(3)).lipschitz == np.inf
    t.value = sparse.csr_array(np.eye(3))[[0]].toarray()[0]
    np.testing.assert_array_equal(t.value(), [1.0, 0.0, 0.0])


READINGS: dict[str, Callable[[Any], Any]] = {
    "array": lambda p: np.asarray(p.value),
    "array of a dtype": lambda p: np.asarray(p.value, dtype=np.float32),
    "number": lambda p: float(p.value[0]),
    "sum": lambda p: p.value + 1.0,
    "product on the right": lambda p: np.ones(3) @ p.value,
    "function": lambda p: np.linalg.norm(p.value),
    "method": lambda p: p.value.max(),
    "shape": lambda p: p.value.shape,
    "entries": lambda p: list(p.value),
    "comparison": lambda p: p.value > 0.0,
    "constant": lambda p: ex.norm1(ex.Variable(3) - p.value).value(np.zeros(3)),
}


@pytest.mark.parametrize("name", READINGS)
def test_a_value_is_read_as_an_array(name: str) -> None:
    read = READINGS[name]
    array = np.array([3.0, -4.0, 0.0])

    class Plain:
        value = array

    found = read(ex.Parameter(3, array))
    assert type(found) is type(read(Plain))
    np.testing.assert_array_equal(found, read(Plain))


@pytest.mark.parametrize("name", READINGS)
def test_a_value_that_is_read_before_it_is_there_is_asked_for_by_name(name: str) -> None:
    with pytest.raises(ParameterError, match=r"target has no value yet.\n(.|\n)*target.value = … of shape \(3,\)"):
        READINGS[name](ex.Parameter(3, name="target"))


def test_a_value_prints_as_an_array() -> None:
    assert repr(ex.Parameter(2, [1.0, 2.0]).value) == "array([1., 2.])"
    assert repr(ex.Parameter(2, name="target").value) == "no value of target yet"


def test_a_scalar_value_is_a_number() -> None:
    assert float(ex.Parameter(value=2.5).value) == 2.5
    with pytest.raises(ParameterError, match="price has no value yet"):
        float(ex.Parameter(name="price").value)


def test_an_array_that_was_read_cannot_change_the_parameter() -> None:
    t = ex.Parameter(3, np.ones(3))
    with pytest.raises(TypeError, match="item assignment"):
        t.value[0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(t.value)[0] = 2.0
    np.array(t.value)[:] = 7.0
    np.testing.assert_array_equal(t.value, np.ones(3))


def test_an_equal_value_is_no_new_version() -> None:
    t = ex.Parameter((), 2.0)
    before = t.version
    t.value = 2
    assert t.version == before
    t.value = 3.0
    assert t.version == before + 1


def test_a_later_change_of_the_users_array_changes_nothing() -> None:
    array = np.ones(3)
    t = ex.Parameter(3, array)
    array[:] = 7.0
    np.testing.assert_array_equal(t.value(), np.ones(3))


def test_division_by_a_parameter_that_becomes_zero_is_refused_when_evaluated() -> None:
    t = ex.Parameter(3, [1.0, 1.0, 1.0], nonneg=True, name="scale")
    quotient = ex.abs(ex.Variable(3)) / t
    assert quotient.is_convex()
    t.value = [1.0, 0.0, 1.0]
    with pytest.raises(ParameterError, match="scale has zero entries"):
        quotient.value(np.ones(3))


def test_parameters_are_found_and_print_by_name() -> None:
    t, m = ex.Parameter(4, name="t"), ex.Parameter((4, 6), name="B")
    expression = ex.norm1(m @ ex.vec(ex.Variable((2, 3))) - t) + ex.sum(t)
    assert expression.parameters() == (m, t)
    assert str(expression) == "norm1(B @ vec(x) - t) + sum(t)"
    assert not ex.sum(t).depends and ex.sum(t).is_constant()


def test_atoms_that_need_fixed_numbers_refuse_parameters() -> None:
    x = ex.Variable(2)
    with pytest.raises(ParameterError, match="sum_squares"):
        ex.quad_form(x, ex.Parameter((2, 2), np.eye(2)))
    with pytest.raises(ParameterError, match="huber"):
        ex.huber(x, ex.Parameter((), 1.0))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_values_given_for_one_evaluation_take_the_place_of_a_parameters_own(name: str) -> None:
    t, m = ex.Parameter(3, np.ones(3), nonneg=True), ex.Parameter((4, 6), np.ones((4, 6)), nonneg=True)
    expression = EXPRESSIONS[name](ex, ex.Variable((2, 3)), t, m)
    values = GENERATOR.uniform(0.5, 2.0, 3), GENERATOR.uniform(0.5, 2.0, (4, 6))
    given = expression.value(X, parameters={t: values[0], m: values[1]})
    each = expression.value(X, parameters={t: np.tile(values[0], (5, 1)), m: np.tile(values[1], (5, 1, 1))})
    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    tensor = expression.value(torch.from_numpy(X), parameters=dict(zip((t, m), tensors, strict=True)))
    t.value, m.value = values
    np.testing.assert_allclose(given, expression.value(X), rtol=1e-12)
    np.testing.assert_allclose(each, given, rtol=1e-12)
    np.testing.assert_allclose(tensor.detach().numpy(), given, rtol=1e-12)
    slopes = torch.autograd.grad(tensor.sum(), tensors, allow_unused=True)
    for parameter, value, slope in zip((t, m), values, slopes, strict=True):
        step = 1e-6 * GENERATOR.normal(size=value.shape)
        ahead, behind = (
            float(np.sum(expression.value(X, parameters={parameter: value + sign * step}))) for sign in (1.0, -1.0)
        )
        along = 0.0 if slope is None else float((slope.numpy() * step).sum())
        assert abs(ahead - behind - 2.0 * along) <= 1e-8 * (1.0 + abs(along))


def test_a_value_given_for_one_evaluation_has_the_parameters_shape() -> None:
    t = ex.Parameter(3, np.ones(3), name="target")
    with pytest.raises(ShapeError, match="target has shape"):
        (ex.Variable(3) - t).value(np.ones((2, 3)), parameters={t: np.ones(2)})
