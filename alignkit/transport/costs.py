"""Transport costs c(x, y), the price of moving a draw, public as `ak.costs`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from alignkit.errors import ShapeError

__all__ = ["Cost", "SquaredEuclidean"]


class Cost(ABC):
    """A translation-invariant transport cost c(x, y) = h(x − y), h convex with h(0) = 0.

    A subclass defines `of_displacement`; `transport/reduction.py` decides which costs can be reduced to k dimensions.
    """

    @abstractmethod
    def of_displacement(self, displacement: Any) -> Any:
        """h at each row of x − y.

        Arguments:
            displacement: x − y, (n, d).

        Returns:
            (n,), in units of cost.
        """

    def value(self, x: Any, y: Any) -> Any:
        """The cost of moving each row of x to the same row of y.

        Arguments:
            x: (n, *shape), numpy, torch or jax.
            y: the same shape and kind.

        Returns:
            (n,), of the same kind, in units of cost.

        Raises:
            ShapeError: the shapes differ, or have no batch axis.
        """
        if x.ndim == 0 or tuple(x.shape) != tuple(y.shape):
            raise ShapeError(
                f"A cost compares rows of equal shape, but x has shape {tuple(x.shape)} and y {tuple(y.shape)}.",
                ways_out=["Pass both as (n, *shape), the batch axis first: x[None] makes one row of a single point."],
            )
        return self.of_displacement(array_namespace(x, y).reshape(x - y, (x.shape[0], -1)))


@dataclass(frozen=True)
class SquaredEuclidean(Cost):
    """Half the squared Euclidean distance, c(x, y) = ½‖x − y‖².

    Under it a reward f(Ax) + ⟨g, x⟩ moves x by g/λ and within the row space of A only, which is what makes high
    dimensions cheap ("The tractability landscape of diffusion alignment", arXiv 2605.11361).

    Example:
        >>> import numpy as np
        >>> SquaredEuclidean().value(np.zeros((1, 2)), np.array([[3.0, 4.0]]))
        array([12.5])
    """

    def of_displacement(self, displacement: Any) -> Any:
        """½‖·‖² of each row, (n, d) to (n,)."""
        return 0.5 * array_namespace(displacement).sum(displacement * displacement, axis=1)
