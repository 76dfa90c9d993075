"""Accelerated proximal gradients on all rows of a batch at once, in one compiled loop.

Source: A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM
Journal on Imaging Sciences 2, 2009; momentum is dropped where it points uphill: B. O'Donoghue, E. Candès, "Adaptive
restart for accelerated gradient schemes", Foundations of Computational Mathematics 15, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Proximal", "minimise_composite"]

#: From rows δ, (n, m), to the smooth part of the loss (n,) and its gradients (n, m).
SmoothPart = Callable[[Any], tuple[Any, Any]]
#: From rows and the step of each, (n, m) and (n, 1), to argmin step·h(δ) + ½‖δ − row‖², (n, m).
Proximal = Callable[[Any, Any], Any]

_SHORTER = 0.5
#: Below this, relative to the first, a step is as good as none.
_SMALLEST_STEP = 1e-18
_ROUNDING = 8 * 2.0**-52


class _State(NamedTuple):
    place: Any
    ahead: Any
    momentum: Any
    step: Any
    still: Any
    iterations: Any


def minimise_composite(
    smooth: SmoothPart, proximal: Proximal, start: Any, first_step: Any, accuracy: Any, *, iterations: Any
) -> tuple[Any, Any]:
    """Minimise a smooth convex function plus h from every row of a start.

    Arguments:
        smooth: the smooth part, to be traced twice.
        proximal: the proximal map of h.
        start: (n, m).
        first_step: a number; steps shrink until the smooth part stays below its parabola.
        accuracy: (n,), a row is done once half the square of the norm of a subgradient of the loss is below this times
            max(1, |smooth part|).
        iterations: at most as many.

    Returns:
        δ, (n, m), and which rows are done, (n,).
    """
    count = start.shape[0]
    ones = jnp.ones((count, 1), dtype=start.dtype)
    state = _State(start, start, ones, first_step * ones, jnp.zeros(count, dtype=bool), jnp.asarray(0))

    def goes_on(state: _State) -> Any:
        return (state.iterations < iterations) & ~jnp.all(state.still)

    def iterate(state: _State) -> _State:
        value, slope = smooth(state.ahead)
        trial = proximal(state.ahead - state.step * slope, state.step)
        reached, slope_there = smooth(trial)
        change = trial - state.ahead
        above = value + jnp.sum(slope * change, axis=1) + 0.5 * jnp.sum(change * change, axis=1) / state.step[:, 0]
        fits = reached <= above + _ROUNDING * (jnp.abs(value) + jnp.abs(reached))
        taken = (fits & ~state.still)[:, None]

        # The proximal map makes (ahead − trial)/step − slope a subgradient of h at the trial.
        left = slope_there - slope - change / state.step
        flat = 0.5 * jnp.sum(left * left, axis=1) <= accuracy * jnp.maximum(1.0, jnp.abs(reached))
        moved = trial - state.place
        uphill = jnp.sum((state.ahead - trial) * moved, axis=1, keepdims=True) > 0.0
        momentum = jnp.where(uphill, 1.0, state.momentum)
        following = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * momentum * momentum))
        ahead = trial + jnp.where(uphill, 0.0, (momentum - 1.0) / following) * moved
        step = jnp.where(fits[:, None], state.step, _SHORTER * state.step)
        return _State(
            jnp.where(taken, trial, state.place),
            jnp.where(taken, ahead, state.ahead),
            jnp.where(taken, following, state.momentum),
            step,
            state.still | (taken[:, 0] & flat) | (step[:, 0] < _SMALLEST_STEP * first_step),
            state.iterations + 1,
        )

    last = jax.lax.while_loop(goes_on, iterate, state)
    return last.place, last.still
