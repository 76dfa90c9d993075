"""Estimates of sequential Monte Carlo from islands: groups of particles that resample apart.

The spread between islands is an honest standard error: it holds the randomness of weights, of shared ancestors and of
the moves at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import ParameterError
from alignkit.estimates import Estimate
from alignkit.noise import fold_seed, uniform
from alignkit.tilting.fitted import AnnealingStage
from alignkit.tilting.weighting import effective_size, systematic_resampling

__all__ = ["ISLANDS", "IslandResampling", "Islands", "by_island", "check_particles"]

Scalar = TypeVar("Scalar", bound=np.generic)

#: How many islands particles live on.
ISLANDS = 16


def by_island(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Values of particles, (N,), as (I, N/I): consecutive particles share an island."""
    return values.reshape(ISLANDS, -1)


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

    def times(self, log_factors: Floats) -> Islands:
        """Islands whose Ẑ are multiplied by factors of their own, given by their logarithms, (I,)."""
        return Islands(self.log_partitions + log_factors)

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


def check_particles(count: int) -> None:
    """Refuse a number of particles that does not fill the islands.

    Raises:
        ParameterError: it is no multiple of `ISLANDS`, or below two of it.
    """
    if not isinstance(count, int | np.integer) or count % ISLANDS or count < 2 * ISLANDS:
        raise ParameterError(f"particles must be a multiple of {ISLANDS}, two or more of it, not {count!r}.")


class IslandResampling:
    """Resampling of N particles island by island, with the account of what their weights told.

    Arguments:
        count: N, a multiple of `ISLANDS`, two or more of it.
        seed: fixes who survives.

    Attributes:
        islands: with log Ẑ so far.
        stages: what was passed so far.

    Raises:
        ParameterError: the particles do not fill the islands.

    Example:
        >>> resampling = IslandResampling(32, seed=0)
        >>> chosen = resampling(np.tile([0.0, -np.inf], 16), stage=1)
        >>> print(chosen[:4], resampling.islands.log_partition, resampling.survivors)
        [0 0 2 2] -0.693147 16
    """

    def __init__(self, count: int, seed: int) -> None:
        check_particles(count)
        self.islands = Islands(np.zeros(ISLANDS))
        self.stages: tuple[AnnealingStage, ...] = ()
        self._seed = fold_seed(seed, "resampling")
        self._ancestors = np.arange(count)

    def __call__(self, log_weights: Floats, *, stage: int, share: float = 1.0) -> NDArray[np.int64]:
        """Put the mean weight of every island on its account, and choose who survives.

        Arguments:
            log_weights: unnormalised, (N,).
            stage: numbers the noise.
            share: β that the weights lead to.

        Returns:
            (N,), indices of particles, each of the island that it goes to.
        """
        logs = by_island(log_weights)
        self.islands = self.islands.times(np.logaddexp.reduce(logs, axis=1) - math.log(logs.shape[1]))
        self.stages = (*self.stages, AnnealingStage(share, effective_size(log_weights), log_weights.size))
        chosen = systematic_resampling(logs, uniform(self._seed, ISLANDS, 1, stage=stage))
        self._ancestors = self._ancestors[chosen]
        return chosen

    def scale(self, log_factor: float) -> None:
        """Multiply Ẑ by a constant, of which no weights told."""
        self.islands = self.islands.times(np.full(ISLANDS, log_factor))

    @property
    def survivors(self) -> int:
        """How many of the first particles have descendants."""
        return int(np.unique(self._ancestors).size)

    @property
    def weights(self) -> Floats:
        """The share of the target that each particle stands for, (N,), summing to 1."""
        each = self._ancestors.size // ISLANDS
        return np.repeat(self.islands.weights / each, each)

    @property
    def smallest(self) -> float:
        """The smallest effective sample size so far, of all particles."""
        return min((passed.ess for passed in self.stages), default=math.inf)

    def details(self, stages: int) -> dict[str, str]:
        """What a certificate tells of a run of so many stages."""
        return {
            "annealing": f"{stages} stages of {self._ancestors.size} particles, smallest ESS {self.smallest:.0f}",
            "ancestors": f"{self.survivors} base draws survive",
        }
