"""Limited-memory BFGS on all rows of a batch at once, in one compiled loop.

An iteration evaluates every row once: a row whose step gains enough goes on from where it leads, another one shortens
its step. Source: D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
Programming 45, 1989; the two loops are algorithm 7.4 of J. Nocedal, S. Wright, "Numerical Optimization", 2006.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Descent", "minimise"]

#: From rows y, (n, m), to losses (n,) and gradients (n, m).
Loss = Callable[[Any], tuple[Any, Any]]

_MEMORY = 10
#: Sufficient decrease, relative to what the slope promises.
_DECREASE = 1e-4
#: Between these shares of itself a step is shortened.
_SHORTEST, _LONGEST = 0.1, 0.5
#: A step below this, relative to the quasi-Newton one, gains nothing that float64 could show.
_SMALLEST_STEP = 1e-14
#: So many evaluations in a row without a gain beyond rounding, as at a kink, and a row is done.
_PATIENCE = 40
#: Steps grow by this much where the loss bends down.
_GROWTH = 4.0
_ROUNDING = 8 * 2.0**-52


class Descent(NamedTuple):
    """Where the rows of a batch are.

    Arguments:
        place: y, (n, m).
        loss: (n,).
        slope: its gradient, (n, m).
        still: rows that are done: the gradient is as small as was asked for, or steps gain nothing beyond rounding.
        lost: rows that ran beyond the limit, or whose loss fell to −∞.
        iterations: how many were made.
    """

    place: Any
    loss: Any
    slope: Any
    still: Any
    lost: Any
    iterations: Any


class _State(NamedTuple):
    descent: Descent
    direction: Any
    step: Any
    growth: Any
    idle: Any
    moves: Any
    bends: Any
    scales: Any


def minimise(loss: Loss, start: Any, accuracy: Any, limit: Any, *, iterations: Any) -> Descent:
    """Descend from every row of a start.

    Arguments:
        loss: the function of rows y, to be traced once.
        start: (n, m).
        accuracy: (n,), a row is done once half its squared gradient is below this times max(1, |loss|).
        limit: (n,), a row is lost once its norm exceeds this.
        iterations: at most as many.
    """
    value, slope = loss(start)
    count, size = start.shape
    never = jnp.zeros(count, dtype=bool)
    memory = jnp.zeros((_MEMORY, count, size), dtype=start.dtype)
    ones = jnp.ones(count, dtype=start.dtype)
    first = Descent(start, value, slope, _is_flat(value, slope, accuracy), never, jnp.asarray(0))
    scales = jnp.zeros((_MEMORY, count), dtype=start.dtype)
    state = _State(first, -slope, ones, ones, jnp.zeros(count, dtype=int), memory, memory, scales)

    def goes_on(state: _State) -> Any:
        now = state.descent
        return (now.iterations < iterations) & ~jnp.all(now.still | now.lost)

    def iterate(state: _State) -> _State:
        now = state.descent
        trial = now.place + state.step[:, None] * state.direction
        value, slope = loss(trial)
        promised = state.step * jnp.sum(now.slope * state.direction, axis=1)
        slack = _ROUNDING * jnp.abs(now.loss)
        gains = value <= now.loss + _DECREASE * promised + slack
        gains &= jnp.all(jnp.isfinite(slope), axis=1) | (value == -jnp.inf)
        waits = now.still | now.lost
        taken = gains & ~waits

        move, bend = trial - now.place, slope - now.slope
        along = jnp.sum(move * bend, axis=1)
        bends_up = along > _ROUNDING * jnp.linalg.norm(move, axis=1) * jnp.linalg.norm(bend, axis=1)
        kept = taken & bends_up
        moves, bends, scales = (
            jnp.where(_beside(kept, old), jnp.concatenate([old[1:], new[None]]), old)
            for old, new in (
                (state.moves, move),
                (state.bends, bend),
                (state.scales, 1.0 / jnp.where(bends_up, along, 1.0)),
            )
        )
        place = jnp.where(taken[:, None], trial, now.place)
        slope = jnp.where(taken[:, None], slope, now.slope)
        found = jnp.where(taken, value, now.loss)

        shorter = _shortened(state.step, promised, value - now.loss)
        growth = jnp.where(taken, jnp.where(bends_up, 1.0, _GROWTH * state.growth), state.growth)
        step = jnp.where(taken, growth, jnp.where(waits, state.step, shorter))
        direction = jnp.where(taken[:, None], -_times_inverse(slope, moves, bends, scales), state.direction)
        downhill = jnp.sum(direction * slope, axis=1) < 0.0
        direction = jnp.where(downhill[:, None], direction, -slope)

        lost = now.lost | (jnp.linalg.norm(place, axis=1) > limit) | (found == -jnp.inf)
        idle = jnp.where(found < now.loss - slack, 0, state.idle + 1)
        still = now.still | _is_flat(found, slope, accuracy) | (step < _SMALLEST_STEP) | (idle > _PATIENCE)
        after = Descent(place, found, slope, still & ~lost, lost, now.iterations + 1)
        return _State(after, direction, step, growth, idle, moves, bends, scales)

    return jax.lax.while_loop(goes_on, iterate, state).descent


def _is_flat(value: Any, slope: Any, accuracy: Any) -> Any:
    return 0.5 * jnp.sum(slope * slope, axis=1) <= accuracy * jnp.maximum(1.0, jnp.abs(value))


def _shortened(step: Any, promised: Any, change: Any) -> Any:
    """The least point of the parabola through both losses and the slope, kept between shares of the step."""
    curved = change - promised
    share = -0.5 * promised / jnp.where(curved > 0.0, curved, 1.0)
    share = jnp.where(jnp.isfinite(change) & (curved > 0.0), share, _SHORTEST)
    return step * jnp.clip(share, _SHORTEST, _LONGEST)


def _times_inverse(slope: Any, moves: Any, bends: Any, scales: Any) -> Any:
    """The inverse of the quasi-Newton matrix times the gradient of every row; pairs of scale 0 count for nothing."""

    def backwards(vector: Any, pair: tuple[Any, Any, Any]) -> tuple[Any, Any]:
        move, bend, scale = pair
        share = scale * jnp.sum(move * vector, axis=1)
        return vector - share[:, None] * bend, share

    def forwards(vector: Any, pair: tuple[Any, Any, Any, Any]) -> tuple[Any, None]:
        move, bend, scale, share = pair
        back = scale * jnp.sum(bend * vector, axis=1)
        return vector + (share - back)[:, None] * move, None

    vector, shares = jax.lax.scan(backwards, slope, (moves, bends, scales), reverse=True)
    squared = jnp.sum(bends[-1] * bends[-1], axis=1)
    length = jnp.where(scales[-1] > 0.0, 1.0 / (scales[-1] * jnp.where(squared > 0.0, squared, 1.0)), 1.0)
    return jax.lax.scan(forwards, length[:, None] * vector, (moves, bends, scales, shares))[0]


def _beside(flags: Any, array: Any) -> Any:
    return jnp.reshape(flags, (1, -1) + (1,) * (array.ndim - 2))
