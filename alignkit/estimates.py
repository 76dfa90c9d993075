"""Numbers with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "worth_of_base"]


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
    def of_mean(values: NDArray[np.floating], *, ess: float = math.inf) -> Estimate:
        """The mean of values at independent draws, with its standard error; infinite for one value or infinities.

        Arguments:
            values: (n,).
            ess: how many independent draws all draws of their law are worth; see `alignkit.base.BaseLaw.ess`.
        """
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():
            with np.errstate(invalid="ignore"):
                return Estimate(float(values.mean()), math.inf)
        error = float(values.std(ddof=1)) * math.sqrt(1 / values.size + 1 / ess) if values.size > 1 else math.inf
        return Estimate(float(values.mean()), error)

    def widened(self, error: float) -> Estimate:
        """The estimate with one more standard error, independent of its own and in the same units."""
        return Estimate(self.value, math.hypot(self.standard_error, error))

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.standard_error == 0:
            return f"{self.value:.6g}"
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


def worth_of_base(ess: float) -> dict[str, str]:
    """What a certificate says of a base law whose draws share what they come from; nothing of all others.

    Arguments:
        ess: of the law; see `alignkit.base.BaseLaw.ess`.

    Example:
        >>> worth_of_base(math.inf)
        {}
        >>> worth_of_base(812.3)["base law"]
        'all its draws together are worth 812 independent ones; standard errors take that in, if anything too large'
    """
    if math.isinf(ess):
        return {}
    worth = f"all its draws together are worth {ess:.0f} independent ones"
    return {"base law": f"{worth}; standard errors take that in, if anything too large"}
