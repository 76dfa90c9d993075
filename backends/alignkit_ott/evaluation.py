"""The value and gradient of an expression at rows of jax arrays, its parameters being arguments of the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignkit.contracts import Floats
from alignkit.expressions import Expression
from alignkit_ott.devices import float64_on

__all__ = ["Evaluation", "evaluation", "obstacle", "present_values"]

#: From rows z, (n, k), and values of the parameters to f(z), (n,), and ∇f(z), (n, k).
Evaluation = Callable[[Any, tuple[Any, ...]], tuple[Any, Any]]


def present_values(nonlinear: Expression) -> tuple[Floats, ...]:
    """What the parameters of f are now, in the order that an `Evaluation` takes them."""
    return tuple(parameter.dense() for parameter in nonlinear.parameters())


def evaluation(nonlinear: Expression) -> Evaluation:
    """f and its gradient as one function that jax can trace; −∞ where f has no value.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).
    """
    parameters = nonlinear.parameters()

    def evaluate(points: Any, values: tuple[Any, ...]) -> tuple[Any, Any]:
        given = dict(zip(parameters, values, strict=True))

        def of_rows(rows: Any) -> Any:
            found = jnp.reshape(nonlinear.value(rows, parameters=given), (rows.shape[0],))
            return jnp.where(jnp.isnan(found), -jnp.inf, found)

        value, backwards = jax.vjp(of_rows, points)
        return value, backwards(jnp.ones_like(value))[0]

    return evaluate


def obstacle(nonlinear: Expression) -> str | None:
    """Why jax cannot trace f and its gradient; None where it can.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).
    """
    (variable,) = nonlinear.variables()
    try:
        with float64_on():
            jax.eval_shape(evaluation(nonlinear), jnp.zeros((2, *variable.shape)), present_values(nonlinear))
    # A function of the user's own may raise anything.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None
