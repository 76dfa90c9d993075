"""Numbers with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, usable as a float.

    Arguments:
        value: the estimate.
        standard_error: its standard error, in the same units; 0 for a closed form.

    Example:
        >>> reward = Estimate(2.5, 0.1)
        >>> float(reward) + 1
        3.5
        >>> print(reward)
        2.5 ± 0.1
    """

    value: float
    standard_error: float = 0.0

    @staticmethod
    def of_mean(values: NDArray[np.floating]) -> Estimate:
        """The mean of independent values (n,), with its standard error; infinite for one value or infinities."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():
            with np.errstate(invalid="ignore"):
                return Estimate(float(values.mean()), math.inf)
        error = float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.inf
        return Estimate(float(values.mean()), error)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.standard_error == 0:
            return f"{self.value:.6g}"
        return f"{self.value:.4g} ± {self.standard_error:.2g}"
