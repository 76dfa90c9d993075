"""What the compiled kernels answer: the proximal maps of a batch of rows, with the certificate of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats

__all__ = ["Solved"]


@dataclass(frozen=True, eq=False)
class Solved:
    """Rows y that minimise ½‖y − c‖² + s·φ(By + b), each row with its own c and s.

    Arguments:
        solutions: y, (n, k).
        gap: (n,), an upper bound on how far the objective at y lies above its minimum, rounding included, in units of
            the objective.
        value: φ(By + b), (n,), without s.
        unfinished: (n,), rows whose iteration ended before the gap was within the tolerance; y is their best iterate.
    """

    solutions: Floats
    gap: Floats
    value: Floats
    unfinished: NDArray[np.bool_]
