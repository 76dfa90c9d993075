"""Estimates of sequential Monte Carlo from islands: groups of particles that resample apart.

The spread between islands is an honest standard error: it holds the randomness of weights, of shared ancestors and of
the moves at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats
from alignkit.estimates import Estimate

__all__ = ["Islands"]


@dataclass(frozen=True, eq=False)
class Islands:
    """What I independent runs of one sequential Monte Carlo estimated.

    Arguments:
        log_partitions: (I,), log Ẑ of each.

    Example:
        >>> found = Islands(np.log([0.9, 1.1, 1.0]))
        >>> print(found.log_partition)
        0 ± 0.058
        >>> found.weights.round(3).tolist()
        [0.3, 0.367, 0.333]
    """

    log_partitions: Floats

    @property
    def count(self) -> int:
        """I."""
        return self.log_partitions.size

    @property
    def weights(self) -> Floats:
        """The share of the target that each island stands for, Ẑ_i/ΣẐ, (I,)."""
        return np.asarray(np.exp(self.log_partitions - np.logaddexp.reduce(self.log_partitions)))

    @property
    def log_partition(self) -> Estimate:
        """log of the mean Ẑ, which is unbiased for Z; its standard error by the delta method."""
        value = float(np.logaddexp.reduce(self.log_partitions)) - math.log(self.count)
        # A hair of rounding would print as −0.
        return Estimate(value if abs(value) > 1e-15 else 0.0, self._error(self.weights - 1 / self.count))

    def mean(self, means: Floats) -> Estimate:
        """The mean under the target of what has these means on the islands, (I,), as a ratio estimate."""
        value = float(self.weights @ means)
        return Estimate(value, self._error(self.weights * (means - value)))

    def divergence(self, means: Floats) -> Estimate:
        """KL(q‖p) = E_q[e] − log Z, from the means of the exponent e on the islands, (I,).

        Both terms move together from island to island, and the standard error takes that in.
        """
        value = float(self.weights @ means)
        influences = self.weights * (means - value) - (self.weights - 1 / self.count)
        return Estimate(value - self.log_partition.value, self._error(influences))

    def _error(self, influences: Floats) -> float:
        return math.sqrt(float(influences @ influences) * self.count / (self.count - 1))
