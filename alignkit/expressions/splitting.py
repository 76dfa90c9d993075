"""The quadratic part of a reward, recognised exactly from its structure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.expressions.arrays import Floats, is_operator, is_sparse
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import Square
from alignkit.expressions.atoms.quadratic import QuadForm, SumSquares
from alignkit.expressions.expression import Expression, versions_of
from alignkit.expressions.leaf import Variable
from alignkit.expressions.linear import AffineMap, linear_form
from alignkit.expressions.matrices import identity, only_row

__all__ = [
    "LARGEST_HESSIAN",
    "Curved",
    "Quadratic",
    "Split",
    "Term",
    "affine_over",
    "quadratic_form",
    "split",
    "spread",
]

#: Largest k for which a k×k Hessian is formed and decomposed.
LARGEST_HESSIAN = 2048
#: Largest matrix an operator is turned into, in entries (512 MB).
_LARGEST_DENSE = 2**26
#: λ must exceed λ_max(H) by this, relative to λ, for the factor of λI − H to be accurate.
_MARGIN = 1e-10


@dataclass(frozen=True, eq=False)
class Quadratic:
    """A quadratic q(w) = ½⟨w, Hw⟩ + ⟨h, w⟩ + c on R^k.

    Arguments:
        matrix: H, (k, k), symmetric, float64.
        vector: h, (k,).
        constant: c.
    """

    matrix: Floats
    vector: Floats
    constant: float

    def value(self, points: Floats) -> Floats:
        """q at each row of `points`, (n, k) to (n,)."""
        curved = 0.5 * np.einsum("ni,ni->n", points @ self.matrix, points)
        return np.asarray(curved + points @ self.vector + self.constant)


@dataclass(frozen=True, eq=False)
class Term:
    """⟨coefficients, vec(atom)⟩, one summand of a reward.

    Arguments:
        atom: a nonlinear node.
        coefficients: (atom.size,), float64.
    """

    atom: Atom
    coefficients: Floats

    def bends(self, direction: int) -> bool:
        """Whether the summand is proved convex (direction 1) or concave (−1)."""
        up, down = self.atom.is_convex(), self.atom.is_concave()
        signs = direction * self.coefficients
        return bool((up or (signs <= 0).all()) and (down or (signs >= 0).all()))


@dataclass(frozen=True, eq=False)
class Curved:
    """⟨a, Wa⟩ for an affine a = Mw + b: a summand that is quadratic.

    Arguments:
        atom: the node it comes from, for messages.
        inside: a as a map of w, M (m, k) and b (m,).
        weights: W, as its diagonal (m,), or in full (m, m), ndarray or csr array.
        is_concave: whether W is proved negative semidefinite.
    """

    atom: Atom
    inside: AffineMap
    weights: Any
    is_concave: bool

    def weigh(self, entries: Any) -> Any:
        """W @ entries, for entries (m,) or (m, j)."""
        if self.weights.ndim == 2:
            return self.weights @ entries
        return self.weights * entries if entries.ndim == 1 else self.weights[:, None] * entries

    def hessian(self) -> Floats:
        """2MᵀWM, (k, k)."""
        matrix = self.inside.matrix
        if is_operator(matrix):
            matrix = np.asarray(matrix @ np.eye(matrix.shape[1]))
        if is_sparse(matrix):
            from scipy import sparse

            weights = self.weights if self.weights.ndim == 2 else sparse.diags_array(self.weights)
            product = matrix.T @ (weights @ matrix)
            return 2.0 * np.asarray(product.toarray() if is_sparse(product) else product)
        return 2.0 * np.asarray(matrix.T @ self.weigh(matrix))

    def gradient_at_zero(self) -> Floats:
        """2MᵀWb, (k,)."""
        return 2.0 * np.asarray(self.inside.matrix.T @ self.weigh(self.inside.offset)).ravel()

    def value_at_zero(self) -> float:
        """⟨b, Wb⟩."""
        return float(self.inside.offset @ self.weigh(self.inside.offset))


@dataclass(frozen=True, eq=False)
class Split:
    """f = Σ curved + Σ terms + ⟨vector, w⟩ + constant: what is exactly quadratic, and the rest.

    Arguments:
        dimension: k.
        curved: the quadratic summands.
        terms: the other nonlinear summands.
        vector: (k,).
        constant: a number.
    """

    dimension: int
    curved: tuple[Curved, ...]
    terms: tuple[Term, ...]
    vector: Floats
    constant: float

    @property
    def has_small_hessian(self) -> bool:
        """Whether the Hessian of the quadratic part may be formed."""
        largest = max((part.inside.offset.size for part in self.curved if is_operator(part.inside.matrix)), default=0)
        return self.dimension <= LARGEST_HESSIAN and largest * self.dimension <= _LARGEST_DENSE

    @cached_property
    def quadratic(self) -> Quadratic:
        """The quadratic part with the affine one, formed; only where `has_small_hessian`."""
        matrix = np.zeros((self.dimension, self.dimension))
        vector, constant = self.vector.copy(), self.constant
        for part in self.curved:
            matrix += part.hessian()
            vector += part.gradient_at_zero()
            constant += part.value_at_zero()
        return Quadratic((matrix + matrix.T) / 2.0, vector, constant)

    @property
    def critical_weight(self) -> float:
        """λ_max of the quadratic part's Hessian, or 0 where it is negative: the least λ that dominates it."""
        if all(part.is_concave for part in self.curved):
            return 0.0
        return max(0.0, self.steepest[0])

    def is_dominated_by(self, weight: float) -> bool:
        """Whether λ = `weight` exceeds the critical one by enough for an accurate solve."""
        return self.critical_weight < weight * (1 - _MARGIN)

    @cached_property
    def steepest(self) -> tuple[float, Floats]:
        """The largest eigenvalue of the quadratic part's Hessian, and a unit eigenvector (k,)."""
        diagonal = self._diagonal()
        if diagonal is not None:
            place = int(np.argmax(diagonal))
            return float(diagonal[place]), np.eye(1, self.dimension, place)[0]
        if self.has_small_hessian:
            values, vectors = np.linalg.eigh(self.quadratic.matrix)
            return float(values[-1]), vectors[:, -1]
        from scipy.sparse.linalg import LinearOperator, eigsh

        def apply(direction: Floats) -> Floats:
            direction = np.ravel(direction)
            total = np.zeros(self.dimension)
            for part in self.curved:
                total += 2.0 * np.ravel(part.inside.matrix.T @ part.weigh(np.ravel(part.inside.matrix @ direction)))
            return total

        operator = LinearOperator((self.dimension, self.dimension), matvec=apply, dtype=np.float64)
        # A fixed start, so that the same problem gets the same answer.
        start = np.random.default_rng(0).standard_normal(self.dimension)
        values, vectors = eigsh(operator, k=1, which="LA", tol=1e-10, v0=start)
        return float(values[0]), vectors[:, 0]

    def _diagonal(self) -> Floats | None:
        """The Hessian's diagonal where no square mixes coordinates, and so there is nothing else; (k,)."""
        total = np.zeros(self.dimension)
        for part in self.curved:
            matrix = part.inside.matrix
            if part.weights.ndim > 1 or not is_sparse(matrix) or int(np.diff(matrix.indptr).max()) > 1:
                return None
            total += 2.0 * (matrix.multiply(matrix).T @ part.weights)
        return total


