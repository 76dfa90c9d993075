"""Sums of smooth convex functions of affine maps, as arrays that a compiled kernel reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.transport.canonical import HuberLoss, LogisticLoss, ProximalForm, SoftMaximum

__all__ = ["HUBER", "LOGISTIC", "SOFT_MAXIMUM", "SmoothLoss"]

SOFT_MAXIMUM, LOGISTIC, HUBER = 0, 1, 2


@dataclass(frozen=True, eq=False)
class SmoothLoss:
    """A sum of smooth blocks as the kernel reads it.

    Arguments:
        rotation: Q, (k, r), QᵀQ = I, r = min(m, k), with B = BQQᵀ.
        matrix: BQ, (m, r), zero above its diagonal.
        offset: b, (m,).
        products: (BQ)_li·(BQ)_lj, (r(r + 1)/2, m), pairs j ≤ i in order of i.
        kinds: of each block.
        ends: of each block's rows of B.
        weights: of each row of B; of a block of a soft maximum all are the block's.
        thresholds: of each block.
        curvature: an upper bound on the largest eigenvalue of BᵀΦ''B.
        lift: by how much φ_T(a) = T·φ(a/T) may rise, at any a, for each unit by which T falls.
        energy: what φ changes by over a bend of it, about: the least of all rows of B, but no less than a thousandth
            of the most.
        rounding: the numbers r, t with the rounding of B·∇φ below (r‖y‖ + t)·ε.
    """

    rotation: Floats
    matrix: Floats
    offset: Floats
    products: Floats
    kinds: NDArray[np.int64]
    ends: NDArray[np.int64]
    weights: Floats
    thresholds: Floats
    curvature: float
    lift: float
    energy: float
    rounding: tuple[float, float]

    @staticmethod
    def of(form: ProximalForm) -> SmoothLoss:
        """The loss of a canonical form whose blocks are all smooth."""
        rotation, corner = np.linalg.qr(form.matrix.T)
        matrix = np.ascontiguousarray(np.tril(corner.T))
        rows, rank = matrix.shape
        kinds, thresholds = np.empty(len(form.blocks), np.int64), np.zeros(len(form.blocks))
        weights, bends, energies = np.empty(rows), np.empty(rows), np.empty(rows)
        steepest, slip_by_size, slip, lift = 0.0, 0.0, 0.0, 0.0
        sizes = np.sqrt((matrix**2).sum(axis=1))
        for at, (block, part) in enumerate(form.parts):
            if isinstance(block, SoftMaximum):
                kinds[at], weights[part], bends[part] = SOFT_MAXIMUM, block.weight, 0.5 * block.weight
                energies[part] = block.weight
                top = float(sizes[part].max(initial=0.0))
                steepest += block.weight * top
                slip_by_size += block.weight * top**2
                slip += block.weight * top * float(np.abs(form.offset[part]).max(initial=0.0))
                continue
            if isinstance(block, LogisticLoss):
                kinds[at], weights[part], bends[part], slope = LOGISTIC, block.weights, 0.25 * block.weights, 1.0
                energies[part] = block.weights
            else:
                assert isinstance(block, HuberLoss)
                kinds[at], weights[part], bends[part], slope = (
                    HUBER,
                    block.weights,
                    2 * block.weights,
                    2 * block.threshold,
                )
                thresholds[at] = block.threshold
                energies[part] = block.weights * block.threshold**2
                lift += float(block.weights.sum()) * block.threshold**2
            steepest += float(slope * block.weights @ sizes[part])
            slip_by_size += float(bends[part] @ sizes[part] ** 2)
            slip += float((bends[part] * sizes[part]) @ np.abs(form.offset[part]))
        bent = matrix * np.sqrt(bends)[:, None]
        for block, part in form.parts:
            if isinstance(block, SoftMaximum):
                # ½‖x − mean‖² bounds every variance of x, and a row that is common to all has no part in it.
                bent[part] -= bent[part].mean(axis=0)
        curvature = float(np.linalg.norm(bent, 2)) ** 2 if rows else 0.0
        first, second = np.tril_indices(rank)
        # A product of k terms, a rotation of y and one of B, each stable row by row.
        length = 4 * (form.dimension + 2)
        return SmoothLoss(
            np.ascontiguousarray(rotation),
            matrix,
            np.ascontiguousarray(form.offset),
            np.ascontiguousarray((matrix[:, first] * matrix[:, second]).T),
            kinds,
            np.cumsum(form.sizes, dtype=np.int64),
            weights,
            thresholds,
            curvature,
            lift,
            float(max(energies.min(initial=math.inf), 1e-3 * energies.max(initial=0.0))),
            (length * slip_by_size, length * slip + (rows + 16) * steepest),
        )
