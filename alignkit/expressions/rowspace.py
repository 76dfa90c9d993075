"""Orthonormal bases of the row space of stacked matrices: rank-revealing, and never of size d×d."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.expressions.arrays import Floats, is_operator, is_sparse
from alignkit.expressions.matrices import Matrix, row_norms
from alignkit.expressions.subspace import Subspace

__all__ = ["RowSpace", "row_space"]

#: Rows whose norm is below this times the scale of what they were computed from are rounding.
ROUNDING = 1e-13
#: Gram matrices lose half the digits: no finer dependence can be told from rounding.
GRAM_TOLERANCE = 3e-8
#: Squared distances below this, of rows of length 1, are not taken from a Gram matrix.
DOUBTFUL = 1e-11
#: Entries of a working block (8 MiB).
BLOCK = 2**20
#: Sparse or mixed stacks that fit in as many dense entries (1 MiB) are factorised densely, to full accuracy.
SMALL = 2**17


@dataclass(frozen=True, eq=False)
class RowSpace:
    """A basis Q of the row space of a stack A, with A ≈ coefficients @ Q.

    Arguments:
        subspace: Q, k×d.
        coefficients: (m, k).
        tolerance: the relative distance below which a row counted as dependent.
        zero: (m,), rows that are zero up to rounding.
        pivot: (m,), rows that span the others; k of them.
        norms: (m,), Euclidean norms of the rows.
    """

    subspace: Subspace
    coefficients: Floats
    tolerance: float
    zero: NDArray[np.bool_]
    pivot: NDArray[np.bool_]
    norms: Floats


def row_space(matrices: Sequence[Matrix], scales: Sequence[float], columns: int, tolerance: float) -> RowSpace:
    """Factorise the stack of some matrices.

    Arguments:
        matrices: each (m_i, d), ndarray, csr array or `LinearOperator`. Writeable ndarrays may be overwritten.
        scales: for each matrix, the magnitude of what its rows were computed from; rows that are rounding beside it
            count as zero.
        columns: d.
        tolerance: rows, normalised, that are closer to the span of the others count as dependent.

    Returns:
        The basis: explicit for dense stacks, implicit (a triangular factor times A) for sparse ones and operators.
    """
    dense = not any(is_operator(matrix) or is_sparse(matrix) for matrix in matrices)
    rows = sum(matrix.shape[0] for matrix in matrices)
    if not any(is_operator(matrix) for matrix in matrices) and (dense or rows * columns <= SMALL):
        return _dense_row_space(matrices, scales, tolerance)
    if any(is_operator(matrix) for matrix in matrices):
        return _implicit_row_space(_stacked_operator(matrices, columns), matrices, scales, tolerance)
    from scipy import sparse

    # A dense row beside sparse ones costs 1.5 times its memory as a sparse row.
    stack = matrices[0] if len(matrices) == 1 else sparse.vstack([sparse.csr_array(matrix) for matrix in matrices])
    return _implicit_row_space(sparse.csr_array(stack), matrices, scales, tolerance)


def _floors(matrices: Sequence[Matrix], scales: Sequence[float]) -> Floats:
    return np.concatenate(
        [np.full(matrix.shape[0], ROUNDING * scale) for matrix, scale in zip(matrices, scales, strict=True)]
    )


def _dense_row_space(matrices: Sequence[Matrix], scales: Sequence[float], tolerance: float) -> RowSpace:
    norms = np.concatenate([row_norms(matrix) for matrix in matrices])
    kept = norms > _floors(matrices, scales)
    columns = matrices[0].shape[1]
    if not kept.any():
        return RowSpace(Subspace.empty(columns), np.zeros((norms.size, 0)), tolerance, ~kept, kept, norms)
    rows = _stacked_rows(matrices, kept)
    rows /= norms[kept, None]
    # Summands that look at the same features repeat their rows, and the factorisation would take each time as long.
    firsts, same = _distinct(rows)
    if firsts.size < rows.shape[0]:
        rows = rows[firsts]
    from scipy.linalg import qr

    # The transpose of C-ordered rows is in Fortran order, so LAPACK works in place.
    basis, triangle, order = qr(rows.T, mode="economic", pivoting=True, overwrite_a=True, check_finite=False)
    pivots = np.abs(np.diagonal(triangle))
    rank = int((pivots > tolerance * pivots[0]).sum())
    basis, triangle = basis[:, :rank].T, triangle[:rank]
    signs = np.where(np.diagonal(triangle) < 0, -1.0, 1.0)
    if (signs < 0).any():
        basis *= signs[:, None]
        triangle = triangle * signs[:, None]
    inner = np.empty((rows.shape[0], rank))
    inner[order] = triangle.T
    # Orthogonal rows keep their order, so that an atom that is separable in them stays separable.
    place = np.argsort(order[:rank])
    if not np.array_equal(place, np.arange(rank)) and _is_diagonal(inner[np.sort(order[:rank])][:, place]):
        basis, inner = np.ascontiguousarray(basis[place]), inner[:, place]
    inner[np.abs(inner) < 1e-15] = 0.0
    coefficients = np.zeros((norms.size, rank))
    coefficients[kept] = inner[same] * norms[kept, None]
    pivot = np.zeros(norms.size, dtype=bool)
    pivot[np.flatnonzero(kept)[firsts[order[:rank]]]] = True
    return RowSpace(Subspace.dense(basis), coefficients, tolerance, ~kept, pivot, norms)


def _distinct(rows: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each kind, (j,), and for every row its place among these, (m,)."""
    samples = np.ascontiguousarray(rows[:, np.linspace(0, rows.shape[1] - 1, num=8, dtype=np.int64)])
    firsts: list[int] = []
    seen: dict[bytes, int] = {}
    same = np.empty(rows.shape[0], dtype=np.int64)
    for number, sample in enumerate(samples):
        place = seen.get(sample.tobytes())
        if place is None or not np.array_equal(rows[firsts[place]], rows[number]):
            place = len(firsts)
            seen.setdefault(sample.tobytes(), place)
            firsts.append(number)
        same[number] = place
    return np.array(firsts), same


