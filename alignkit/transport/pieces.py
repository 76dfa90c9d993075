"""The proximal maps of separable rewards as tables of pieces, which a search for each entry reads.

For f(z) = Σ_i p_i(z_i), each p_i − (λ/2)z² strictly concave and piecewise quadratic, v = z − p_i'(z)/λ is an increasing
piecewise-linear function of z, set-valued at the kinks of p_i. Its inverse is linear between breakpoints: pieces
alternate between lines of p_i' and its kinks, on which z is constant.

Source: soft thresholding and its kin, N. Parikh, S. Boyd, "Proximal algorithms", 2014, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.contracts import Floats
from alignkit.transport.separable import Separable

__all__ = ["PieceTable"]


@dataclass(frozen=True, eq=False)
class PieceTable:
    """z of v, entry by entry, with what certifies it.

    Arguments:
        breaks: where pieces meet in v, (k, 2m), ascending: v is on the piece whose number is how many lie below it.
        pieces: (k, 2m + 1, 8), of each the numbers gain, start, low, high, bend, least, most, level: z is
            gain·v + start clamped to [low, high], p'(z) ranges over bend·z + [least, most], and p(z) is
            (bend·z/2 + least)·z + level, with p(0) = 0.
        strength: how strongly concave f(z) − (λ/2)‖z − v‖² is.
    """

    breaks: Floats
    pieces: Floats
    strength: float

    @staticmethod
    def of(separable: Separable, weight: float) -> PieceTable:
        """Tabulate a reward that λ = `weight` makes strictly concave; see `Separable.obstacle`."""
        kinks, slopes, intercepts = separable.kinks, separable.slopes, separable.intercepts
        dimension, count = kinks.shape
        with np.errstate(invalid="ignore"):
            before = np.where(np.isinf(kinks), 0.0, slopes[:, :-1] * kinks + intercepts[:, :-1])
            after = np.where(np.isinf(kinks), 0.0, slopes[:, 1:] * kinks + intercepts[:, 1:])
        breaks = np.empty((dimension, 2 * count))
        breaks[:, 0::2], breaks[:, 1::2] = kinks - before / weight, kinks - after / weight
        # Rounding may swap the two breakpoints of a kink at which p' is continuous.
        breaks = np.maximum.accumulate(breaks, axis=1)
        # Piece 2j is the line between kinks j − 1 and j, 2j + 1 is the kink j.
        pieces = np.empty((dimension, 2 * count + 1, 8))
        curved = weight - slopes
        pieces[:, 0::2, 0], pieces[:, 0::2, 1] = weight / curved, intercepts / curved
        pieces[:, 0::2, 2] = np.concatenate([np.full((dimension, 1), -np.inf), kinks], axis=1)
        pieces[:, 0::2, 3] = np.concatenate([kinks, np.full((dimension, 1), np.inf)], axis=1)
        pieces[:, 0::2, 4] = slopes
        pieces[:, 0::2, 5] = pieces[:, 0::2, 6] = intercepts
        pieces[:, 1::2, 0], pieces[:, 1::2, 4] = 0.0, 0.0
        pieces[:, 1::2, 1] = pieces[:, 1::2, 2] = pieces[:, 1::2, 3] = kinks
        pieces[:, 1::2, 5], pieces[:, 1::2, 6] = after, before
        pieces[:, :, 7] = _levels(kinks, slopes, intercepts)
        pieces[:, 1::2, 7] -= after * np.where(np.isinf(kinks), 0.0, kinks)
        strength = weight - float(slopes.max(initial=0.0)) - 4 * separable.dropped_quadratic
        return PieceTable(breaks, pieces, strength)


def _levels(kinks: Floats, slopes: Floats, intercepts: Floats) -> Floats:
    """p where its pieces, lines of p' and kinks by turns, have z = 0 and where the kinks are, (k, 2m + 1); p(0) = 0."""
    finite = np.isfinite(kinks)
    places = np.where(finite, kinks, 0.0)
    rises = (slopes[:, :-1] - slopes[:, 1:]) * places**2 / 2 + (intercepts[:, :-1] - intercepts[:, 1:]) * places
    of_lines = np.concatenate([np.zeros((len(kinks), 1)), np.cumsum(np.where(finite, rises, 0.0), axis=1)], axis=1)
    of_lines -= np.take_along_axis(of_lines, (kinks < 0.0).sum(axis=1, keepdims=True), axis=1)
    found = np.empty((len(kinks), 2 * kinks.shape[1] + 1))
    found[:, 0::2] = of_lines
    found[:, 1::2] = slopes[:, :-1] * places**2 / 2 + intercepts[:, :-1] * places + of_lines[:, :-1]
    return found
