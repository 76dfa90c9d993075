"""How large rows are, how many of them share a block, and how long they take."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignkit.expressions.arrays import is_sparse
from alignkit_cvxpy.costs import seconds_per_entry
from alignkit_cvxpy.penalty import Penalty
from alignkit_cvxpy.tree import Tree

__all__ = ["LARGEST_ENTRIES", "block_rows", "entries_of", "is_built_by_row", "seconds"]

#: Above this many conic variables a row would take minutes.
LARGEST_ENTRIES = 200_000
#: Conic variables of a block, about: more rows amortise cvxpy's overhead, but it compiles in time and memory that grow
#: with their square (0.04 s at 1,000, 0.4 s at 3,000, 4 s at 10,000).
_BLOCK_ENTRIES = 3000
_BLOCK_ROWS = 128
#: Above this a row is built and solved by itself, without parameters, which takes linear time.
_PARAMETRISED_ENTRIES = 6000
#: Measured on one core: seconds to compile, to call cvxpy once, and of Clarabel for each variable of a row and each
#: multiplication in the factorisation of a row's dense constraints, of which R takes a few times as many.
_SECONDS_TO_COMPILE = 0.06
_SECONDS_PER_CALL = 2e-3
_SECONDS_PER_ENTRY = 7e-6
_SECONDS_PER_PRODUCT = 6e-9
_PRODUCTS_OF_DISPLACEMENTS = 3
#: Of cvxpy for each variable of a row that is built by itself.
_SECONDS_TO_BUILD = 2e-5


def entries_of(tree: Tree, penalty: Penalty) -> int:
    """How many conic variables a row takes, about: its step, its links, and what their atoms and the cost add."""
    displaced = 0 if penalty.displacement is None else 2 * penalty.size
    return tree.dimension + 3 * tree.width + displaced


def is_built_by_row(tree: Tree, penalty: Penalty) -> bool:
    """Whether a row is too large for parameters."""
    return entries_of(tree, penalty) > _PARAMETRISED_ENTRIES


def block_rows(tree: Tree, penalty: Penalty, rows: int) -> int:
    """How many of so many rows to stack into a block: a power of 2, so that few programs are compiled."""
    largest = min(_BLOCK_ROWS, max(1, _BLOCK_ENTRIES // entries_of(tree, penalty)))
    wanted = min(largest, max(rows, 1))
    return 1 << (wanted - 1).bit_length() if wanted < largest else 1 << (largest.bit_length() - 1)


def seconds(tree: Tree, penalty: Penalty, rows: int) -> float:
    """How long so many rows take, compilation included, about."""
    calls = np.ceil(rows / block_rows(tree, penalty, rows))
    return float(_SECONDS_TO_COMPILE + calls * _SECONDS_PER_CALL + rows * _seconds_per_row(tree, penalty))


def _seconds_per_row(tree: Tree, penalty: Penalty) -> float:
    """What Clarabel takes for a row, and cvxpy where a row is built by itself."""
    found = (tree.dimension + 3 * tree.width) * _SECONDS_PER_ENTRY
    matrices = [link.matrix for link in tree.links] + [factor.matrix for factor in penalty.factors]
    products = sum(_products(matrix) for matrix in matrices if matrix is not None)
    if penalty.displacement is not None:
        found += penalty.size * seconds_per_entry(penalty.displacement.cost)
        if penalty.displacement.rows is not None:
            products += _PRODUCTS_OF_DISPLACEMENTS * _products(penalty.displacement.rows)
    if is_built_by_row(tree, penalty):
        found += entries_of(tree, penalty) * _SECONDS_TO_BUILD
    return found + products * _SECONDS_PER_PRODUCT


def _products(matrix: Any) -> float:
    """Multiplications that eliminating the rows of a matrix takes, about."""
    filled = matrix.nnz if is_sparse(matrix) else int(np.count_nonzero(matrix))
    rows, columns = sorted(matrix.shape)
    return float(filled * min(rows, filled / max(1, columns)))