def _is_diagonal(matrix: Floats) -> bool:
    return bool((np.abs(matrix - np.diag(np.diagonal(matrix))) < 1e-15).all())


def _stacked_rows(matrices: Sequence[Matrix], kept: Any) -> Floats:
    if len(matrices) == 1 and isinstance(matrices[0], np.ndarray) and matrices[0].flags.writeable and kept.all():
        return np.ascontiguousarray(matrices[0])
    rows = np.empty((int(kept.sum()), matrices[0].shape[1]))
    start = place = 0
    for matrix in matrices:
        mask = kept[place : place + matrix.shape[0]]
        count = int(mask.sum())
        chosen = matrix if count == matrix.shape[0] else matrix[np.flatnonzero(mask)]
        rows[start : start + count] = chosen.toarray() if is_sparse(chosen) else chosen
        start, place = start + count, place + matrix.shape[0]
    return rows


def _stacked_operator(matrices: Sequence[Matrix], columns: int) -> Any:
    from scipy.sparse.linalg import LinearOperator, aslinearoperator

    parts = [aslinearoperator(matrix) for matrix in matrices]
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([part.shape[0] for part in parts])[:-1]

    def forward(x: Any) -> Any:
        return np.concatenate([part.matmat(x) for part in parts])

    def adjoint(y: Any) -> Any:
        return sum(part.rmatmat(piece) for part, piece in zip(parts, np.split(y, ends), strict=True))

    return LinearOperator(
        (sum(part.shape[0] for part in parts), columns),
        matvec=lambda x: forward(x.reshape(-1, 1)).ravel(),
        rmatvec=lambda y: adjoint(y.reshape(-1, 1)).ravel(),
        matmat=forward,
        rmatmat=adjoint,
        dtype=np.float64,
    )


