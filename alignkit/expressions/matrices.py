"""The algebra of linear parts: None (the identity), dense, sparse and operator matrices, without densifying.

A `Matrix` is an ndarray (m, d), a scipy csr array, or a scipy `LinearOperator`; None stands for an identity whose size
the caller knows.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from alignkit.expressions.arrays import (
    Array,
    Floats,
    MovedConstant,
    constant_like,
    integers_like,
    is_operator,
    is_sparse,
    to_numpy,
)

__all__ = ["Factor", "Matrix", "MovedMatrix", "identity", "plus", "times"]

Matrix: TypeAlias = Any
Factor: TypeAlias = Any

#: Largest dense product formed from smaller inputs, in entries (128 MiB); beyond it products stay unevaluated.
LARGEST_PRODUCT = 2**24
#: Gram matrices whose entries are all below this, or some above its inverse, are computed from scaled entries.
SMALLEST_SQUARE = 1e-250
#: Work allowed for an exact spectral norm, in multiplications.
EXACT_NORM_WORK = 4e9


def identity(size: int) -> Matrix:
    """The identity as a csr array."""
    from scipy import sparse

    return sparse.eye_array(size, format="csr")


def times(left: Matrix | None, right: Matrix | None) -> Matrix | None:
    """left @ right: sparse where that is smaller, an operator where a dense product would be large."""
    if left is None:
        return right
    if right is None:
        return left
    if is_operator(left) or is_operator(right):
        return _as_operator(left) @ _as_operator(right)
    rows, columns = left.shape[0], right.shape[1]
    if is_sparse(left) and is_sparse(right):
        return (left @ right).tocsr()
    if is_sparse(right) and 1.5 * right.nnz <= columns:
        # Each row of the product has at most the pattern of all rows together.
        from scipy import sparse

        return (sparse.csr_array(left) @ right).tocsr()
    if rows * columns > max(LARGEST_PRODUCT, 4 * (_entries(left) + _entries(right))):
        return _as_operator(left) @ _as_operator(right)
    if is_sparse(right):
        return np.ascontiguousarray((right.T @ left.T).T)
    return np.asarray(left @ right)


def plus(left: Matrix | None, right: Matrix | None, size: int) -> Matrix:
    """left + right, where None is the identity of the given size."""
    left = identity(size) if left is None else left
    right = identity(size) if right is None else right
    if is_operator(left) or is_operator(right):
        return _as_operator(left) + _as_operator(right)
    if is_sparse(left) and is_sparse(right):
        return (left + right).tocsr()
    if is_sparse(left):
        left, right = right, left
    if is_sparse(right):
        total = left.copy()
        coordinates = right.tocoo()
        total[coordinates.row, coordinates.col] += coordinates.data
        return total
    return np.asarray(left + right)


def _as_operator(matrix: Matrix) -> Any:
    from scipy.sparse.linalg import aslinearoperator

    return aslinearoperator(matrix)


def _entries(matrix: Matrix) -> int:
    return int(matrix.nnz) if is_sparse(matrix) else int(np.prod(matrix.shape))


def entry_bounds(matrix: Matrix | None) -> tuple[float, float]:
    """The least and the greatest entry, or (−inf, inf) for operators."""
    if matrix is None:
        return 0.0, 1.0
    if is_operator(matrix):
        return -math.inf, math.inf
    if is_sparse(matrix):
        data = matrix.data
        lower = float(data.min()) if data.size else 0.0
        upper = float(data.max()) if data.size else 0.0
        return min(lower, 0.0), max(upper, 0.0)
    return float(matrix.min()), float(matrix.max())


def row_bounds(matrix: Matrix | None, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
    """Bounds of matrix @ v over lower ≤ v ≤ upper, row by row; scalars where nothing better is known."""
    if matrix is None:
        return lower, upper
    free = np.asarray(-math.inf), np.asarray(math.inf)
    if is_operator(matrix):
        return free
    size = matrix.shape[1]
    lower, upper = np.broadcast_to(lower, size), np.broadcast_to(upper, size)
    if np.isneginf(lower).all() and np.isposinf(upper).all():
        return free
    return _least(matrix, lower, upper), -_least(matrix, -upper, -lower)


def _least(matrix: Matrix, lower: Floats, upper: Floats) -> Floats:
    positive, negative = (
        (matrix.maximum(0), -matrix.minimum(0))
        if is_sparse(matrix)
        else (np.maximum(matrix, 0), -np.minimum(matrix, 0))
    )
    finite_lower, finite_upper = (np.where(np.isfinite(bound), bound, 0.0) for bound in (lower, upper))
    least = positive @ finite_lower - negative @ finite_upper
    falls = positive @ np.isneginf(lower).astype(float) + negative @ np.isposinf(upper).astype(float)
    return np.asarray(np.where(falls > 0, -math.inf, least))


def row_norms(matrix: Matrix | None) -> Floats | None:
    """Euclidean norms of the rows, or None for operators."""
    if matrix is None:
        return np.ones(1)
    if is_operator(matrix):
        return None
    if is_sparse(matrix):
        return np.asarray(np.sqrt(matrix.multiply(matrix).sum(axis=1))).ravel()
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", matrix, matrix)))


def row_of(matrix: Matrix, place: int) -> Floats:
    """One row, (d,), dense."""
    if is_operator(matrix):
        return np.ravel(matrix.T @ np.eye(1, matrix.shape[0], place)[0])
    row = matrix[[place]]
    return np.asarray(row.toarray() if is_sparse(row) else row, dtype=np.float64).ravel()


def only_row(matrix: Matrix | None, size: int) -> Floats:
    """The row of a 1×size matrix of any kind, (size,), as a new vector; None is the identity of a single entry."""
    if matrix is None:
        return np.ones(size)
    if is_operator(matrix):
        return np.array(matrix.rmatvec(np.ones(1)), dtype=np.float64).ravel()
    return matrix.toarray().ravel() if is_sparse(matrix) else np.array(matrix, dtype=np.float64).ravel()


def norm_bound(matrix: Matrix | None) -> float:
    """An upper bound of ‖matrix‖₂: exact for small Gram matrices, else Frobenius or √(‖·‖₁‖·‖∞).

    Operators are exact up to 16 rows or columns, and unknown (inf) beyond.
    """
    if matrix is None:
        return 1.0
    rows, columns = matrix.shape
    side = min(rows, columns)
    if is_operator(matrix):
        return _operator_norm(matrix) if side <= 16 else math.inf
    if is_sparse(matrix):
        magnitude = abs(matrix)
        crude = math.sqrt(float(magnitude.sum(axis=0).max()) * float(magnitude.sum(axis=1).max()))
        if side > 256:
            return min(crude, math.sqrt(float((matrix.data**2).sum())))
        gram = (matrix @ matrix.T if rows <= columns else matrix.T @ matrix).toarray()
        return _largest_singular(gram, matrix)
    if side == 1:
        return float(np.linalg.norm(matrix))
    if side <= 256 and float(side) * side * max(rows, columns) <= EXACT_NORM_WORK:
        with np.errstate(over="ignore"):
            return _largest_singular(matrix @ matrix.T if rows <= columns else matrix.T @ matrix, matrix)
    magnitude = np.abs(matrix)
    return min(
        float(np.linalg.norm(matrix)),
        math.sqrt(float(magnitude.sum(axis=0).max()) * float(magnitude.sum(axis=1).max())),
    )


def _largest_singular(gram: Floats, matrix: Matrix) -> float:
    scale = float(np.abs(gram).max())
    if not SMALLEST_SQUARE < scale < 1.0 / SMALLEST_SQUARE:
        # Squares of entries as small or as large as these have lost their digits.
        peak = float(abs(matrix).max())
        return peak * norm_bound(matrix / peak) if 0.0 < peak < math.inf else peak
    return math.sqrt(max(float(np.linalg.eigvalsh(gram)[-1]), 0.0))


def _operator_norm(operator: Any) -> float:
    rows, columns = operator.shape
    if rows <= columns:
        return norm_bound(np.ascontiguousarray(operator.rmatmat(np.eye(rows)).T))
    return norm_bound(operator.matmat(np.eye(columns)))


class MovedMatrix:
    """A matrix applied to batches of vectors in numpy, torch and jax.

    Arguments:
        matrix: (m, d), ndarray, csr array or `LinearOperator`.

    Sparse matrices become gathers off numpy (padded rows of indices and weights), as the standard has no sparse arrays;
    operators run on the host and carry torch's autograd by their adjoint.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self._moved: MovedConstant | None = None
        self._padded: tuple[MovedConstant, Any] | None = None

    def apply(self, xp: Any, values: Array) -> Array:
        """Rows of `values` (n, d) to rows (n, m)."""
        if is_operator(self.matrix):
            return _apply_operator(xp, self.matrix, values)
        if is_sparse(self.matrix):
            if isinstance(values, np.ndarray):
                product = (self.matrix @ values.T).T
                return np.asarray(product, dtype=values.dtype)
            weights, indices = self._gather()
            if indices is not None:
                taken = xp.take(values, integers_like(indices, values), axis=1)
                taken = xp.reshape(taken, (values.shape[0], self.matrix.shape[0], -1))
                return xp.sum(taken * weights.like(values), axis=-1)
            return values @ weights.like(values).T
        return values @ self.like(values).T

    def like(self, x: Array) -> Array:
        """A dense matrix, or an array of any shape, in x's namespace, device and dtype."""
        if self._moved is None:
            self._moved = MovedConstant(self.matrix)
        return self._moved.like(x)

    def _gather(self) -> tuple[MovedConstant, Any]:
        if self._padded is None:
            matrix = self.matrix.tocsr()
            counts = np.diff(matrix.indptr)
            width = max(int(counts.max()), 1)
            if width * matrix.shape[0] * 2 >= _dense_size(matrix):
                self._padded = MovedConstant(matrix.toarray()), None
            else:
                weights = np.zeros((matrix.shape[0], width))
                indices = np.zeros((matrix.shape[0], width), dtype=np.int64)
                filled = np.arange(width) < counts[:, None]
                weights[filled], indices[filled] = matrix.data, matrix.indices
                self._padded = MovedConstant(weights), indices.ravel()
        return self._padded


def _dense_size(matrix: Matrix) -> int:
    return int(matrix.shape[0]) * int(matrix.shape[1])


def _apply_operator(xp: Any, operator: Any, values: Array) -> Array:
    def forward(batch: Array) -> Array:
        return _on_host(xp, operator.matmat, batch)

    def adjoint(batch: Array) -> Array:
        return _on_host(xp, operator.rmatmat, batch)

    if not getattr(values, "requires_grad", False):
        return forward(values)

    class Applied(xp.autograd.Function):  # type: ignore[misc]
        """The operator with its adjoint as derivative."""

        @staticmethod
        def forward(ctx: Any, batch: Array) -> Array:
            return forward(batch)

        @staticmethod
        def backward(ctx: Any, gradient: Array) -> Array:
            return adjoint(gradient)

    return Applied.apply(values)


def _on_host(xp: Any, function: Any, batch: Array) -> Array:
    host = np.asarray(to_numpy(batch), dtype=np.float64)
    return constant_like(np.ascontiguousarray(np.asarray(function(host.T)).T), batch)
