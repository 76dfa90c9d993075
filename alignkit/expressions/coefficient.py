"""What multiplies an expression: fixed entries, or those of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alignkit.expressions.arrays import is_sparse
from alignkit.expressions.curvature import Interval
from alignkit.expressions.expression import Expression, versions_of
from alignkit.expressions.leaf import entries_of
from alignkit.expressions.matrices import MovedMatrix

__all__ = ["Coefficient"]


class Coefficient:
    """The entries of a constant that multiplies an expression: fixed, or taken anew when a parameter in it changes.

    Arguments:
        constant: an expression without a variable.
        arrange: from its entries, an ndarray or csr array, to the matrix or the weights that are applied.
    """

    def __init__(self, constant: Expression, arrange: Callable[[Any], Any]) -> None:
        self.constant, self._arrange = constant, arrange
        self._transposed: tuple[Any, MovedMatrix] | None = None
        self._held: tuple[tuple[int, ...], Any, MovedMatrix] | None = None

    @property
    def bounds(self) -> Interval:
        """Bounds of the entries that hold for every value of the parameters."""
        return self.constant.range

    @property
    def is_fixed(self) -> bool:
        """True when no parameter is in it."""
        return not self.constant.parameters()

    @property
    def matrix(self) -> Any:
        """The present matrix or weights, as arranged."""
        return self._present()[1]

    @property
    def moved(self) -> MovedMatrix:
        """The present matrix, to be applied in any library."""
        return self._present()[2]

    @property
    def adjoint(self) -> MovedMatrix:
        """The transpose of the present matrix, to be applied in any library."""
        present = self._present()
        if self._transposed is None or self._transposed[0] is not present[1]:
            matrix = present[1].T
            self._transposed = present[1], MovedMatrix(matrix.tocsr() if is_sparse(matrix) else matrix)
        return self._transposed[1]

    def _present(self) -> tuple[tuple[int, ...], Any, MovedMatrix]:
        versions = versions_of(self.constant.parameters())
        if self._held is None or self._held[0] != versions:
            matrix = self._arrange(entries_of(self.constant))
            self._held = versions, matrix, MovedMatrix(matrix)
        return self._held
