"""Draws of several tilted laws as one pool that speaks for all of them, and for the laws between.

Source: M. R. Shirts and J. D. Chodera, "Statistically optimal analysis of samples from multiple equilibrium states",
J. Chem. Phys. 129, 124105, 2008, doi 10.1063/1.2978177 (MBAR): equation 11 for the log-partitions, here as the minimum
of a convex function, equation 14 for other laws. Standard errors are those of the estimating equations, with draws, or
groups of them, as what is independent; for draws they are those of equation 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.estimates import Estimate

__all__ = ["Pool"]

Indices = NDArray[np.int64]

_STEPS = 200
# Of the fall that Newton's step predicts: rounding of the objective. Its last step goes far beyond.
_DECREMENT = 1e-15
_HALVINGS = 40
# The share of the predicted fall in the objective that a step has to bring, and what rounding may take from it.
_ARMIJO, _ROUNDING = 1e-4, 1e-12
# Laws whose draws tell so little of one another are apart: nothing is known of the ratio of their normalisers.
_APART = 1e-10
# What is asked may lean so much on a ratio that is not known: rounding.
_LEANING = 1e-7
# Entries held at once: 128 MiB.
_ENTRIES = 1 << 24


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
        """log E_p exp(u_j) of the laws, (j,), relative to the first.

        They minimise Σ_i log Σ_j N_j·exp(u_j(x_i) − ζ_j) + Σ_j N_j·ζ_j, which is convex, by Newton's method.
        """
        zeta = self._start()
        value, gradient, hessian = self._objective(zeta)
        for _ in range(_STEPS):
            step = -self._solved(hessian, gradient)
            slope = float(gradient @ step)
            length = 1.0
            for _ in range(_HALVINGS):
                found = self._objective(zeta + length * step)
                if found[0] <= value + _ARMIJO * length * slope + _ROUNDING * abs(value):
                    break
                length /= 2
            zeta = zeta + length * step
            value, gradient, hessian = found
            if length == 1.0 and -slope <= _DECREMENT * max(abs(value), self.laws.size):
                break
        # A common shift changes nothing.
        return np.asarray(zeta - zeta[0])

    def _start(self) -> Floats:
        """Each law from the nearest that is known, by the mean of exponential averages both ways.

        Each way is biased towards too little, and by as much as laws are apart; the two sum to 0 where they meet.
        """
        count = len(self.counts)
        gains = np.stack([self._gains(law) for law in range(count)])
        gaps = np.abs(gains + gains.T)
        zeta, nearest, known = np.zeros(count), np.zeros(count, dtype=np.int64), np.arange(count) == 0
        for _ in range(count - 1):
            open_gaps = np.where(known, math.inf, gaps[nearest, np.arange(count)])
            law = int(np.argmin(open_gaps))
            origin = nearest[law]
            zeta[law] = zeta[origin] + (gains[origin, law] - gains[law, origin]) / 2
            known[law] = True
            nearest = np.where(gaps[law] < gaps[nearest, np.arange(count)], law, nearest)
        return zeta

    def _gains(self, law: int) -> Floats:
        """log of the mean of exp(u_b − u_law) over the draws of a law, for all laws b, (j,)."""
        own = self.log_ratios[:, self.laws == law]
        return np.asarray(np.logaddexp.reduce(own - own[law], axis=1) - math.log(own.shape[1]))

    def _shares(self, zeta: Floats, block: slice) -> tuple[Floats, Floats]:
        """log D_i = log Σ_j N_j·exp(u_j − ζ_j), (n,), and the shares of the laws in it, (j, n), of a block of draws."""
        scores = self.log_ratios[:, block] + (np.log(self.counts) - zeta)[:, None]
        top = scores.max(axis=0)
        shares = np.exp(scores - top)
        total = shares.sum(axis=0)
        return top + np.log(total), shares / total

    def _objective(self, zeta: Floats) -> tuple[float, Floats, Floats]:
        value, sums = float(self.counts @ zeta), np.zeros_like(zeta)
        products = np.zeros((zeta.size, zeta.size))
        for block in _blocks(self.laws.size, zeta.size):
            log_d, shares = self._shares(zeta, block)
            value += float(log_d.sum())
            sums += shares.sum(axis=1)
            products += shares @ shares.T
        return value, self.counts - sums, np.diag(sums) - products

    def _solved(self, hessian: Floats, sides: Floats) -> Floats:
        """H⁺·side for a side, (j,), or rows of them, without the directions of which H knows nothing."""
        values, vectors = self._spectrum(hessian)
        inverse = np.where(values > _APART, 1 / np.maximum(values, _APART), 0.0)
        root = np.sqrt(self.counts)
        return np.asarray((sides / root) @ (vectors * inverse) @ vectors.T / root)

    def _spectrum(self, hessian: Floats) -> tuple[Floats, Floats]:
        """Eigenvalues between 0 and 1, and vectors, of the Hessian in units of √N_j."""
        root = np.sqrt(self.counts)
        values, vectors = np.linalg.eigh(hessian / np.outer(root, root))
        return np.asarray(values), np.asarray(vectors)

    @cached_property
    def _settled(self) -> tuple[Floats, Floats, Floats]:
        """log D (n,), the shares (j, n), and the Hessian (j, j)."""
        log_d, shares = np.empty(self.laws.size), np.empty_like(self.log_ratios)
        for block in _blocks(self.laws.size, len(self.counts)):
            log_d[block], shares[:, block] = self._shares(self.log_partitions, block)
        return log_d, shares, np.diag(shares.sum(axis=1)) - shares @ shares.T

    @cached_property
    def _apart(self) -> Floats:
        """Orthonormal directions of √N·ζ of which the draws know nothing, (j, a): the common shift, and gulfs."""
        values, vectors = self._spectrum(self._settled[2])
        return np.asarray(vectors[:, values <= _APART])

    def log_weights(self, log_ratio: Floats) -> Floats:
        """Log-weights under which the pool stands for the law p·exp(u), normalised, (n,).

        Arguments:
            log_ratio: u at every draw, (n,).
        """
        found = log_ratio - self._settled[0]
        return np.asarray(found - np.logaddexp.reduce(found))

    def log_partition(self, log_ratio: Floats) -> Estimate:
        """log E_p exp(u), relative to the first law of the pool, with its standard error.

        The error is infinite where it leans on the ratio of laws that share no draws; it is no guide where
        `effective_size` is small.

        Arguments:
            log_ratio: u at every draw, (n,).
        """
        values, errors = self.log_partition_many(log_ratio[None])
        return Estimate(float(values[0]), float(errors[0]))

    def log_partition_many(self, log_ratios: Floats) -> tuple[Floats, Floats]:
        """log E_p exp(u) of many laws, (m, n) to values and standard errors (m,) each; see `log_partition`."""
        values, errors = np.empty(len(log_ratios)), np.empty(len(log_ratios))
        for block in _blocks(len(log_ratios), self.laws.size):
            values[block], weights = self._weighed(log_ratios[block])
            errors[block] = self._errors(weights, first=-1.0)
        return values, errors

    def _weighed(self, log_ratios: Floats) -> tuple[Floats, Floats]:
        """log E_p exp(u), (m,), and normalised weights under which the pool stands for p·exp(u), (m, n)."""
        exponents = log_ratios - self._settled[0]
        top = exponents.max(axis=1)
        weights = np.exp(exponents - top[:, None])
        sums = weights.sum(axis=1)
        return top + np.log(sums), weights / sums[:, None]

    def divergence(self, log_ratio: Floats) -> Estimate:
        """KL of p·exp(u), normalised, from the first law of the pool: E[u] − log E_p exp(u), with its standard error.

        Arguments:
            log_ratio: u less that of the first law at every draw, (n,).
        """
        level = float(np.logaddexp.reduce(log_ratio - self._settled[0]))
        weights = np.exp(self.log_weights(log_ratio))
        mean = float(weights @ log_ratio)
        # The influence of a draw on E[u], less that on log Z.
        influence = weights * (log_ratio - mean - 1.0)
        return Estimate(mean - level, float(self._errors(influence[None], first=1.0)[0]))

    def expectation(self, log_ratio: Floats, values: Floats) -> Estimate:
        """E[a] under the law p·exp(u), with its standard error.

        Arguments:
            log_ratio: u at every draw, (n,).
            values: a at every draw, (n,).
        """
        means, errors = self.expectation_many(log_ratio, values[None])
        return Estimate(float(means[0]), float(errors[0]))

    def expectation_many(self, log_ratio: Floats, values: Floats) -> tuple[Floats, Floats]:
        """E[a] of many a under the law p·exp(u), with standard errors.

        Arguments:
            log_ratio: u at every draw, (n,).
            values: each a at every draw, (m, n).

        Returns:
            means and standard errors, (m,) each.
        """
        weights = np.exp(self.log_weights(log_ratio))
        means = values @ weights
        errors = np.empty(len(values))
        for block in _blocks(len(values), self.laws.size):
            errors[block] = self._errors(weights * (values[block] - means[block, None]))
        return means, errors

    def effective_size(self, log_ratio: Floats) -> float:
        """How many draws of p·exp(u) the pool is worth (Kish)."""
        return float(1.0 / np.sum(np.exp(2.0 * self.log_weights(log_ratio))))

    @property
    def overlap(self) -> Floats:
        """The overlap matrix, (j, j): of a draw of law a, the mean share of law b; rows sum to 1."""
        shares = self._settled[1]
        return np.asarray((shares / self.counts[:, None]) @ shares.T)

    @property
    def spectral_gap(self) -> float:
        """1 less the second eigenvalue of the overlap matrix: 1 for one law, 0 where some laws share no draws."""
        if self.counts.size == 1:
            return 1.0
        return max(0.0, float(self._spectrum(self._settled[2])[0][1]))

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

    def _errors(self, influences: Floats, first: float = 0.0) -> Floats:
        """Standard errors of what moves with the draws by Σ_i influence_i, and with the log-partitions ζ in turn.

        Arguments:
            influences: (m, n), at ζ as it is.
            first: how ζ of the first law matters beside.
        """
        leaning = np.linalg.norm(self._moved(influences, first) / np.sqrt(self.counts) @ self._apart, axis=1)
        scale = np.maximum(np.linalg.norm(influences, axis=1), 1 / math.sqrt(self.laws.size))
        errors = np.sqrt(self._variances(self._followed(influences, first)).sum(axis=1))
        return np.where(leaning > _LEANING * scale, math.inf, errors)

    def _moved(self, influences: Floats, first: float) -> Floats:
        """How ζ matters, (m, j): the weights of draws hold it through D alone, which is what influences are made of."""
        moved = influences @ self._settled[1].T
        moved[:, 0] += first
        return moved

    def _followed(self, influences: Floats, first: float) -> Floats:
        """Influences of draws, (m, n), with what they do by way of ζ."""
        _, shares, hessian = self._settled
        return influences + self._solved(hessian, self._moved(influences, first)) @ shares

    def _variances(self, influences: Floats) -> Floats:
        """Variances of Σ_i influence_i over the draws of each law, (m, n) to (m, j), by what is independent."""
        if self.groups is None:
            # A law is what the whole pool, reweighted to it, says of it.
            shares = self._settled[1].T
            return np.maximum(influences**2 @ shares - (influences @ shares) ** 2 / self.counts, 0.0)
        variances = np.empty((len(influences), self.counts.size))
        for law in range(self.counts.size):
            mine = self.laws == law
            _, places = np.unique(self.groups[mine], return_inverse=True)
            sums = np.stack([np.bincount(places.reshape(-1), row[mine]) for row in influences])
            count = sums.shape[1]
            deviations = ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
            # One group alone says nothing of its own spread.
            variances[:, law] = deviations * count / (count - 1) if count > 1 else math.inf
        return variances


def _blocks(rows: int, columns: int) -> list[slice]:
    """Slices of rows that hold as many entries as are to be held at once."""
    step = max(1, _ENTRIES // max(1, columns))
    return [slice(start, start + step) for start in range(0, rows, step)]
