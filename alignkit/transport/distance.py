"""How far apart two samples are, public as `ak.wasserstein_distance`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alignkit import registry
from alignkit.contracts import Floats
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.expressions.arrays import to_numpy

__all__ = ["wasserstein_distance"]


def wasserstein_distance(x: Any, y: Any, *, epsilon: float | None = None) -> float:
    """The 2-Wasserstein distance between two samples, as of draws of the base and of the aligned law.

    It is the root of the Sinkhorn divergence of ‖x − y‖², which is W₂² for small ε, is 0 exactly for equal samples, and
    smooths a little. Two samples of n rows of the same law lie about n^(−1/d) apart, so compare like with like.

    Arguments:
        x: (n, *shape), numpy, torch or jax.
        y: (m, *shape).
        epsilon: ε > 0, in units of x²; if None a hundredth of the mean squared distance between the samples, at which
            the result is about a percent too small.

    Returns:
        √S_ε, in units of x.

    Raises:
        ShapeError: the rows differ in shape, or there are none.
        ParameterError: ε is not positive.
        NonFiniteError: a sample holds a NaN or an infinity, or the iterations do not converge.
        BackendUnavailableError: no backend that computes it is installed, such as OTT.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).standard_normal((50, 2))
        >>> round(wasserstein_distance(rows, rows + np.array([3.0, 4.0])), 3)
        5.0

    Source: A. Genevay, G. Peyré, M. Cuturi, "Learning generative models with Sinkhorn divergences", 2018.
    """
    first, second = _rows(x, "x"), _rows(y, "y")
    if first.shape[1] != second.shape[1]:
        raise ShapeError(
            f"Two samples are compared row by row, but x has shape {tuple(x.shape)} and y {tuple(y.shape)}.",
            ways_out=["Pass both as (rows, *shape) of one shape."],
        )
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise ParameterError(
            f"epsilon is a positive number in units of x², not {epsilon!r}.", ways_out=["epsilon=None chooses one."]
        )
    return float(
        registry.offered("sample_distance")(first, second, epsilon=None if epsilon is None else float(epsilon))
    )


def _rows(sample: Any, name: str) -> Floats:
    found = np.asarray(to_numpy(sample), dtype=np.float64)
    if found.ndim < 1 or found.shape[0] == 0 or found.size == 0:
        raise ShapeError(
            f"{name} is a sample of rows, (rows, *shape), and has shape {found.shape}.", ways_out=["At least one row."]
        )
    found = found.reshape(len(found), -1)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise NonFiniteError(f"Row {int(bad[0])} of {name} holds a NaN or an infinity.", ways_out=["Drop such rows."])
    return found