def _implicit_row_space(
    stack: Matrix, matrices: Sequence[Matrix], scales: Sequence[float], tolerance: float
) -> RowSpace:
    count, columns = stack.shape
    tolerance = max(tolerance, GRAM_TOLERANCE)
    gram = _sparse_gram(stack) if is_sparse(stack) else _gram(stack, np.eye(count))
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    zero = norms <= _floors(matrices, scales)
    pivot = np.zeros(count, dtype=bool)
    kept = np.flatnonzero(~zero)
    if kept.size == 0:
        return RowSpace(Subspace.empty(columns), np.zeros((count, 0)), tolerance, zero, pivot, norms)
    weights = 1.0 / norms[kept]

    def squared_length(combination: Floats) -> float:
        whole = np.zeros((1, count))
        whole[0, kept] = combination * weights
        return float(_gram(stack, whole)[0, 0])

    chosen = _independent_rows(gram[np.ix_(kept, kept)] * np.outer(weights, weights), tolerance, squared_length)
    factor = np.zeros((chosen.size, count))
    factor[np.arange(chosen.size), kept[chosen]] = weights[chosen]
    # Twice, as in CholeskyQR2: the first factor's rounding grows with the square of the rows' condition number.
    for again in (False, True):
        inner = _gram(stack, factor) if again else factor @ gram @ factor.T
        triangle = np.linalg.cholesky((inner + inner.T) / 2.0)
        conditioned = bool(np.diagonal(triangle).min() > 0.1)
        factor = np.linalg.solve(triangle, factor)
        if conditioned:
            break
    coefficients = gram @ factor.T
    coefficients[np.abs(coefficients) < 1e-15 * norms[:, None]] = 0.0
    coefficients[zero] = 0.0
    pivot[kept[chosen]] = True
    return RowSpace(Subspace.implicit(stack, factor), coefficients, tolerance, zero, pivot, norms)


def _independent_rows(gram: Floats, tolerance: float, squared_length: Callable[[Floats], float]) -> Any:
    """Rows chosen by Cholesky's factorisation with complete pivoting, in ascending order.

    Arguments:
        gram: of rows of length 1, (m, m).
        tolerance: the distance from the span of the others below which a row counts as dependent.
        squared_length: of a combination of the rows, given its coefficients (m,).
    """
    residual = np.diagonal(gram).copy()
    columns: list[Floats] = []
    chosen: list[int] = []
    while residual.max() > tolerance**2:
        pivot = int(np.argmax(residual))
        if residual[pivot] <= DOUBTFUL:
            # What is left of 1 is made of rounding in good part: measured directly, it is not.
            combination = np.zeros(gram.shape[0])
            combination[pivot] = 1.0
            combination[chosen] = -np.linalg.solve(gram[np.ix_(chosen, chosen)], gram[chosen, pivot])
            residual[pivot] = squared_length(combination)
            if residual[pivot] <= tolerance**2:
                residual[pivot] = 0.0
                continue
        column = gram[:, pivot] - sum((done * done[pivot] for done in columns), np.zeros(gram.shape[0]))
        column = column / math.sqrt(residual[pivot])
        columns.append(column)
        chosen.append(pivot)
        residual = np.where(residual > 0.0, np.maximum(residual - column**2, 0.0), 0.0)
        residual[chosen] = 0.0
    return np.sort(np.array(chosen))


def _gram(stack: Matrix, factor: Floats) -> Floats:
    """(factor A)(factor A)ᵀ, by a few rows at a time: no dense copy of A."""
    count = factor.shape[0]
    total = np.zeros((count, count))
    width = max(BLOCK * 4 // stack.shape[1], 1)
    for start in range(0, count, width):
        combined = np.ascontiguousarray(factor[start : start + width].T)
        if is_sparse(stack):
            total[:, start : start + width] = factor @ (stack @ (stack.T @ combined))
        else:
            total[:, start : start + width] = factor @ stack.matmat(stack.rmatmat(combined))
    return (total + total.T) / 2.0


def _sparse_gram(stack: Any) -> Floats:
    """AAᵀ for a csr array, row by row for a few rows: scipy's product would first copy the transpose."""
    count = stack.shape[0]
    if count > 32:
        return np.asarray((stack @ stack.T).toarray())
    stack.sort_indices()
    ends = stack.indptr
    rows = [(stack.indices[start:end], stack.data[start:end]) for start, end in pairwise(ends)]
    total = np.empty((count, count))
    for first in range(count):
        for second in range(first + 1):
            total[first, second] = total[second, first] = _sparse_dot(rows[first], rows[second])
    return total


def _sparse_dot(first: tuple[Any, Floats], second: tuple[Any, Floats]) -> float:
    places, weights = first
    if np.array_equal(places, second[0]):
        return float(weights @ second[1])
    total, step = 0.0, max(places.size // 16, 2048)
    for start in range(0, second[0].size if places.size else 0, step):
        wanted = second[0][start : start + step]
        found = np.searchsorted(places, wanted)
        np.minimum(found, places.size - 1, out=found)
        hit = places[found] == wanted
        total += float(weights[found[hit]] @ second[1][start : start + step][hit])
    return total
