"""log Z of any tilt, and means under it, from draws of a few tilts, of which more are drawn where they are needed.

Source: the pooled estimates of M. R. Shirts and J. D. Chodera, J. Chem. Phys. 129, 124105, 2008, doi 10.1063/1.2978177
(MBAR; see `alignkit.tilting.mbar`). A tilt's draws speak for those near it, so that nodes follow one another outwards
until they reach what is wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.estimates import Estimate
from alignkit.tilting.mbar import Pool
from alignkit.tilting.weighting import largest_share

__all__ = ["Draw", "Partition"]

Indices = NDArray[np.int64]

# A tilt is reached where the pool is worth this share of the draws that a node gets: two nodes so far apart still have
# hundreds of draws in common, and standard errors hold.
_ESS_SHARE = 0.2
# Exponents held at once: 128 MiB.
_ENTRIES = 1 << 24


class Draw(Protocol):
    """Features of draws of one tilt."""

    def __call__(self, coordinates: Floats, rows: int, *, stage: int, first_row: int) -> Floats:
        """Draw rows of the tilt with coordinates (1, m), to features (rows, m).

        Stage and first row number the noise, as for `TiltSession.draw`: each node has a stage of its own, the base law
        stage 0, where the draws that a partition began with are its first rows.
        """
        ...


@dataclass(frozen=True, eq=False)
class Partition:
    """What draws of a few tilts p·exp⟨θ_j, x⟩ say of all tilts, θ = coordinates @ directions.

    Arguments:
        nodes: coordinates of the tilts that were drawn, (j, m); the first is 0, the base law.
        features: ⟨direction, x⟩ of all draws, (n, m).
        laws: of which node each draw is, (n,), 0 to j − 1.
        groups: draws of one node in one group may depend on each other, (n,); None where all are independent.

    Raises:
        ParameterError: the first node is not 0, a node has no draws, or shapes do not fit.
        NonFiniteError: a feature is NaN or infinite.

    Example:
        >>> from alignkit.noise import normal
        >>> def draw(coordinates, rows, *, stage, first_row):
        ...     return normal(0, rows, 1, stage=stage, first_row=first_row) + coordinates
        >>> base = Partition.of_base(draw(np.zeros((1, 1)), 1000, stage=0, first_row=0))
        >>> wanted = np.array([[4.0]])  # of N(0, 1), which base draws do not reach; log Z is 8
        >>> grown = base.grown(wanted, np.ones(1), draw=draw, rows=1000, tolerance=0.05, budget=20_000)
        >>> (value,), (error,) = grown.log_partition(wanted)
        >>> bool(abs(value - 8.0) < 4 * error) and grown.error(wanted, np.ones(1), rows=1000) <= 0.05
        True
    """

    nodes: Floats
    features: Floats
    laws: Indices
    groups: Indices | None = None

    def __post_init__(self) -> None:
        if self.nodes.ndim != 2 or self.features.ndim != 2 or self.nodes.shape[1:] != self.features.shape[1:]:
            raise ParameterError(
                f"Nodes (j, m) and features (n, m) share m, but have {self.nodes.shape} and {self.features.shape}."
            )
        if not len(self.nodes) or self.nodes[0].any():
            raise ParameterError("The first node of a partition is 0, the base law, to which log Z is relative.")

    @staticmethod
    def of_base(features: Floats, groups: Indices | None = None) -> Partition:
        """The partition of draws of the base law alone.

        Arguments:
            features: (n, m).
            groups: (n,), as above.
        """
        return Partition(np.zeros((1, features.shape[1])), features, np.zeros(len(features), dtype=np.int64), groups)

    @cached_property
    def pool(self) -> Pool:
        """All draws, with what they say of each other's nodes."""
        return Pool(self.nodes @ self.features.T, self.laws, self.groups)

    def log_partition(self, coordinates: Floats) -> tuple[Floats, Floats]:
        """log Z of tilts (i, m), and standard errors, (i,) each; these are no guide far from the nodes: see `sizes`."""
        values, errors = np.empty(len(coordinates)), np.empty(len(coordinates))
        for block in self._blocks(len(coordinates)):
            values[block], errors[block] = self.pool.log_partition_many(coordinates[block] @ self.features.T)
        return values, errors

    def sizes(self, coordinates: Floats) -> Floats:
        """How many draws of each tilt (i, m) the pool is worth, (i,)."""
        return np.array([self.pool.effective_size(self.features @ tilt) for tilt in coordinates])

    def expectation(self, values: Floats, coordinates: Floats) -> Estimate:
        """E[a] under a tilt.

        Arguments:
            values: a at every draw, (n,).
            coordinates: of the tilt, (m,).
        """
        return self.pool.expectation(self.features @ coordinates, values)

    def log_expectation(self, log_values: Floats) -> Estimate:
        """log E_p exp(a), with a at every draw, (n,)."""
        return self.pool.log_partition(log_values)

    def error(self, wanted: Floats, shares: Floats, *, rows: int) -> float:
        """The mean standard error of log Z over tilts with shares; infinite where one that matters is not reached.

        It bounds that of log Σ_i μ_i·Z_i where the shares are those of its terms.

        Arguments:
            wanted: coordinates of the tilts, (i, m).
            shares: (i,), not negative, with sum 1.
            rows: draws that a node gets at first; a tilt is reached where the pool is worth a fifth of them.
        """
        matters = shares > 0
        return float(shares[matters] @ self._errors(wanted[matters], rows))

    def grown(
        self, wanted: Floats, shares: Floats, *, draw: Draw, rows: int, tolerance: float, budget: int
    ) -> Partition:
        """The partition with draws added where wanted tilts need them.

        Nodes are added while a wanted tilt is out of reach: there, or as far along the segment from the nearest node as
        the draws so far reach. Then all nodes get more draws, by what they contribute to `error`, until it is within
        the tolerance. Tilts of infinite Z are never reached: their error stays infinite.

        Arguments:
            wanted: coordinates of the tilts, (i, m).
            shares: what part each has, (i,), not negative, with sum 1.
            draw: makes draws.
            rows: how many a node gets at first.
            tolerance: for `error`, in nats.
            budget: the largest number of draws to add.

        Returns:
            a partition with all draws of this one; its `error` tells whether the tolerance was met.

        Raises:
            ParameterError: a share is negative, or they do not sum to 1; or rows are not positive.
            NonFiniteError: a draw is NaN or infinite.
        """
        if (shares < 0).any() or not math.isclose(float(shares.sum()), 1.0, rel_tol=1e-6):
            raise ParameterError(f"Shares are not negative and sum to 1, not to {shares.sum():.6g}.")
        if rows < 1:
            raise ParameterError(f"rows must be positive, not {rows}.")
        wanted, shares = wanted[shares > 0], shares[shares > 0]
        reached, left = self._reaching(wanted[np.argsort(-shares, kind="stable")], draw, rows, budget)
        return reached._refined(wanted, shares, draw=draw, rows=rows, tolerance=tolerance, budget=left)

    def _reaching(self, wanted: Floats, draw: Draw, rows: int, budget: int) -> tuple[Partition, int]:
        """Nodes added until all tilts are in reach, the first of them first, and what is left of the budget."""
        partition = self
        while budget >= rows:
            wanted = wanted[partition.sizes(wanted) < _ESS_SHARE * rows]
            if not len(wanted):
                break
            partition = partition._with_draws(partition._towards(wanted[0], rows), rows, draw)
            budget -= rows
        return partition, budget

    def _refined(
        self, wanted: Floats, shares: Floats, *, draw: Draw, rows: int, tolerance: float, budget: int
    ) -> Partition:
        """Draws added to the nodes there are until the error is within the tolerance."""
        partition = self
        while budget >= rows:
            errors = partition._errors(wanted, rows)
            error, total = float(shares @ errors), len(partition.features)
            if error <= tolerance or not math.isfinite(error):
                break
            # Errors fall as the root of the draws, but contributions are known only as well as there are draws.
            extra = min(max(rows, math.ceil(total * ((error / tolerance) ** 2 - 1))), total, budget)
            # The error of the tilt 0 is 0 by definition.
            slopes = np.divide(shares, errors, out=np.zeros_like(shares), where=errors > 0)
            contributions = slopes @ partition._contributions(wanted)
            # Neyman's allocation: draws by the spread of what they contribute.
            spreads = np.sqrt(contributions * partition.pool.counts)
            short = np.maximum(spreads / spreads.sum() * (total + extra) - partition.pool.counts, 0.0)
            for node, count in zip(partition.nodes, np.ceil(extra * short / short.sum()).astype(int), strict=True):
                taken = min(int(count), budget)
                if taken:
                    partition = partition._with_draws(node, taken, draw)
                    budget -= taken
        return partition

    def _errors(self, wanted: Floats, rows: int) -> Floats:
        """Standard errors of log Z, (i,), infinite out of reach."""
        return np.where(self.sizes(wanted) >= _ESS_SHARE * rows, self.log_partition(wanted)[1], math.inf)

    def _contributions(self, wanted: Floats) -> Floats:
        """Of each node to the squared error of each tilt, (i, j)."""
        found = np.empty((len(wanted), len(self.nodes)))
        for block in self._blocks(len(wanted)):
            found[block] = self.pool.contributions(wanted[block] @ self.features.T)
        return found

    def _towards(self, tilt: Floats, rows: int) -> Floats:
        """The tilt itself if it is in reach, else the furthest that is on the way from the nearest node, (m,)."""
        steps = (tilt - self.nodes) @ self._root
        nearest = self.nodes[int(np.argmin((steps**2).sum(axis=1)))]

        def log_weights(share: float) -> Floats:
            return self.pool.log_weights(self.features @ (nearest + share * (tilt - nearest)))

        share = largest_share(log_weights, _ESS_SHARE * rows / len(self.features), at_most=1.0)
        return np.asarray(tilt if share == 1.0 else nearest + share * (tilt - nearest))

    @cached_property
    def _root(self) -> Floats:
        """A square root of the covariance of base features, in which distances of near tilts are nats."""
        base = self.features[self.laws == 0]
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(base, rowvar=False)))
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))

    def _with_draws(self, tilt: Floats, rows: int, draw: Draw) -> Partition:
        same = np.flatnonzero((self.nodes == tilt).all(axis=1))
        law = int(same[0]) if same.size else len(self.nodes)
        mine = self.laws == law
        found = draw(tilt[None], rows, stage=law, first_row=int(np.count_nonzero(mine)))
        if not np.isfinite(found).all():
            raise NonFiniteError(f"A draw of the tilt with coordinates {tilt.tolist()} is NaN or infinite.")
        groups = self.groups
        if groups is not None:
            # New draws are independent of all others.
            groups = np.append(groups, np.arange(rows) + 1 + groups.max())
        return Partition(
            self.nodes if same.size else np.vstack([self.nodes, tilt]),
            np.vstack([self.features, found]),
            np.append(self.laws, np.full(rows, law)),
            groups,
        )

    def _blocks(self, count: int) -> list[slice]:
        step = max(1, _ENTRIES // max(1, len(self.features)))
        return [slice(start, start + step) for start in range(0, count, step)]
