"""Draws of several tilted laws as one pool that speaks for all of them, and for the laws between.

Source: M. R. Shirts and J. D. Chodera, "Statistically optimal analysis of samples from multiple equilibrium states",
J. Chem. Phys. 129, 124105, 2008, doi 10.1063/1.2978177 (MBAR): equation 11 for the log-partitions, here as the minimum
of a convex function, equation 14 for other laws. Standard errors are those of the estimating equations, with draws of
one law, or groups of them, as what is independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.estimates import Estimate

__all__ = ["Pool"]

Indices = NDArray[np.int64]

_NEWTON_STEPS = 200
_TOLERANCE = 1e-11
_HALVINGS = 40
_RANK = 1e-12


@dataclass(frozen=True, eq=False)
class Pool:
    """Draws of laws p_j ∝ p·exp(u_j), pooled.

    Arguments:
        log_ratios: u_j at every draw, (j, n), up to a constant for each law; 0 for p itself.
        laws: of which law each draw is, (n,), 0 to j − 1; every law has draws.
        groups: draws of one law in one group may depend on each other, as particles of an island do, (n,); None where
            all are independent.

    Raises:
        ParameterError: a law without draws, or shapes that do not fit.
        NonFiniteError: a log-ratio is NaN or infinite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = np.concatenate([rng.normal(0.0, 1.0, 5000), rng.normal(1.0, 1.0, 5000)])
        >>> pool = Pool(np.stack([0.0 * x, x]), np.repeat([0, 1], 5000))
        >>> estimate = pool.log_partition(x)  # log E exp(x) under N(0, 1) is 1/2
        >>> abs(estimate.value - 0.5) < 4 * estimate.standard_error
        True
    """

    log_ratios: Floats
    laws: Indices
    groups: Indices | None = None

    def __post_init__(self) -> None:
        if self.log_ratios.ndim != 2 or self.laws.shape != self.log_ratios.shape[1:]:
            raise ParameterError(
                f"A pool has log-ratios (j, n) and laws (n,), not {self.log_ratios.shape} and {self.laws.shape}."
            )
        if self.counts.size != self.log_ratios.shape[0] or not self.counts.all():
            raise ParameterError(f"Every law of a pool has draws; they are {self.counts.tolist()} in number.")
        if not np.isfinite(self.log_ratios).all():
            raise NonFiniteError("A log-ratio of the pool is NaN or infinite.")

    @cached_property
    def counts(self) -> Floats:
        """How many draws each law has, (j,)."""
        return np.bincount(self.laws, minlength=self.log_ratios.shape[0]).astype(np.float64)

    @cached_property
    def log_partitions(self) -> Floats:
        """log E_p exp(u_j) of the laws, (j,), up to a constant for all; relative to p where it is one of them.

        They minimise Σ_i log Σ_j N_j·exp(u_j(x_i) − ζ_j) + Σ_j N_j·ζ_j, which is convex, by Newton's method.
        """
        zeta = self._start()
        value, gradient, hessian = self._objective(zeta)
        for _ in range(_NEWTON_STEPS):
            # The first law stays at 0, since a common shift changes nothing.
            step = np.zeros_like(zeta)
            step[1:] = np.linalg.lstsq(hessian[1:, 1:], -gradient[1:], rcond=None)[0]
            length = 1.0
            for _ in range(_HALVINGS):
                found = self._objective(zeta + length * step)
                if found[0] <= value + 1e-12 * abs(value):
                    break
                length /= 2
            zeta = zeta + length * step
            value, gradient, hessian = found
            if np.abs(length * step).max() < _TOLERANCE:
                break
        return zeta

    def _start(self) -> Floats:
        """Each law from its neighbour by the mean of both directions, which is right where the two overlap."""
        zeta = np.zeros(len(self.counts))
        for law in range(1, len(zeta)):
            gain = self.log_ratios[law] - self.log_ratios[law - 1]
            forward, back = gain[self.laws == law - 1], -gain[self.laws == law]
            zeta[law] = zeta[law - 1] + 0.5 * (_log_mean_exp(forward) - _log_mean_exp(back))
        return zeta

    def _shares(self, zeta: Floats) -> tuple[Floats, Floats]:
        """log D_i = log Σ_j N_j·exp(u_j − ζ_j), (n,), and the shares of the laws in it, (j, n)."""
        scores = self.log_ratios + (np.log(self.counts) - zeta)[:, None]
        top = scores.max(axis=0)
        shares = np.exp(scores - top)
        total = shares.sum(axis=0)
        return top + np.log(total), shares / total

    def _objective(self, zeta: Floats) -> tuple[float, Floats, Floats]:
        log_d, shares = self._shares(zeta)
        sums = shares.sum(axis=1)
        return float(log_d.sum() + self.counts @ zeta), self.counts - sums, np.diag(sums) - shares @ shares.T

    @cached_property
    def _settled(self) -> tuple[Floats, Floats, Floats]:
        """log D (n,), the shares (j, n), and the pseudo-inverse of the Hessian (j, j)."""
        log_d, shares = self._shares(self.log_partitions)
        hessian = np.diag(shares.sum(axis=1)) - shares @ shares.T
        # A common shift of all ζ is free: its eigenvalue is 0 up to rounding.
        return log_d, shares, np.asarray(np.linalg.pinv(hessian, rcond=_RANK, hermitian=True), dtype=np.float64)

    def log_weights(self, log_ratio: Floats) -> Floats:
        """Log-weights under which the pool stands for the law p·exp(u), normalised, (n,).

        Arguments:
            log_ratio: u at every draw, (n,).
        """
        found = log_ratio - self._settled[0]
        return np.asarray(found - np.logaddexp.reduce(found))

    def log_partition(self, log_ratio: Floats) -> Estimate:
        """log E_p exp(u), relative to the first law of the pool, with its standard error.

        Arguments:
            log_ratio: u at every draw, (n,).
        """
        log_d, shares, inverse = self._settled
        value = float(np.logaddexp.reduce(log_ratio - log_d))
        weights = np.exp(log_ratio - log_d - value)
        # ζ moves with the draws too, but for that of the first law, to which all else is relative.
        moved = shares @ weights
        moved[0] -= 1.0
        return Estimate(value, self._error(weights + moved @ inverse @ shares))

    def log_partition_many(self, log_ratios: Floats) -> tuple[Floats, Floats]:
        """log E_p exp(u) of many laws, (m, n) to values and standard errors (m,) each."""
        found: Sequence[Estimate] = [self.log_partition(row) for row in log_ratios]
        return np.array([one.value for one in found]), np.array([one.standard_error for one in found])

    def divergence(self, log_ratio: Floats) -> Estimate:
        """KL of p·exp(u), normalised, from the first law of the pool: E[u] − log E_p exp(u), with its standard error.

        Arguments:
            log_ratio: u less that of the first law at every draw, (n,).
        """
        log_d, shares, inverse = self._settled
        level = float(np.logaddexp.reduce(log_ratio - log_d))
        weights = np.exp(log_ratio - log_d - level)
        mean = float(weights @ log_ratio)
        # The influence of a draw on E[u], less that on log Z, both with that on the log-partitions of the pool.
        influence = weights * (log_ratio - mean - 1.0)
        moved = shares @ influence
        moved[0] += 1.0
        return Estimate(mean - level, self._error(influence + moved @ inverse @ shares))

    def expectation(self, log_ratio: Floats, values: Floats) -> Estimate:
        """E[a] under the law p·exp(u), with its standard error.

        Arguments:
            log_ratio: u at every draw, (n,).
            values: a at every draw, (n,).
        """
        weights = np.exp(self.log_weights(log_ratio))
        mean = float(weights @ values)
        _, shares, inverse = self._settled
        influence = weights * (values - mean)
        return Estimate(mean, self._error(influence + (shares @ influence) @ inverse @ shares))

    def effective_size(self, log_ratio: Floats) -> float:
        """How many draws of p·exp(u) the pool is worth (Kish)."""
        return float(1.0 / np.sum(np.exp(2.0 * self.log_weights(log_ratio))))

    @property
    def overlap(self) -> Floats:
        """The overlap matrix, (j, j): of a draw of law a, the mean share of law b; rows sum to 1."""
        _, shares, _ = self._settled
        return np.asarray((shares / self.counts[:, None]) @ shares.T)

    def with_law(self, log_ratio: Floats, log_ratios: Floats, groups: Indices | None = None) -> Pool:
        """The pool with draws of a further law; all others are used again.

        Arguments:
            log_ratio: u of the new law at the draws so far, (n,).
            log_ratios: u of all laws, the new one last, at the new draws, (j + 1, m).
            groups: of the new draws, (m,), where the pool has groups.
        """
        law = len(self.counts)
        return Pool(
            np.hstack([np.vstack([self.log_ratios, log_ratio]), log_ratios]),
            np.append(self.laws, np.full(log_ratios.shape[1], law)),
            None if self.groups is None or groups is None else np.append(self.groups, groups),
        )

    def _error(self, influence: Floats) -> float:
        """The standard deviation of Σ_i influence_i, by what is independent."""
        if self.groups is None:
            means = np.bincount(self.laws, influence) / self.counts
            squares = np.bincount(self.laws, (influence - means[self.laws]) ** 2)
            return math.sqrt(float((squares * self.counts / np.maximum(self.counts - 1, 1)).sum()))
        total = 0.0
        for law in range(len(self.counts)):
            mine = self.laws == law
            _, places = np.unique(self.groups[mine], return_inverse=True)
            sums = np.bincount(places.reshape(-1), influence[mine])
            count = max(2, sums.size)
            total += float(((sums - sums.mean()) ** 2).sum()) * count / (count - 1)
        return math.sqrt(total)


def _log_mean_exp(values: Floats) -> float:
    return float(np.logaddexp.reduce(values) - math.log(values.size))
