"""How rows of R^d become points of the reduced problem, and how its displacements come back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Composition, Displacement, Floats
from alignkit.errors import ShapeError, UnboundedTransportError
from alignkit.expressions import Expression, Subspace, Variable, as_expression
from alignkit.expressions.atom import substitute
from alignkit.transport.costs import Cost, Euclidean, Quadratic, SquaredEuclidean

__all__ = ["Lift", "lift"]


@dataclass(frozen=True, eq=False)
class Lift:
    """The reduced problem's place in R^d: v = Dx + offset, y = x + shift + Eᵀu.

    u is the displacement of the reduced problem: z − v for quadratic costs, δ for others.

    Arguments:
        nonlinear: the reduced f; None where nothing is left to solve.
        displacement: the reduced penalty, for costs that are not quadratic.
        subspace: Q.
        down: D, (k, d), where Q is a matrix; None where D = Q is implicit or the identity.
        offset: (k,).
        up: E, (m, d); None for Q itself where that is no matrix, or for the identity where there is a displacement.
        shift: (d,), what every row moves by.
        constant: what the shift earns, in units of reward: the objective is f(z) − (λ/2)‖u‖² + ⟨g, x⟩ + constant.
        shift_cost: c(x, x + shift).
    """

    nonlinear: Expression | None
    displacement: Displacement | None
    subspace: Subspace
    down: Floats | None
    offset: Floats
    up: Floats | None
    shift: Floats
    constant: float = 0.0
    shift_cost: float = 0.0

    @cached_property
    def has_offset(self) -> bool:
        """Whether the offset is not 0."""
        return bool(self.offset.any())

    def embed(self, displacements: Any) -> Any:
        """Eᵀu of rows u, (n, m) to (n, d), where E is no matrix; any library, dtype and device."""
        return displacements if self.displacement is not None else self.subspace.embed(displacements)


def lift(composition: Composition, weight: float, cost: Cost) -> Lift:
    """Reduce a reward under a cost; see `alignkit.transport.costs` for why each reduction is right.

    Arguments:
        composition: r(x) = f(Qx) + ⟨g, x⟩ + c₀.
        weight: λ.
        cost: c.

    Raises:
        ShapeError: the cost is for points of another size.
        UnboundedTransportError: the reward is affine and outgrows λ times the cost.
    """
    if cost.ambient not in (None, composition.ambient):
        raise ShapeError(
            f"{type(cost).__name__} is for points of {cost.ambient} entries, and the variable has "
            f"{composition.ambient}.",
            ways_out=[f"Give it {composition.ambient}, in C order."],
        )
    if composition.nonlinear is None:
        return _shift_alone(composition, weight, cost)
    if isinstance(cost, SquaredEuclidean):
        return _squared(composition, weight)
    if isinstance(cost, Quadratic):
        return _quadratic(composition, weight, cost)
    return _radial(composition, cost) if isinstance(cost, Euclidean) else _unreduced(composition, cost)


def _shift_alone(composition: Composition, weight: float, cost: Cost) -> Lift:
    """T(x) = x + argmax_δ ⟨g, δ⟩ − λh(δ)."""
    dual = (composition.linear / weight)[None]
    earned = float(cost.conjugate(dual)[0])
    if not np.isfinite(earned):
        raise UnboundedTransportError(
            f"The reward outgrows λ times the cost, so the transport map has no maximiser: its linear part gains more "
            f"per step than λ·c with λ = {weight:.6g} and c = {cost.formula} takes.",
            ways_out=["Raise λ in ak.Wasserstein(weight=λ).", "A cost that grows faster: ak.costs.ElasticNet(gamma)."],
        )
    shift = cost.best_displacement(dual)[0]
    return Lift(
        None, None, composition.subspace, None, np.zeros(0), None, shift, weight * earned,
        float(cost.of_displacement(shift[None])[0]),
    )  # fmt: skip


def _squared(composition: Composition, weight: float) -> Lift:
    subspace, linear = composition.subspace, composition.linear
    earned = float(linear @ linear)
    return Lift(
        composition.nonlinear, None, subspace, subspace.basis, np.zeros(subspace.dimension), subspace.basis,
        linear / weight, earned / (2 * weight), earned / (2 * weight**2),
    )  # fmt: skip


def _quadratic(composition: Composition, weight: float, cost: Quadratic) -> Lift:
    from scipy.linalg import solve_triangular

    rows, linear = _dense_rows(composition.subspace), composition.linear
    divided = cost.divide(rows)
    gram = divided @ rows.T
    root = np.asarray(np.linalg.cholesky((gram + gram.T) / 2), dtype=np.float64)

    def solved(right: Floats) -> Floats:
        return np.asarray(solve_triangular(root, right, lower=True))

    shift = cost.divide(linear[None])[0] / weight
    earned = weight * float(linear @ shift)
    return Lift(
        _over_root(composition, root), None, composition.subspace, solved(rows), solved(rows @ shift),
        solved(divided), shift, earned / (2 * weight), earned / (2 * weight**2),
    )  # fmt: skip


def _radial(composition: Composition, cost: Cost) -> Lift:
    subspace, size = composition.subspace, float(np.linalg.norm(composition.linear))
    k = subspace.dimension
    if size == 0.0:
        penalty = Displacement(cost, None, np.zeros(k))
        up = _dense_rows(subspace)
    else:
        penalty = Displacement(cost, np.eye(k, k + 1), np.append(np.zeros(k), size))
        up = np.vstack([_dense_rows(subspace), composition.linear / size])
    return Lift(
        composition.nonlinear, penalty, subspace, subspace.basis, np.zeros(k), up, np.zeros(composition.ambient)
    )


def _unreduced(composition: Composition, cost: Cost) -> Lift:
    subspace = composition.subspace
    rows = None if subspace.is_identity else _dense_rows(subspace)
    penalty = Displacement(cost, rows, composition.linear)
    zeros = np.zeros(composition.ambient)
    return Lift(composition.nonlinear, penalty, subspace, subspace.basis, np.zeros(subspace.dimension), None, zeros)


def _dense_rows(subspace: Subspace) -> Floats:
    return np.asarray(subspace.embed(np.eye(subspace.dimension)))


def _over_root(composition: Composition, root: Floats) -> Expression:
    """z ↦ f(Rz)."""
    nonlinear = composition.nonlinear
    assert nonlinear is not None
    variable = nonlinear.variables()[0]
    scaled = as_expression(root @ Variable(variable.shape, name=variable.name))
    return substitute(nonlinear, {id(variable): scaled})
