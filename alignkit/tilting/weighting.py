"""Importance weights: effective sample size, the step that keeps it, and resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["effective_size", "largest_step", "systematic_resampling"]

Floats = NDArray[np.float64]

_BISECTIONS = 50


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
    wanted = share * scores.size
    if effective_size(at_most * scores) >= wanted:
        return at_most
    low, high = 0.0, at_most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if effective_size(middle * scores) >= wanted else (low, middle)
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
