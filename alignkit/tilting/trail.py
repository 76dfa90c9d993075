"""log Z of tilts from draws of all the laws that annealing has passed, taken as draws of one mixture of them.

The particles of one law see the tilts around it alone: to those that it has left, which may be the dearest of all, they
give next to no mass. A mixture of all laws so far sees every tilt on the way (the deterministic mixture of A. Owen
and Y. Zhou, "Safe and effective importance sampling", J. Am. Stat. Assoc. 95, 2000).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats
from alignkit.tilting.islands import by_island

__all__ = ["Trail"]

LogDensity = Callable[[Floats], Floats]

# Exponents held at once: 128 MiB.
_ENTRIES = 1 << 24
# An average of exponentials over fewer effective draws misses what lies beyond the outermost of them.
_ESS_MIN = 64.0
# How much of the way to a tilt is tried.
_SHARES = np.arange(9, -1, -1) / 10
# So many draws of a law are kept when the next is passed; of the first, which lasts for all, every one.
_KEPT = 512


@dataclass(frozen=True, eq=False)
class _Draws:
    """Draws of a law: features (n, m), weights (n,) that sum to 1, and log-densities of every law there, (n, laws)."""

    features: Floats
    weights: Floats
    log_densities: Floats

    def thinned(self) -> _Draws:
        """As many of every island as add up to what is kept."""
        each = max(1, len(self.weights) // _KEPT)
        features, densities = (
            _by_island_rows(rows)[:, ::each].reshape(-1, rows.shape[1]) for rows in (self.features, self.log_densities)
        )
        weights = by_island(self.weights)[:, ::each].ravel()
        return _Draws(features, weights / weights.sum(), densities)


def _by_island_rows(rows: Floats) -> Floats:
    """Rows of particles, (N, m), as (I, N/I, m)."""
    places = by_island(np.arange(len(rows)))
    return rows[places]


class Trail:
    """Laws passed and draws of them.

    Arguments:
        features: of particles of the first law, p itself, alike in weight, (N, m).
    """

    def __init__(self, features: Floats) -> None:
        count = len(features)
        self._laws: list[LogDensity] = [lambda rows: np.zeros(len(rows))]
        self._draws = [_Draws(features, np.full(count, 1 / count), np.zeros((count, 1)))]

    def add(self, log_density: LogDensity, features: Floats, weights: Floats) -> None:
        """Pass a law.

        Arguments:
            log_density: of the law against p, normalised, at features (n, m).
            features: of particles of it, (N, m).
            weights: of these, (N,), summing to 1.
        """
        if len(self._draws) > 1:
            self._draws[-1] = self._draws[-1].thinned()
        self._draws = [
            _Draws(draws.features, draws.weights, np.column_stack([draws.log_densities, log_density(draws.features)]))
            for draws in self._draws
        ]
        self._laws.append(log_density)
        self._draws.append(_Draws(features, weights, np.column_stack([law(features) for law in self._laws])))

    def log_partitions(self, tilts: Floats, coordinates_of: LogDensity, log_tilt: LogDensity) -> Floats:
        """log E_p exp(⟨θ_j, w⟩ + t) for each tilt, (j,), continued to where draws do not reach.

        Draws see nothing beyond the outermost of them, so that a tilt which leads there seems to have next to no mass.
        Where the mean rests on few draws, log Z(θ) is taken to be at least what it would be if the law were normal from
        the last tilt on the way from 0 to θ that rests on many.

        Arguments:
            tilts: θ, (j, k).
            coordinates_of: features (n, m) to w, (n, k).
            log_tilt: features to t, (n,).
        """
        counts = np.array([len(draws.weights) for draws in self._draws])
        shares = counts / counts.sum()
        log_shares, densities = np.log(shares), np.vstack([draws.log_densities for draws in self._draws])
        features = np.vstack([draws.features for draws in self._draws])
        rows, base = coordinates_of(features), log_tilt(features) - np.logaddexp.reduce(densities + log_shares, axis=1)
        weights = np.concatenate([share * draws.weights for share, draws in zip(shares, self._draws, strict=True)])
        parts = [np.empty(0)]
        step = max(1, _ENTRIES // len(weights))
        for start in range(0, len(tilts), step):
            parts.append(_log_partitions(tilts[start : start + step] @ rows.T, base, weights))
        return np.concatenate(parts)


def _log_partitions(scores: Floats, base: Floats, weights: Floats) -> Floats:
    """log Σ_i W_i exp(y_ji + a_i) for each j, from y (j, n), a and W (n,), continued where few draws matter."""
    terms, found, sizes = _terms(scores + base, weights)
    unseen = np.flatnonzero(sizes < _ESS_MIN)
    for share in _SHARES:
        if not unseen.size:
            break
        ahead = scores[unseen]
        terms, values, sizes = _terms(share * ahead + base, weights)
        terms *= weights
        terms /= terms.sum(axis=1, keepdims=True)
        means = np.einsum("ij,ij->i", terms, ahead)
        variances = np.einsum("ij,ij->i", terms, (ahead - means[:, None]) ** 2)
        normal = values + (1 - share) * means + (1 - share) ** 2 * variances / 2
        seen = (sizes >= _ESS_MIN) | (share == 0.0)
        found[unseen[seen]] = np.maximum(found[unseen[seen]], normal[seen])
        unseen = unseen[~seen]
    return found


def _terms(exponents: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """exp(e − max e), (j, n), for exponents e, the logarithms of their means and how many draws these rest on, (j,)."""
    largest = exponents.max(axis=1)
    terms = np.exp(exponents - largest[:, None])
    sums = terms @ weights
    return terms, largest + np.log(sums), sums**2 / (terms**2 @ weights**2)
