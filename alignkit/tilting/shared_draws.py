"""What is left unknown of q where all draws of the base law p share what they come from.

A mean over q ∝ p·exp(e) is one over p weighted by dq/dp, whatever way q was sampled, and p is known by `ess`
independent draws alone: `alignkit.base.BaseLaw.ess`. Moves of a learned denoiser forget a part of what draws share, so
that these errors are too large if anything.
"""

from __future__ import annotations

import math

import numpy as np

from alignkit.contracts import Floats

__all__ = ["shared_errors"]


def shared_errors(
    ess: float, exponents: Floats, weights: Floats, values: Floats, *, log_partition: float
) -> tuple[float, float, Floats]:
    """Standard errors of log Z, of KL(q‖p) and of means under q, of a p known by so many draws.

    By the delta method: a draw of p moves E_q[a] by dq/dp·(a − E_q[a]), log Z by dq/dp − 1, and KL = E_q[e] − log Z by
    the difference of the two. Draws of q tell the variances of these under p.

    Arguments:
        ess: how many independent draws all draws of p are worth; the errors are 0 where it is infinite.
        exponents: e at draws of q, (n,).
        weights: of them, (n,), summing to 1.
        values: each a at them, (n, m).
        log_partition: log Z = log E_p exp(e).

    Returns:
        the errors of log Z and of KL in nats, and those of the means, (m,).

    Example:
        >>> x = np.random.default_rng(0).normal(0.5, 1.0, 100_000)  # N(0, 1) tilted by ½: log Z = 1/8
        >>> found = shared_errors(100.0, x / 2, np.full(x.size, 1e-5), x[:, None], log_partition=1 / 8)
        >>> print(np.hstack(found).round(3))  # √(e^¼ − 1)/10 is the first
        [0.053 0.021 0.127]
    """
    if math.isinf(ess):
        return 0.0, 0.0, np.zeros(values.shape[1])
    log_ratios = exponents - log_partition
    gains = exponents - weights @ exponents
    # Ratios overflow long before their logarithms do.
    with np.errstate(divide="ignore", over="ignore"):
        of_log_z = 1.0 - np.exp(-log_ratios)
        influences = np.column_stack([of_log_z, gains - of_log_z, values - weights @ values])
        log_terms = (log_ratios + np.log(weights))[:, None] + 2 * np.log(np.abs(influences))
        errors = np.exp(np.logaddexp.reduce(log_terms, axis=0) / 2) / math.sqrt(ess)
    return float(errors[0]), float(errors[1]), errors[2:]
