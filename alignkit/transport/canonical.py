"""Concave proximal problems in one shape that batched engines share: the proximal map of a convex φ of an affine map.

With H the Hessian of the quadratic summands and λI − H = LLᵀ, the change of variables y = Lᵀz turns

    max_z f(z) − (λ/2)‖z − v‖²     into     min_y ½‖y − c‖² + φ(By + b),     c = L⁻¹(λv + h),

up to a constant of each row, in the units of the reward; φ is a sum of blocks of few kinds. For any y, and any p,

    [½‖y − c‖² + φ(a)] − min ≤ φ(a) + φ*(p) − ⟨p, a⟩ + ½‖y − c + Bᵀp‖²,     a = By + b,

by Fenchel's inequality: a certificate for every row at no further pass over the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Floats, ProxProblem
from alignkit.expressions.arrays import is_operator, logsumexp
from alignkit.expressions.atoms.elementwise import Abs, Huber, Neg, Pos
from alignkit.expressions.atoms.exponential import Logistic
from alignkit.expressions.atoms.norms import Norm1, NormInf
from alignkit.expressions.atoms.order import LogSumExp, Max, Maximum, Min, Minimum
from alignkit.expressions.splitting import Split, Term, affine_over, split, spread

__all__ = [
    "Absolute",
    "Block",
    "HuberLoss",
    "LogisticLoss",
    "ProximalForm",
    "SoftMaximum",
    "TopOf",
    "Uncanonical",
    "canonical_form",
    "value_at_origin",
]

#: Rows of B below this, relative to its largest, do not depend on z.
_NEGLIGIBLE = 1e-13


@dataclass(frozen=True, eq=False)
class Absolute:
    """Σ_i weights_i·|a_i|.

    Arguments:
        weights: (m,), positive.
    """

    weights: Floats

    is_smooth = False

    def value(self, entries: Floats) -> Floats:
        """φ of rows a, (n, m) to (n,)."""
        return np.asarray(np.abs(entries) @ self.weights)


@dataclass(frozen=True, eq=False)
class TopOf:
    """weight·max_i a_i.

    Arguments:
        weight: positive.
    """

    weight: float

    is_smooth = False

    def value(self, entries: Floats) -> Floats:
        """φ of rows a, (n, m) to (n,)."""
        return np.asarray(self.weight * entries.max(axis=1))


@dataclass(frozen=True, eq=False)
class SoftMaximum:
    """weight·log Σ_i exp a_i.

    Arguments:
        weight: positive.
    """

    weight: float

    is_smooth = True

    def value(self, entries: Floats) -> Floats:
        """φ of rows a, (n, m) to (n,)."""
        return np.asarray(self.weight * logsumexp(np, entries, 1))


@dataclass(frozen=True, eq=False)
class HuberLoss:
    """Σ_i weights_i·h(a_i), h(t) = t² for |t| ≤ M and 2M|t| − M² beyond.

    Arguments:
        weights: (m,), positive.
        threshold: M.
    """

    weights: Floats
    threshold: float

    is_smooth = True

    def value(self, entries: Floats) -> Floats:
        """φ of rows a, (n, m) to (n,)."""
        size = np.abs(entries)
        inner = np.minimum(size, self.threshold)
        return np.asarray((inner * (2.0 * size - inner)) @ self.weights)


@dataclass(frozen=True, eq=False)
class LogisticLoss:
    """Σ_i weights_i·log(1 + exp a_i).

    Arguments:
        weights: (m,), positive.
    """

    weights: Floats

    is_smooth = True

    def value(self, entries: Floats) -> Floats:
        """φ of rows a, (n, m) to (n,)."""
        return np.asarray(np.logaddexp(0.0, entries) @ self.weights)


Block = Absolute | TopOf | SoftMaximum | HuberLoss | LogisticLoss


@dataclass(frozen=True)
class Uncanonical:
    """Why a problem has no canonical form.

    Arguments:
        reason: a sentence that names the summand.
    """

    reason: str


@dataclass(frozen=True, eq=False)
class ProximalForm:
    """min_y ½‖y − c‖² + Σ_j φ_j(B_j y + b_j), the proximal map of a sum of convex blocks.

    Arguments:
        matrix: B, the B_j stacked, (m, k).
        offset: b, (m,).
        blocks: the φ_j, no two of them non-smooth.
        sizes: how many rows of B each block has.
        factor: L, lower triangular, (k, k); None where H = 0 and L = √λ·I.
        vector: h, (k,).
        weight: λ.

    Example:
        >>> import numpy as np
        >>> from alignkit.expressions import Variable, norm1
        >>> form = canonical_form(ProxProblem(-norm1(Variable(2) - 1.0), weight=4.0, dimension=2, rows=1))
        >>> form.matrix.ravel(), form.offset, form.centres(np.array([[3.0, 5.0]]))
        (array([0.5, 0. , 0. , 0.5]), array([-1., -1.]), array([[ 6., 10.]]))
    """

    matrix: Floats
    offset: Floats
    blocks: tuple[Block, ...]
    sizes: tuple[int, ...]
    factor: Floats | None
    vector: Floats
    weight: float

    @property
    def dimension(self) -> int:
        """k."""
        return int(self.matrix.shape[1])

    @property
    def is_smooth(self) -> bool:
        """Whether every block is differentiable."""
        return all(block.is_smooth for block in self.blocks)

    @property
    def parts(self) -> tuple[tuple[Block, slice], ...]:
        """The blocks with their rows of B."""
        ends = np.cumsum(self.sizes)
        return tuple(
            (block, slice(int(end) - size, int(end)))
            for block, size, end in zip(self.blocks, self.sizes, ends, strict=True)
        )

    @cached_property
    def root(self) -> float:
        """√λ."""
        return math.sqrt(self.weight)

    @cached_property
    def _shift(self) -> Floats | None:
        """h/√λ; None where it is 0."""
        return self.vector / self.root if self.vector.any() else None

    def centres(self, points: Floats) -> Floats:
        """c of rows v, (n, k) to (n, k)."""
        if self.factor is None:
            centres = points * self.root
            # Adding one short row to many costs more than all the rest.
            return np.asarray(centres if self._shift is None else centres + self._shift)
        from scipy.linalg import solve_triangular

        right = self.weight * points + self.vector
        return np.asarray(solve_triangular(self.factor, right.T, lower=True).T)

    def maximisers(self, solutions: Floats) -> Floats:
        """z of rows y, (n, k) to (n, k)."""
        if self.factor is None:
            return np.asarray(solutions / self.root)
        from scipy.linalg import solve_triangular

        return np.asarray(solve_triangular(self.factor, solutions.T, lower=True, trans="T").T)

    def value(self, solutions: Floats) -> Floats:
        """φ(By + b) of rows y, (n, k) to (n,)."""
        entries = solutions @ self.matrix.T + self.offset
        return np.asarray(sum(block.value(entries[:, rows]) for block, rows in self.parts))


def value_at_origin(problem: ProxProblem) -> float:
    """f(0), which gives the constant that a form of f leaves out."""
    return float(np.asarray(problem.nonlinear.value(np.zeros((1, problem.dimension)))).item())


def canonical_form(problem: ProxProblem) -> ProximalForm | Uncanonical:
    """Write a proximal problem in canonical form.

    Arguments:
        problem: f as a sum of quadratics that λ dominates, of affine terms, and of concave `abs norm1 pos neg norm_inf
            max maximum min minimum log_sum_exp huber logistic` of affine arguments, of which at most one kind is
            not smooth.

    Returns:
        the form; or the summand that has none.
    """
    parts = split(problem.nonlinear)
    if parts.curved and not parts.has_small_hessian:
        return Uncanonical(f"the quadratic summands have a Hessian of size k = {parts.dimension}, too large to form")
    if not parts.is_dominated_by(problem.weight):
        return Uncanonical(
            f"λ = {problem.weight:.6g} does not exceed the largest curvature, {parts.critical_weight:.6g}"
        )
    gathered = _Gathered(parts)
    for term in parts.terms:
        reason = gathered.add(term)
        if reason is not None:
            return Uncanonical(f"{term.atom} {reason}")
    rough = [block for block in gathered.blocks if not block.is_smooth]
    if len(rough) > 1 or (rough and len(gathered.blocks) > 1):
        names = " and ".join(str(term.atom) for term in parts.terms[:3])
        return Uncanonical(f"{names} are of different kinds, and one of them has kinks")
    return gathered.finish(problem.weight)


class _Gathered:
    """The blocks found so far, over z; what is linear goes to the vector h."""

    def __init__(self, parts: Split) -> None:
        self.split = parts
        self.vector = parts.vector.copy()
        self.blocks: list[Block] = []
        self.rows: list[tuple[Floats, Floats]] = []

    def add(self, term: Term) -> str | None:
        """Add −⟨coefficients, atom⟩ to φ, or say why not."""
        atom = term.atom
        if not all(arg.is_affine() for arg in atom.args):
            return "has an argument that is not affine"
        if not term.bends(-1):
            return "is not concave"
        for kinds, rule in _RULES:
            if isinstance(atom, kinds):
                maps = [affine_over(arg, self.split.dimension) for arg in atom.args]
                if any(is_operator(inside.matrix) for inside in maps):
                    return "takes its argument from an operator"
                matrix = np.vstack([_dense(inside.matrix) for inside in maps])
                return rule(self, term, matrix, np.concatenate([inside.offset for inside in maps]))
        return f"has no batched proximal method here: {atom.name} is not one of its atoms"

    def put(self, block: Block, matrix: Floats, offset: Floats) -> None:
        """Add a block; blocks of absolute values are joined."""
        for at, other in enumerate(self.blocks):
            if isinstance(other, Absolute) and isinstance(block, Absolute):
                self.blocks[at] = Absolute(np.append(other.weights, block.weights))
                before = self.rows[at]
                self.rows[at] = np.vstack([before[0], matrix]), np.append(before[1], offset)
                return
        self.blocks.append(block)
        self.rows.append((matrix, offset))

    def finish(self, weight: float) -> ProximalForm:
        k = self.split.dimension
        matrix = np.vstack([rows for rows, _ in self.rows]) if self.rows else np.zeros((0, k))
        offset = np.concatenate([shift for _, shift in self.rows]) if self.rows else np.zeros(0)
        vector = self.vector
        factor: Floats | None = None
        if self.split.curved:
            from scipy.linalg import solve_triangular

            quadratic = self.split.quadratic
            vector = vector + (quadratic.vector - self.split.vector)
            factor = np.asarray(np.linalg.cholesky(weight * np.eye(k) - quadratic.matrix), dtype=np.float64)
            matrix = np.ascontiguousarray(solve_triangular(factor, matrix.T, lower=True).T)
        else:
            matrix = matrix / np.sqrt(weight)
        sizes = tuple(len(shift) for _, shift in self.rows)
        return ProximalForm(matrix, offset, tuple(self.blocks), sizes, factor, vector, float(weight))


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), dtype=np.float64)


def _add_absolute(gathered: _Gathered, term: Term, matrix: Floats, offset: Floats) -> None:
    _put_absolute(gathered, -spread(term.atom, term.coefficients), matrix, offset)


def _put_absolute(gathered: _Gathered, weights: Floats, matrix: Floats, offset: Floats) -> None:
    kept = (weights > 0) & (np.abs(matrix).max(axis=1, initial=0.0) > _NEGLIGIBLE * np.abs(matrix).max(initial=0.0))
    if kept.any():
        gathered.put(Absolute(weights[kept]), matrix[kept], offset[kept])


def _add_positive(gathered: _Gathered, term: Term, matrix: Floats, offset: Floats) -> None:
    """max(a, 0) = ½|a| + ½a."""
    sign = -1.0 if isinstance(term.atom, Neg) else 1.0
    weights = -spread(term.atom, term.coefficients)
    _put_absolute(gathered, 0.5 * weights, matrix, offset)
    gathered.vector -= 0.5 * sign * (weights @ matrix)


def _add_top(gathered: _Gathered, term: Term, matrix: Floats, offset: Floats) -> str | None:
    if term.atom.size != 1:
        return _SEVERAL
    sign = -1.0 if isinstance(term.atom, Min | Minimum) else 1.0
    matrix, offset = sign * matrix, sign * offset
    if isinstance(term.atom, NormInf):
        matrix, offset = np.vstack([matrix, -matrix]), np.concatenate([offset, -offset])
    weight = -sign * float(term.coefficients[0])
    if weight > 0:
        gathered.put(TopOf(weight), matrix, offset)
    return None


def _add_soft_maximum(gathered: _Gathered, term: Term, matrix: Floats, offset: Floats) -> str | None:
    if term.atom.size != 1:
        return _SEVERAL
    weight = -float(term.coefficients[0])
    if weight > 0:
        gathered.put(SoftMaximum(weight), matrix, offset)
    return None


def _add_huber(gathered: _Gathered, term: Term, matrix: Floats, offset: Floats) -> None:
    assert isinstance(term.atom, Huber)
    kept = term.coefficients < 0
    if kept.any():
        gathered.put(HuberLoss(-term.coefficients[kept], float(term.atom.M)), matrix[kept], offset[kept])


def _add_logistic(gathered: _Gathered, term: Term, matrix: Floats, offset: Floats) -> None:
    kept = term.coefficients < 0
    if kept.any():
        gathered.put(LogisticLoss(-term.coefficients[kept]), matrix[kept], offset[kept])


_SEVERAL = "has several entries"

#: Adds a term to the blocks, given its arguments as one stacked affine map, or says why not.
_Rule = Callable[[_Gathered, Term, Floats, Floats], str | None]

_RULES: tuple[tuple[tuple[type[Any], ...], _Rule], ...] = (
    ((Abs, Norm1), _add_absolute),
    ((Pos, Neg), _add_positive),
    ((Max, Min, Maximum, Minimum, NormInf), _add_top),
    ((LogSumExp,), _add_soft_maximum),
    ((Huber,), _add_huber),
    ((Logistic,), _add_logistic),
)