def split(nonlinear: Expression) -> Split:
    """Separate the summands of a scalar expression into quadratic ones and others.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).

    Returns:
        f as a sum; every `square`, `sum_squares` and `quad_form` of an affine argument is among its quadratics.

    Example:
        >>> from alignkit.expressions import Variable, norm1, sum_squares
        >>> w = Variable(3)
        >>> parts = split(sum_squares(w) - norm1(w) + w[0])
        >>> len(parts.curved), len(parts.terms), parts.critical_weight
        (1, 1, 2.0)
    """
    # The compiler and every backend that bids split the same f.
    versions = versions_of(nonlinear.parameters())
    kept: tuple[tuple[int, ...], Split] | None = nonlinear.__dict__.get("_split")
    if kept is None or kept[0] != versions:
        kept = versions, _split(nonlinear)
        nonlinear.__dict__["_split"] = kept
    return kept[1]


def _split(nonlinear: Expression) -> Split:
    form = linear_form(nonlinear)
    dimension = nonlinear.variables()[0].size
    vector = np.zeros(dimension)
    curved: list[Curved] = []
    terms: list[Term] = []
    for node, matrix in form.parts:
        coefficients = only_row(matrix, node.size)
        if isinstance(node, Variable):
            vector += coefficients
            continue
        assert isinstance(node, Atom)
        if isinstance(node, Square | SumSquares | QuadForm) and node.args[0].is_affine():
            weights = coefficients[0] * node.P if isinstance(node, QuadForm) else spread(node, coefficients)
            curved.append(
                Curved(node, affine_over(node.args[0], dimension), weights, Term(node, coefficients).bends(-1))
            )
        else:
            terms.append(Term(node, coefficients))
    return Split(dimension, tuple(curved), tuple(terms), vector, float(form.offset[0]))


def affine_over(expression: Expression, dimension: int) -> AffineMap:
    """The affine map of an expression of a variable of size `dimension`, zero for constants."""
    form = linear_form(expression)
    if not form.parts:
        from scipy import sparse

        return AffineMap(sparse.csr_array((expression.size, dimension)), form.offset)
    matrix = form.parts[0][1]
    return AffineMap(identity(dimension) if matrix is None else matrix, form.offset)


def spread(atom: Atom, coefficients: Floats) -> Floats:
    """The coefficient of each entry of a reduction's argument, as for Σ c_j Σ_{i in group j} φ(a_i); (arg.size,)."""
    arg = atom.args[0]
    if atom.shape == arg.shape:
        return coefficients
    axes = tuple(range(arg.ndim)) if atom.axis is None else atom.axis
    return np.broadcast_to(np.expand_dims(coefficients.reshape(atom.shape), axes), arg.shape).ravel()


def quadratic_form(nonlinear: Expression) -> Quadratic | None:
    """The quadratic an expression is, recognised by structure.

    Arguments:
        nonlinear: f, a scalar expression of one variable of shape (k,).

    Returns:
        H, h and c with f(w) = ½⟨w, Hw⟩ + ⟨h, w⟩ + c; None when f has other terms, or when k is above
        `LARGEST_HESSIAN`.

    Example:
        >>> from alignkit.expressions import Variable, sum_squares
        >>> quadratic_form(3 * sum_squares(Variable(2))).matrix
        array([[6., 0.],
               [0., 6.]])
    """
    parts = split(nonlinear)
    return None if parts.terms or not parts.has_small_hessian else parts.quadratic
