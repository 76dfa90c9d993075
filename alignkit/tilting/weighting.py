"""Importance weights: effective sample size, the step that keeps it, and resampling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["effective_size", "largest_share", "largest_step", "log_sums", "systematic_resampling"]

Floats = NDArray[np.float64]

_BISECTIONS = 100
# Exponents held at once: 128 MiB.
_ENTRIES = 1 << 24
# Steps are wanted to this relative precision.
_PRECISION = 1e-6


def effective_size(log_weights: Floats) -> float:
    """Kish's effective sample size (Σw)²/Σw² of unnormalised log-weights, (n,).

    Example:
        >>> round(effective_size(np.zeros(5)), 6)
        5.0
    """
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def largest_step(scores: Floats, share: float, at_most: float) -> float:
    """The largest step s ≤ at_most for which weights exp(s·scores) keep a share of the effective sample size.

    Arguments:
        scores: (n,), finite.
        share: between 0 and 1.
        at_most: the step to take when it keeps the share.
    """
    return largest_share(lambda step: step * scores, share, at_most)


def largest_share(log_weights: Callable[[float], Floats], share: float, at_most: float) -> float:
    """The largest step for which log-weights that grow along a path keep a share of the effective sample size.

    Arguments:
        log_weights: a step to unnormalised log-weights (n,); all alike at step 0.
        share: between 0 and 1.
        at_most: the step to take when it keeps the share.

    Example:
        >>> round(largest_share(lambda step: np.log([1 + step, 1 - step]), 0.8, at_most=0.9), 6)
        0.5
    """

    def keeps(step: float) -> bool:
        logs = log_weights(step)
        return effective_size(logs) >= share * logs.size

    if keeps(at_most):
        return at_most
    low, high = 0.0, at_most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
        if high - low <= _PRECISION * low:
            break
    return low


def systematic_resampling(log_weights: Floats, uniforms: Floats) -> NDArray[np.int64]:
    """Resample each island by itself, with one uniform number each (Kitagawa's systematic resampling).

    Arguments:
        log_weights: (islands, n), unnormalised.
        uniforms: (islands, 1), in (0, 1).

    Returns:
        (islands·n,), flat indices into log_weights.
    """
    islands, count = log_weights.shape
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1)
    cumulative /= cumulative[:, -1:]
    points = (np.arange(count) + uniforms) / count
    # One sorted search serves all islands once each occupies a unit interval of its own.
    offsets = np.arange(islands)[:, None]
    flat = np.searchsorted((cumulative + offsets).ravel(), (points + offsets).ravel(), side="left")
    chosen: NDArray[np.int64] = np.minimum(flat.reshape(islands, count), offsets * count + count - 1).ravel()
    return chosen


def log_sums(rows: Floats, log_weights: Floats, tilts: Floats) -> Floats:
    """log Σ_i exp(⟨θ_j, w_i⟩ + a_i) for each tilt, (m,).

    Arguments:
        rows: w, (n, k).
        log_weights: a, (n,).
        tilts: θ, (m, k).

    Example:
        >>> log_sums(np.array([[1.0], [-1.0]]), np.log([0.5, 0.5]), np.array([[0.0]])).tolist()
        [0.0]
    """
    parts = [np.empty(0)]
    step = max(1, _ENTRIES // max(1, rows.shape[0]))
    for start in range(0, tilts.shape[0], step):
        exponents = tilts[start : start + step] @ rows.T + log_weights
        largest = exponents.max(axis=1)
        parts.append(largest + np.log(np.exp(exponents - largest[:, None]).sum(axis=1)))
    return np.concatenate(parts)
