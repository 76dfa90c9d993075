"""One parametrised cvxpy problem for a block of rows, compiled once and solved for block after block."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.splitting import Split
from alignkit_cvxpy.lowering import LOWERINGS
from alignkit_cvxpy.tree import Link, Node, Tree

__all__ = ["Answer", "BlockProgram", "Penalty", "make_penalty"]


@dataclass(frozen=True, eq=False)
class Penalty:
    """What is quadratic in the step u = z − v: f's own quadratic part less (λ/2)‖u‖², −½⟨u, Mu⟩ + ⟨Hv + h, u⟩ + q(v).

    Arguments:
        weight: λ.
        split: f as its quadratic part and the rest.
        factors: matrices B with ½⟨u, Mu⟩ = Σ ‖Bu‖², (m, k) each.
    """

    weight: float
    split: Split
    factors: tuple[Any, ...]
    _inverse: list[Floats] = field(default_factory=list, repr=False)

    @property
    def is_curved(self) -> bool:
        """Whether f has a quadratic part, so that M is not λI."""
        return bool(self.split.curved)

    def gradient(self, points: Floats) -> Floats:
        """Hv + h of each row, (n, k)."""
        if not self.is_curved:
            return np.broadcast_to(self.split.vector, points.shape)
        return points @ self.split.quadratic.matrix + self.split.quadratic.vector

    def value(self, points: Floats) -> Floats:
        """q(v) of each row, (n,)."""
        if not self.is_curved:
            return points @ self.split.vector + self.split.constant
        return self.split.quadratic.value(points)

    def best_step(self, slopes: Floats) -> Floats:
        """argmax_u ⟨slopes, u⟩ − ½⟨u, Mu⟩ of each row: M⁻¹slopes, (n, k)."""
        if not self.is_curved:
            return slopes / self.weight
        if not self._inverse:
            from scipy.linalg import cho_factor, cho_solve

            matrix = self.weight * np.eye(self.split.dimension) - self.split.quadratic.matrix
            self._inverse.append(cho_solve(cho_factor(matrix), np.eye(len(matrix))))
        inverse = self._inverse[0]
        step = slopes @ inverse
        # One step of refinement: the error of the inverse enters the certificate squared.
        residual = slopes - self.weight * step + step @ self.split.quadratic.matrix
        return step + residual @ inverse


def make_penalty(split: Split, weight: float) -> Penalty:
    """Factorise ½M = ½(λI − H), by the quadratic summands themselves where they are concave and of low rank."""
    identity = np.sqrt(weight / 2.0)
    low_rank = all(part.is_concave and part.weights.ndim == 1 for part in split.curved) and not any(
        is_operator(part.inside.matrix) for part in split.curved
    )
    if low_rank and sum(len(part.weights) for part in split.curved) < max(split.dimension, 2):
        scaled = [np.sqrt(-part.weights)[:, None] * _dense(part.inside.matrix) for part in split.curved]
        return Penalty(weight, split, (identity, *scaled))
    matrix = weight * np.eye(split.dimension) - split.quadratic.matrix
    return Penalty(weight, split, (np.linalg.cholesky(matrix / 2.0).T,))


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver said of a block.

    Arguments:
        step: u = z − v, (b, k); zero where there is no solution.
        duals: the slope of the objective in each link's variable, (b, m) each.
        solved: whether there is a solution at all, accurate or not.
        status: cvxpy's word for it.
    """

    step: Floats
    duals: list[Floats]
    solved: bool
    status: str


