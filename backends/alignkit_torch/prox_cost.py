"""What certified proximal methods would take on one core of a CPU, as measured."""

from __future__ import annotations

import numpy as np

from alignkit.transport.canonical import Absolute, HuberLoss, LogisticLoss, ProximalForm

__all__ = ["DIRECT_DIMENSION", "seconds_of"]

#: Up to this k a system is formed and factorised for each row and step.
DIRECT_DIMENSION = 128

_SECONDS_TO_OPEN = 5e-3
_SECONDS_PER_CUBE = 1e-9
#: Of a row, its entries of By, of a matrix of size k, and a multiplication in forming and factorising it: fitted to
#: k = 1 … 100, m = 3 … 128 and λ = 0.1 … 1, at all of which they are right within a factor of 2 or so.
_SMOOTH = (8e-7, 2.5e-7, 1.4e-7, 4.6e-10)
_KINKED = (4.6e-6, 1.05e-6, 1.5e-7, 6.4e-10)
#: Steps grow with the largest curvature of φ(By), fitted to it from 1 to 10⁷; those of interior points do not.
_STEPS, _STEPS_GROWTH = 0.6, 0.15
#: For large k: a multiplication in the products with B of all steps, at curvature 1, and their growth.
_SECONDS_PER_PRODUCT = 4e-9
_PRODUCTS_GROWTH = 0.25


def seconds_of(form: ProximalForm, rows: int) -> float:
    """The predicted time to open a form and to solve some rows.

    Arguments:
        form: the form.
        rows: how many rows.
    """
    m, k = len(form.offset), form.dimension
    to_open = _SECONDS_TO_OPEN + _SECONDS_PER_CUBE * min(m, k) ** 2 * max(m, k)
    if k > DIRECT_DIMENSION:
        return to_open + rows * 4 * m * k * _SECONDS_PER_PRODUCT * float((1.0 + _curvature(form)) ** _PRODUCTS_GROWTH)
    work = np.array([1.0, m, k**2, m * k**2 + k**3 / 3])
    if not form.is_smooth:
        return to_open + rows * float(work @ np.array(_KINKED))
    steps = _STEPS * float((1.0 + _curvature(form)) ** _STEPS_GROWTH)
    return to_open + rows * steps * float(work @ np.array(_SMOOTH))


def _curvature(form: ProximalForm) -> float:
    """max ‖B_i‖² times the largest weight, about the largest curvature of φ(By) or of what smooths it."""
    weights = [
        float(block.weights.max()) if isinstance(block, Absolute | HuberLoss | LogisticLoss) else block.weight
        for block in form.blocks
    ]
    return max(weights, default=0.0) * float((form.matrix**2).sum(axis=1).max(initial=0.0))
