"""One parametrised cvxpy problem for a block of rows, compiled once and solved for block after block."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignkit.contracts import Displacement, Floats
from alignkit_cvxpy.costs import COSTS
from alignkit_cvxpy.lowering import LOWERINGS
from alignkit_cvxpy.penalty import Penalty
from alignkit_cvxpy.tree import Link, Node, Tree

__all__ = ["Answer", "Block", "BlockProgram"]

#: Measured: entries of a solution stray outside a cone by up to this, in units of the tolerances and of the data.
_MARGIN = 10.0


@dataclass(frozen=True, eq=False)
class Block:
    """The numbers of one solve.

    Arguments:
        tree: the summands of f that are not quadratic, at the present values of the parameters.
        penalty: the rest of the objective, likewise.
        points: the rows v, (b, k).
        accuracy: the solver's tolerances.
        magnified: by how much the objective is; exponential cones may stall at one size and not at another.
        doubt: how clear a proof of infeasibility must be; Clarabel's default holds it proved where rows v lie 10⁶ away.
    """

    tree: Tree
    penalty: Penalty
    points: Floats
    accuracy: float = 1e-9
    magnified: float = 1.0
    doubt: float = 1e-8

    @cached_property
    def unit(self) -> float:
        """What the objective is divided by.

        A solver's tolerances should not depend on the units of the reward: its coefficients and λ are put around 1.
        """
        weight = self.penalty.weight
        largest = max((float(np.abs(coefficients).max()) for coefficients, _ in self.tree.terms), default=0.0)
        return float(np.sqrt(weight * (largest or weight))) / self.magnified

    @cached_property
    def gradient(self) -> Floats:
        """The gradient of the quadratic part of f, in units of the objective, (b, k)."""
        return self.penalty.gradient(self.points) / self.unit

    @cached_property
    def margin(self) -> float:
        """How far inside the domains of atoms to stay, so that what the solver's tolerances allow is still inside."""
        largest = max((float(np.abs(self.offset(link)).max()) for link in self.tree.links), default=0.0)
        return _MARGIN * self.accuracy * max(largest, float(np.abs(self.points).max()))

    def offset(self, link: Link) -> Floats:
        """Mv + b of each row, (b, m)."""
        link = self.tree.links[link.index]
        if link.matrix is None:
            return np.broadcast_to(link.offset, (len(self.points), link.size))
        return np.asarray(self.points @ link.matrix.T) + link.offset


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver said of a block.

    Arguments:
        step: u = z − v, or δ, (b, penalty.size); zero where there is no solution.
        duals: the slope of the objective in each link's variable, (b, m) each.
        solved: whether there is a solution at all, accurate or not.
        status: cvxpy's word for it.
    """

    step: Floats
    duals: list[Floats]
    solved: bool
    status: str


class BlockProgram:
    """Minimise Σ_rows −f(v + u) + (λ/2)‖u‖² over b rows at once, or Σ_rows −f(v + Rδ) − ⟨g, δ⟩ + λ·h(δ).

    Clarabel solves all of them. At its tolerances OSQP and SCS took 3 to 60 times as long on every linear program tried
    (k = 2 to 8, ℓ1 and ℓ∞ costs, m = 6 to 784), and HiGHS from half to three times as long.

    Arguments:
        block: rows and numbers to compile for.
        fixed: compile for these numbers alone, in less time and memory.

    Every number that may change is a parameter of cvxpy's: λ as √(λ/2), which multiplies u, or as a factor of h; g; the
    coefficients of atoms;
    and of a link s = M(v + u) + b the offset M v + b, and M where it depends on a parameter. The link itself is there
    because f(parameter + Mu) is not DPP inside every atom, and because its dual is what certifies a solution.
    """

    def __init__(self, block: Block, *, fixed: bool = False) -> None:
        import cvxpy

        cp: Any = cvxpy  # typed in part only
        tree = block.tree
        self._cp, self._first, self._fixed = cp, block, fixed
        self._rows = len(block.points)
        self._is_intact = True
        self._slots: list[tuple[Any, Callable[[Block], Any]]] = []
        self._constraints: list[Any] = [None] * len(tree.links)
        self._margin = self._slot((), lambda now: now.margin, nonneg=True)
        self._moved = self._step = cp.Variable((self._rows, tree.dimension))
        objective = sum(cp.sum_squares(self._penalised(place)) for place in range(len(block.penalty.factors)))
        if block.penalty.displacement is not None:
            objective += self._price(block.penalty.displacement)
        if not fixed or block.gradient.any():
            gradient = self._slot(block.points.shape, lambda now: now.gradient)
            objective -= cp.sum(cp.multiply(gradient, self._moved))
        for place in range(len(tree.terms)):
            objective += self._summand(place)
        self.problem: Any = cp.Problem(cp.Minimize(objective), self._constraints)
        assert self.problem.is_dpp(), "the block program must be DPP, or it is compiled anew for each block"

    def solve(self, block: Block) -> Answer:
        """Solve by Clarabel, for a block of as many rows, and of the same form."""
        for parameter, read in self._slots:
            parameter.value = read(block)
        cp, intact = self._cp, self._is_intact
        self._is_intact = True
        # All of them every time: cvxpy updates a cached solver, which keeps the settings it is not told.
        settings = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), block.accuracy)
        settings |= dict.fromkeys(("tol_infeas_abs", "tol_infeas_rel"), block.doubt)
        try:
            with warnings.catch_warnings():
                # Accuracy is judged by the certificate, not by the solver's own opinion.
                warnings.simplefilter("ignore", UserWarning)
                self.problem.solve(
                    solver=cp.CLARABEL, ignore_dpp=False, accept_unknown=True, warm_start=intact, **settings
                )
        except cp.error.SolverError as error:
            return self.no_answer(block, str(error))
        except BaseException as error:
            # A failed assertion of Clarabel's is a Rust panic, no Exception, and leaves the cached solver half done.
            if type(error).__name__ != "PanicException":
                raise
            self._is_intact = False
            return self.no_answer(block, str(error))
        status = str(self.problem.status)
        if self._step.value is None or not np.isfinite(self._step.value).all():
            return self.no_answer(block, status)
        return Answer(
            np.array(self._step.value), [self._slopes(link, block) for link in block.tree.links], True, status
        )

    def no_answer(self, block: Block, status: str) -> Answer:
        """The answer where the solver has none."""
        zeros = [np.zeros((self._rows, link.size)) for link in block.tree.links]
        return Answer(np.zeros((self._rows, block.penalty.size)), zeros, False, status)

    def _slot(self, shape: tuple[int, ...], read: Callable[[Block], Any], *, nonneg: bool = False) -> Any:
        """Numbers that may change: a parameter that `read` fills in before every solve, or their value if fixed."""
        if self._fixed:
            return read(self._first)
        parameter = self._cp.Parameter(shape, nonneg=nonneg)
        self._slots.append((parameter, read))
        return parameter

    def _penalised(self, place: int) -> Any:
        """Bu for one of the penalty's factors B, in units of the objective."""

        def scale(now: Block) -> float:
            found: float = now.penalty.factors[place].scale / np.sqrt(now.unit)
            return found

        factor = self._first.penalty.factors[place]
        if factor.moves:
            matrix = self._slot(factor.matrix.shape, lambda now: scale(now) * now.penalty.factors[place].matrix)
            return self._moved @ matrix.T
        applied = self._moved if factor.matrix is None else self._moved @ factor.matrix.T
        return self._slot((), scale, nonneg=True) * applied

    def _price(self, displacement: Displacement) -> Any:
        """λ·h(δ) − ⟨g, δ⟩ in units of the objective, summed over rows, with u = Rδ."""
        cp, rows = self._cp, displacement.rows
        if rows is not None:
            self._step = cp.Variable((self._rows, displacement.size))
            self._constraints.append(self._moved == self._step @ rows.T)
        price = self._slot((), lambda now: now.penalty.weight / now.unit, nonneg=True) * COSTS[type(displacement.cost)](
            cp, displacement.cost, self._step, self._constraints
        )
        if displacement.linear.any():
            price -= cp.sum(self._step @ self._slot(displacement.linear.shape, _linear_of))
        return price

    def _summand(self, place: int) -> Any:
        """−⟨coefficients, node⟩ in units of the objective, summed over rows; convex."""
        coefficients, node = self._first.tree.terms[place]
        lowered = self._lower(node)

        def weights(now: Block) -> Floats:
            return np.abs(now.tree.terms[place][0]) / now.unit

        if self._first.tree.moves:
            total = self._cp.sum(lowered @ self._slot(coefficients.shape, weights, nonneg=True))
        else:
            # Only the unit changes: a number beside fixed ratios compiles faster than a vector.
            ratios = np.abs(coefficients) / (np.abs(coefficients).max() or 1.0)
            total = self._cp.sum(lowered if (ratios == 1.0).all() else lowered @ ratios)
            total = self._slot((), lambda now: weights(now).max(), nonneg=True) * total
        return total if node.is_convex else -total

    def _lower(self, node: Node) -> Any:
        args = []
        for link in node.links:
            variable = self._cp.Variable((self._rows, link.size))
            target = self._target(link)
            relations = {"==": variable == target, ">=": variable >= target, "<=": variable <= target}
            self._constraints[link.index] = relations[link.relation]
            args.append(variable)
        # After those of the links, which are found by their place.
        self._constraints += [args[place] >= bound + self._margin for place, bound, _ in node.atom._domain()]
        return LOWERINGS[type(node.atom)](self._cp, node.atom, args, self._constraints)

    def _target(self, link: Link) -> Any:
        """M(v + u) + b + Σ F·node."""
        target = self._slot((self._rows, link.size), lambda now: now.offset(link))
        if link.matrix is not None:
            matrix = link.matrix
            if link.moves:
                matrix = self._slot(matrix.shape, lambda now: now.tree.links[link.index].matrix)
            target = target + self._moved @ matrix.T
        for place, (factor, inner) in enumerate(link.nested):
            lowered = self._lower(inner)
            if factor is not None and link.moves:
                # By disciplined convexity F has one sign, which cvxpy must know beforehand.
                sign = 1.0 if (link.relation == ">=") == inner.is_convex else -1.0
                magnitude = self._slot(factor.shape, self._magnitude(link, place), nonneg=True)
                target = target + sign * (lowered @ magnitude.T)
            else:
                target = target + (lowered if factor is None else lowered @ factor.T)
        return target

    @staticmethod
    def _magnitude(link: Link, place: int) -> Callable[[Block], Floats]:
        return lambda now: np.abs(now.tree.links[link.index].nested[place][0])

    def _slopes(self, link: Link, block: Block) -> Floats:
        """The derivative of the objective in a link's variable, by stationarity of the Lagrangian."""
        dual = self._constraints[link.index].dual_value
        if dual is None:
            return np.zeros((self._rows, link.size))
        dual = block.unit * np.reshape(np.asarray(dual, dtype=np.float64), (self._rows, link.size))
        return dual if link.relation == ">=" else -dual


def _linear_of(now: Block) -> Floats:
    assert now.penalty.displacement is not None
    found: Floats = now.penalty.displacement.linear / now.unit
    return found