class BlockProgram:
    """Minimise Σ_rows −f(v + u) + (λ/2)‖u‖² over b rows at once.

    Arguments:
        tree: the summands of f that are not quadratic.
        penalty: the quadratic rest.
        rows: b.
        fixed: the rows v, (b, k), of a program for them alone: compiled in less time and memory, but not to be solved
            for others.

    The affine link s = M(v + u) + b has M v + b as its parameter: f(parameter + Ku) is not DPP inside every atom, and
    the duals of the links are what certifies a solution.
    """

    def __init__(self, tree: Tree, penalty: Penalty, rows: int, fixed: Floats | None = None) -> None:
        import cvxpy

        cp: Any = cvxpy  # typed in part only
        self._cp, self._fixed = cp, fixed
        self.tree, self.penalty, self.rows = tree, penalty, rows
        self._step = cp.Variable((rows, tree.dimension))
        self._offsets: list[Any] = [None] * len(tree.links)
        self._constraints: list[Any] = [None] * len(tree.links)
        self._gradient: Any = None
        if penalty.is_curved:
            self._gradient = cp.Parameter((rows, tree.dimension)) if fixed is None else penalty.gradient(fixed)
        objective = sum(cp.sum_squares(self._scaled(factor)) for factor in penalty.factors)
        if self._gradient is not None:
            objective -= cp.sum(cp.multiply(self._gradient, self._step))
        elif penalty.split.vector.any():
            objective -= cp.sum(self._step @ penalty.split.vector)
        for coefficients, node in tree.terms:
            lowered = self._lower(node)
            if (coefficients == coefficients[0]).all():
                objective -= coefficients[0] * cp.sum(lowered)
            else:
                objective -= cp.sum(lowered @ coefficients)
        # A solver's tolerances should not depend on the units of the reward: its coefficients and λ are put around 1.
        largest = max((float(np.abs(coefficients).max()) for coefficients, _ in tree.terms), default=0.0)
        self._unit = float(np.sqrt(penalty.weight * (largest or penalty.weight)))
        self._problem: Any = cp.Problem(cp.Minimize(objective / self._unit), self._constraints)
        assert self._problem.is_dcp(dpp=True), "the block program must be DPP, or it is compiled anew for each block"

    def solve(self, points: Floats, accuracy: float = 1e-9) -> Answer:
        """Solve for one block of rows v, (b, k), exactly `rows` of them, to Clarabel's tolerances `accuracy`."""
        if self._fixed is None:
            for link, offset in zip(self.tree.links, self._offsets, strict=True):
                offset.value = _affine_part(link, points)
            if self._gradient is not None:
                self._gradient.value = self.penalty.gradient(points)
        cp = self._cp
        # All of them every time: cvxpy updates a cached solver, which keeps the settings it is not told.
        settings = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), accuracy)
        try:
            with warnings.catch_warnings():
                # Accuracy is judged by the certificate, not by the solver's own opinion.
                warnings.simplefilter("ignore", UserWarning)
                self._problem.solve(solver=cp.CLARABEL, ignore_dpp=False, accept_unknown=True, **settings)
        except cp.error.SolverError as error:
            return self._no_answer(points, str(error))
        status = str(self._problem.status)
        if self._step.value is None or not np.isfinite(self._step.value).all():
            return self._no_answer(points, status)
        return Answer(np.array(self._step.value), [self._slopes(link) for link in self.tree.links], True, status)

    def _no_answer(self, points: Floats, status: str) -> Answer:
        zeros = [np.zeros((self.rows, link.size)) for link in self.tree.links]
        return Answer(np.zeros_like(points), zeros, False, status)

    def _scaled(self, factor: Any) -> Any:
        return factor * self._step if np.ndim(factor) == 0 else self._step @ factor.T

    def _lower(self, node: Node) -> Any:
        args = []
        for link in node.links:
            variable = self._cp.Variable((self.rows, link.size))
            shape = (self.rows, link.size)
            offset = self._cp.Parameter(shape) if self._fixed is None else _affine_part(link, self._fixed)
            target = offset if link.matrix is None else self._step @ link.matrix.T + offset
            for factor, inner in link.nested:
                lowered = self._lower(inner)
                target = target + (lowered if factor is None else lowered @ factor.T)
            self._offsets[link.index] = offset
            relations = {"==": variable == target, ">=": variable >= target, "<=": variable <= target}
            self._constraints[link.index] = relations[link.relation]
            args.append(variable)
        return LOWERINGS[type(node.atom)](self._cp, node.atom, args)

    def _slopes(self, link: Link) -> Floats:
        """The derivative of the objective in a link's variable, by stationarity of the Lagrangian."""
        dual = self._constraints[link.index].dual_value
        if dual is None:
            return np.zeros((self.rows, link.size))
        dual = self._unit * np.reshape(np.asarray(dual, dtype=np.float64), (self.rows, link.size))
        return dual if link.relation == ">=" else -dual


def _affine_part(link: Link, points: Floats) -> Floats:
    """Mv + b of each row, (b, m)."""
    if link.matrix is None:
        return np.broadcast_to(link.offset, (len(points), link.size))
    return np.asarray(points @ link.matrix.T) + link.offset
