"""Functions of the user's own, with a declared Lipschitz constant."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit.expressions as ex
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.atoms import lipschitz as module
from alignkit.expressions.atoms.lipschitz import UserFunction
from tests.expressions.functions_of_arrays import (
    check_claims,
    check_gradients,
    check_libraries,
    check_values,
)

SHAPE = (2, 3)
X = np.random.default_rng(0).normal(size=(12, *SHAPE)) * 2.0


def roughness(values: Any) -> Any:
    """max |difference| along rows, √2-Lipschitz in each library."""
    steps = abs(values[:, 1:] - values[:, :-1])
    return steps.amax(1) if isinstance(steps, torch.Tensor) else steps.max(axis=1)


def smooth(values: Any) -> Any:
    return module.sum_of_sines(values)


def smooth_slopes(values: Any) -> Any:
    return module.cosines(values)


def test_a_users_function_takes_part_in_expressions() -> None:
    x = ex.Variable(SHAPE)
    expression = ex.lipschitz(smooth, math.sqrt(6.0), x, gradient=smooth_slopes, range=(-6.0, 6.0))
    assert isinstance(expression, UserFunction)
    check_values(expression, lambda p: np.sin(p).sum(), X)
    check_libraries(expression, X)
    check_gradients(expression, X)
    check_claims(expression, -2.0, 2.0, tight_range=False)
    assert expression.range == ex.Interval(-6.0, 6.0) and expression.lipschitz == math.sqrt(6.0)
    reward = 2.0 * expression - ex.norm1(x)
    assert str(reward) == "2 * smooth(x) - norm1(x)" and reward.curvature is ex.Curvature.UNKNOWN
    check_gradients(reward, X)
    assert ex.lipschitz(smooth, 1.0, 3.0 * x[0]).lipschitz == pytest.approx(3.0)
    assert ex.lipschitz(smooth, 0.0, ex.square(x)).lipschitz == 0.0
    assert "smooth is neither convex nor concave" in expression.curvature_rule


def test_a_users_function_is_differentiated_by_torch_and_jax_alone() -> None:
    x = ex.Variable(4)
    expression = ex.lipschitz(roughness, math.sqrt(2.0), x)
    point = np.array([0.0, 3.0, 1.0, 1.0])
    with pytest.raises(ParameterError, match="roughness") as caught:
        expression.gradient(point)
    assert any("gradient=" in way for way in caught.value.ways_out) and any(
        "torch" in way for way in caught.value.ways_out
    )
    tensor = torch.tensor(point, requires_grad=True)
    expression.value(tensor).backward()
    assert tensor.grad.tolist() == [-1.0, 1.0, 0.0, 0.0]
    with jax.enable_x64(True):
        assert jax.jit(jax.grad(expression.value))(jnp.asarray(point)).tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert torch.func.vmap(expression.value)(torch.tensor(np.stack([point] * 2))).tolist() == [
        3.0,
        3.0,
    ]


def test_wrong_shapes_of_a_users_function_are_named() -> None:
    x = ex.Variable(SHAPE, name="pixels")
    cases: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
        (lambda v: v.sum(), ShapeError, r"shape \(\).*\(5, 2, 3\).*\(5,\)"),
        (lambda v: v.sum(axis=1), ShapeError, r"shape \(5, 3\)"),
        (lambda v: v.reshape(len(v), -1).sum(axis=1, keepdims=True), ShapeError, r"\(5, 1\)"),
        (lambda v: [0.0] * len(v), ParameterError, "list"),
        (lambda v: torch.zeros(len(v)), ParameterError, "Tensor"),
    ]
    for fn, error, word in cases:
        with pytest.raises(error, match=word) as caught:
            ex.lipschitz(fn, 1.0, x).value(np.zeros((5, *SHAPE)))
        assert "pixels" in str(caught.value)
    with pytest.raises(ShapeError, match="gradient of smooth"):
        ex.lipschitz(smooth, 1.0, x, gradient=lambda v: v[:, 0]).gradient(np.zeros(SHAPE))


def test_a_nan_of_a_users_function_names_its_first_row() -> None:
    x = ex.Variable(3, name="pixels")

    def broken(values: Any) -> Any:
        return (values[:, 0] - 1.0) ** 0.5

    expression = ex.lipschitz(broken, 1.0, x)
    rows = np.array([[2.0, 0.0, 0.0], [0.25, 7.0, -1.0], [0.0, 0.0, 0.0]])
    for batch in (rows, torch.tensor(rows)):
        with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError) as caught:
            expression.value(batch)
        assert "broken returned nan in row 1" in str(caught.value) and "0.25" in str(caught.value)
        assert "broken(pixels)" in str(caught.value)
    big = ex.lipschitz(lambda v: v[:, 0] * np.inf, 1.0, ex.Variable(5000))
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteError) as caught:
        big.value(np.ones((1, 5000)))
    assert len(str(caught.value)) < 500
    # Under a trace there are no values to look at.
    traced = jax.jit(expression.value)(jnp.asarray(rows))
    assert bool(jnp.isnan(traced[1]))
    # An input outside the domain of the argument is not the function's fault.
    outside = ex.lipschitz(lambda v: v.sum(axis=1), 1.0, ex.log(x))
    assert outside.value([-1.0, 1.0, 1.0]) == -np.inf


def test_dtypes_of_a_users_function_follow_the_point() -> None:
    counting = ex.lipschitz(lambda v: (v > 0).sum(axis=1), 1.0, ex.Variable(3))
    assert counting.value(np.ones((2, 3))).dtype == np.float64
    wide = ex.lipschitz(lambda v: v.astype(np.float64).sum(axis=1), 1.0, ex.Variable(3))
    assert wide.value(np.ones((2, 3), dtype=np.float32)).dtype == np.float32


def test_names_and_pickles_of_users_functions() -> None:
    x = ex.Variable(3)
    expression = ex.lipschitz(roughness, 2.0, x)
    assert str(expression) == "roughness(x)"
    assert str(ex.lipschitz(functools.partial(roughness), 2.0, x)) == "partial(x)"
    assert str(ex.lipschitz(torch.nn.Flatten(0), 2.0, x)) == "Flatten(x)"
    assert pickle.loads(pickle.dumps(expression)).value([0.0, 3.0, 1.0]) == 3.0
    assert ex.lipschitz(roughness, 2.0, [0.0, 3.0, 1.0]).value() == 3.0


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        ((3.0, 1.0), {}, "function first"),
        ((smooth, -1.0), {}, "not negative"),
        ((smooth, math.inf), {}, "finite constant"),
        ((smooth, math.nan), {}, "finite constant"),
        ((smooth, "1"), {}, "finite constant"),
        ((smooth, True), {}, "finite constant"),
        ((smooth, 1.0), {"range": (2.0, 1.0)}, "range"),
        ((smooth, 1.0), {"range": 2.0}, "range"),
        ((smooth, 1.0), {"range": (0.0, 1.0, 2.0)}, "range"),
        ((smooth, 1.0), {"gradient": 3.0}, "gradient"),
    ],
)
def test_what_is_no_function_with_a_constant_is_refused(arguments: Any, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ParameterError, match=word) as caught:
        ex.lipschitz(*arguments, ex.Variable(3, name="pixels"), **options)
    assert "pixels" in str(caught.value)


def test_arguments_of_lipschitz_in_another_order_are_refused() -> None:
    with pytest.raises(ParameterError, match="function first, not pixels"):
        ex.lipschitz(ex.Variable(3, name="pixels"), 1.0, smooth)  # type: ignore[arg-type]
