"""A subspace of R^d by orthonormal rows, dense or implicit."""

from __future__ import annotations

import math

import array_api_compat
import numpy as np

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, is_operator, is_sparse
from alignkit.expressions.matrices import Matrix, MovedMatrix

__all__ = ["Subspace"]


class Subspace:
    """Q, k×d with QQᵀ = I: coordinates w = Qx of a k-dimensional subspace of R^d.

    Made by `identity`, `dense`, `implicit` and `empty`.

    Example:
        >>> plane = Subspace.dense(np.eye(3)[:2])
        >>> plane.project(np.array([1.0, 2.0, 3.0]))
        array([1., 2.])
    """

    def __init__(self, dimension: int, ambient: int, maps: tuple[Matrix, ...]) -> None:
        self._dimension, self._ambient = int(dimension), int(ambient)
        self._maps = maps
        self._down = tuple(MovedMatrix(matrix) for matrix in maps)
        self._up = tuple(MovedMatrix(matrix.T) for matrix in reversed(maps))

    @classmethod
    def identity(cls, ambient: int) -> Subspace:
        """All of R^d, Q = I."""
        return cls(ambient, ambient, ())

    @classmethod
    def empty(cls, ambient: int) -> Subspace:
        """The zero subspace, k = 0."""
        return cls(0, ambient, ())

    @classmethod
    def dense(cls, basis: Floats) -> Subspace:
        """Q given by its rows.

        Arguments:
            basis: (k, d), float64, with orthonormal rows; kept, not copied.

        Raises:
            ShapeError: basis is not a matrix with 0 < k ≤ d.
        """
        if basis.ndim != 2 or not 0 < basis.shape[0] <= basis.shape[1]:
            raise ShapeError(f"A basis has shape (k, d) with 0 < k ≤ d, not {basis.shape}.")
        return cls(basis.shape[0], basis.shape[1], (basis,))

    @classmethod
    def implicit(cls, matrix: Matrix, factor: Floats) -> Subspace:
        """Q = factor @ matrix, never formed.

        Arguments:
            matrix: (k', d), scipy sparse or `LinearOperator`.
            factor: (k, k'), float64.

        Raises:
            ParameterError: matrix is dense.
            ShapeError: the two do not fit.
        """
        if not (is_sparse(matrix) or is_operator(matrix)):
            raise ParameterError("Subspace.implicit takes a sparse matrix or a LinearOperator; dense ones: .dense.")
        if factor.ndim != 2 or factor.shape[1] != matrix.shape[0]:
            raise ShapeError(f"The factor has shape {factor.shape}, the matrix {tuple(matrix.shape)}.")
        kept = matrix.tocsr() if is_sparse(matrix) else matrix
        return cls(factor.shape[0], matrix.shape[1], (kept, np.asarray(factor, dtype=np.float64)))

    @property
    def dimension(self) -> int:
        """k."""
        return self._dimension

    @property
    def ambient(self) -> int:
        """d."""
        return self._ambient

    @property
    def basis(self) -> Floats | None:
        """Q as a matrix (k, d) where it is kept as one; None where it is the identity, empty or implicit."""
        return np.asarray(self._maps[0]) if len(self._maps) == 1 else None

    @property
    def is_identity(self) -> bool:
        """True when Q is the identity as built."""
        return not self._maps and self._dimension > 0

    @property
    def is_implicit(self) -> bool:
        """True when Q is kept as a product with a sparse matrix or an operator."""
        return len(self._maps) == 2

    def project(self, x: Array) -> Array:
        """Coordinates w = Qx.

        Arguments:
            x: (..., d), numpy, torch or jax.

        Returns:
            (..., k), the same kind of array.

        Raises:
            ShapeError: the last axis of x is not d.
        """
        return self._apply(self._down, x, self._ambient, self._dimension)

    def embed(self, u: Array) -> Array:
        """Qᵀu, the point of the subspace with coordinates u.

        Arguments:
            u: (..., k), numpy, torch or jax.

        Returns:
            (..., d), the same kind of array.

        Raises:
            ShapeError: the last axis of u is not k.
        """
        return self._apply(self._up, u, self._dimension, self._ambient)

    def remove(self, vector: Floats) -> None:
        """Subtract from a vector its part in the subspace, in place: v ← v − QᵀQv.

        Arguments:
            vector: (d,), float64, writeable.
        """
        inside = self.project(vector)
        if not self._maps or not is_sparse(self._maps[0]):
            vector -= self.embed(inside)
            return
        # Piece by piece, so that no second vector of length d is needed, nor one of A's size.
        matrix, factor = self._maps
        for weight, start, end in zip(factor.T @ inside, matrix.indptr[:-1], matrix.indptr[1:], strict=True):
            step = max(int(end - start) // 16, 2048)
            for first in range(int(start), int(end), step):
                piece = slice(first, min(first + step, int(end)))
                vector[matrix.indices[piece]] -= weight * matrix.data[piece]

    def _apply(self, maps: tuple[MovedMatrix, ...], x: Array, width: int, result: int) -> Array:
        xp = array_api_compat.array_namespace(x)
        if x.ndim == 0 or x.shape[-1] != width:
            raise ShapeError(f"The last axis of {tuple(x.shape)} should have length {width}.")
        if not xp.isdtype(x.dtype, "real floating"):
            x = xp.astype(x, xp.float64)
        if self._dimension == 0:
            return xp.zeros((*x.shape[:-1], result), dtype=x.dtype, device=array_api_compat.device(x))
        if not maps:
            return x
        leading = tuple(x.shape[:-1])
        rows = xp.reshape(x, (math.prod(leading), width))
        for step in maps:
            rows = step.apply(xp, rows)
        return xp.reshape(rows, (*leading, result))

    def __repr__(self) -> str:
        kind = "identity" if self.is_identity else "implicit" if self.is_implicit else "dense"
        return f"Subspace({self._dimension} of {self._ambient}, {kind if self._dimension else 'empty'})"
