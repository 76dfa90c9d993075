"""What is compiled: rows of a problem solved from given starts, with everything that may change as arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions import Expression
from alignkit_ott.devices import float64_on
from alignkit_ott.evaluation import Evaluation, evaluation, present_values
from alignkit_ott.lbfgs import minimise
from alignkit_ott.penalties import proximal_of, value_and_gradient_of
from alignkit_ott.planning import Method
from alignkit_ott.proximal_gradient import minimise_composite

__all__ = ["Arguments", "Found", "compiled_solver", "evaluate_rows"]

#: The first step of proximal gradients, in units of 1/λ.
_FIRST_STEP = 100.0
#: How many functions stay compiled for the next session on the same f.
_KEPT = 64
#: The fewest rows that f alone is compiled for.
_FEWEST_ROWS = 32


class Arguments(NamedTuple):
    """What a compiled solver is called with, as arrays.

    Arguments:
        points: v, (n, k).
        start: δ where each row starts, (n, m).
        accuracy: (n,), relative to max(1, |loss|): see `lbfgs.minimise`.
        limit: (n,), how far δ may go before the row counts as lost.
        weight: λ.
        rows: R, (k, m); None for the identity.
        linear: g, (m,); None under half the squared distance.
        parameters: values of the parameters of f.
        iterations: at most as many.
    """

    points: Any
    start: Any
    accuracy: Any
    limit: Any
    weight: Any
    rows: Any
    linear: Any
    parameters: tuple[Any, ...]
    iterations: Any


class Found(NamedTuple):
    """What became of rows.

    Arguments:
        displacement: δ, (n, m).
        value: f(v + Rδ), (n,).
        slope: ∇f there, (n, k).
        still: (n,), rows that are done.
        lost: (n,), rows that ran away.
    """

    displacement: Any
    value: Any
    slope: Any
    still: Any
    lost: Any


@functools.lru_cache(maxsize=_KEPT)
def compiled_solver(nonlinear: Expression, method: Method, cost: Any) -> Callable[[Arguments], Found]:
    """The solver of one f under one cost; the same function for the same two, so that jax compiles it once.

    Arguments:
        nonlinear: f.
        method: the iteration.
        cost: h; None for half the squared distance.
    """
    evaluate = evaluation(nonlinear)
    solve = _by_proximal_gradients if method is Method.PROXIMAL_GRADIENT else _by_lbfgs

    def run(given: Arguments) -> Found:
        def reward(displacement: Any) -> tuple[Any, Any]:
            """f(v + Rδ) + ⟨g, δ⟩ and its gradient in δ."""
            value, slope = evaluate(_moved(given, displacement), given.parameters)
            slope = slope if given.rows is None else slope @ given.rows
            if given.linear is None:
                return value, slope
            return value + displacement @ given.linear, slope + given.linear

        displacement, still, lost = solve(reward, given, cost)
        value, slope = evaluate(_moved(given, displacement), given.parameters)
        return Found(displacement, value, slope, still, lost)

    return jax.jit(run)


def evaluate_rows(nonlinear: Expression, rows: Floats, device: Any) -> tuple[Floats, Floats]:
    """f and ∇f at rows (n, k) and the present values of its parameters; padded, so that few shapes are compiled."""
    count = len(rows)
    padded = np.zeros((max(_FEWEST_ROWS, 1 << max(count - 1, 0).bit_length()), rows.shape[1]))
    padded[:count] = rows
    padded[count:] = rows[:1]
    with float64_on(device):
        value, slope = _compiled_evaluation(nonlinear)(padded, present_values(nonlinear))
        return np.asarray(value)[:count], np.asarray(slope)[:count]


@functools.lru_cache(maxsize=_KEPT)
def _compiled_evaluation(nonlinear: Expression) -> Evaluation:
    compiled: Evaluation = jax.jit(evaluation(nonlinear))
    return compiled


def _moved(given: Arguments, displacement: Any) -> Any:
    return given.points + (displacement if given.rows is None else displacement @ given.rows.T)


def _by_lbfgs(reward: Any, given: Arguments, cost: Any) -> tuple[Any, Any, Any]:
    """In y = √λ·δ, in which the loss of the penalty bends by 1 and half its squared gradient is a gap."""
    scale = 1.0 / jnp.sqrt(given.weight)
    price = None if cost is None else value_and_gradient_of(cost)

    def loss(place: Any) -> tuple[Any, Any]:
        displacement = scale * place
        value, slope = reward(displacement)
        if price is None:
            return 0.5 * jnp.sum(place * place, axis=1) - value, place - scale * slope
        paid, marginal = price(displacement)
        return given.weight * paid - value, scale * (given.weight * marginal - slope)

    found = minimise(loss, given.start / scale, given.accuracy, given.limit / scale, iterations=given.iterations)
    return scale * found.place, found.still, found.lost


def _by_proximal_gradients(reward: Any, given: Arguments, cost: Any) -> tuple[Any, Any, Any]:
    proximal = proximal_of(cost)

    def smooth(displacement: Any) -> tuple[Any, Any]:
        value, slope = reward(displacement)
        return -value, -slope

    found, still = minimise_composite(
        smooth,
        lambda rows, step: proximal(rows, step * given.weight),
        given.start,
        _FIRST_STEP / given.weight,
        given.accuracy * given.weight,
        iterations=given.iterations,
    )
    return found, still, jnp.zeros(len(found), dtype=bool)
