"""A problem opened once: blocks of rows solved by Clarabel, each row with a certificate of its own.

For concave f a minorant of −f, built from Fenchel's inequality at the solver's duals, gives f(z) ≤ q(z) − ⟨p, z⟩ − κ
for all z, whose maximum against the cost of moving is closed form. The gap of a row is that bound less the objective
reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.errors import NonFiniteError, StaleFitError, UnboundedTransportError
from alignkit.expressions.atom import Atom
from alignkit.expressions.expression import Condition, versions_of
from alignkit_cvxpy.displaced import DisplacementPenalty
from alignkit_cvxpy.minorants import AT_DUALS, MINORANTS, Rule, minorant
from alignkit_cvxpy.penalty import ROUNDING, Majorant, Penalty
from alignkit_cvxpy.preparation import prepare
from alignkit_cvxpy.program import Answer, Block, BlockProgram
from alignkit_cvxpy.sizing import block_rows, is_built_by_row
from alignkit_cvxpy.tree import Tree, Unsupported

__all__ = ["CvxpySession"]

#: Clarabel's tolerances in turn, and how much the objective is magnified, for blocks and then for single rows: its own
#: are 1e-8, and the gap of a row can be as large as that of its block. Second-order cones sometimes fail below the
#: fallback.
_ATTEMPTS = ((1e-9, 1.0), (1e-9, 1.0), (1e-9, 10.0), (1e-12, 1.0))
_FALLBACK = 1e-8
_DOUBT = 1e-15
#: What the solver calls a problem without a maximum.
_NO_DOMAIN = "infeasible"
_NO_MAXIMUM = ("unbounded", _NO_DOMAIN)
#: A step is far above this, relative to where it starts.
_FAR = 1e8
#: Parts of λ at which an anchor is looked for, the one that lies deepest inside the ball first.
_SHARES = tuple(1.0 - 0.5**halvings for halvings in range(1, 16))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Certified steps (n, m), z (n, k), the objective there and an upper bound of its supremum, (n,) each."""

    steps: Floats
    points: Floats
    objective: Floats
    upper: Floats

    @property
    def gap(self) -> Floats:
        """The bound less the objective, (n,); infinite without a bound or outside the domain of f."""
        with np.errstate(invalid="ignore"):
            gap = self.upper - self.objective
        return np.where(np.isnan(gap), np.inf, np.maximum(gap, 0.0)) + ROUNDING * np.abs(
            np.where(np.isfinite(self.objective), self.objective, 0.0)
        )

    def misses(self, tolerance: float) -> NDArray[np.bool_]:
        """Rows whose relative gap is above the tolerance."""
        gap = self.gap
        return ~(np.isfinite(gap) & (gap <= tolerance * np.maximum(1.0, np.abs(self.objective))))

    def keep_better(self, chosen: NDArray[np.int64], other: _Rows) -> None:
        """Take over what `other`, one entry for each of `chosen`, has better."""
        better = other.objective > self.objective[chosen]
        self.steps[chosen[better]] = other.steps[better]
        self.points[chosen[better]] = other.points[better]
        self.objective[chosen] = np.maximum(self.objective[chosen], other.objective)
        self.upper[chosen] = np.minimum(self.upper[chosen], other.upper)


class CvxpySession:
    """One problem, compiled once for each block size it meets, whatever values λ and the parameters then take.

    Arguments:
        problem: what was asked.
        tree: the summands of f that are not quadratic.
        penalty: the rest of the objective.
    """

    def __init__(self, problem: ProxProblem, tree: Tree, penalty: Penalty) -> None:
        self.problem, self.tree, self.penalty = problem, tree, penalty
        self._versions = versions_of(problem.nonlinear.parameters())
        self._programs: dict[int, BlockProgram] = {}
        self._certified = all(type(atom) in MINORANTS for atom in tree.atoms)
        self._seeks_anchor = True

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it needs no compilation.

        Arguments:
            problem: its f is the same object, perhaps with other values of its parameters; its λ may be another, and
                so may the linear part of its displacement.

        Returns:
            True when this session answers it; False when it answers what it did before, and the other must be opened:
            f is another object, or at these values no longer concave with λ, or of another form.
        """
        if problem.nonlinear is not self.problem.nonlinear:
            return False
        try:
            tree, penalty = prepare(problem)
        except Unsupported:
            return False
        if not (tree.has_form_of(self.tree) and penalty.has_form_of(self.penalty)):
            return False
        self.problem, self.tree, self.penalty = problem, tree, penalty
        self._versions = versions_of(problem.nonlinear.parameters())
        self._seeks_anchor = True
        return True

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64, at the present values of the parameters.

        Raises:
            NonFiniteError: f is −∞ at all rows, and the solver finds no point in its domain.
            UnboundedTransportError: the solver calls it unbounded or infeasible, and no certificate refutes that.
            StaleFitError: the parameters took values at which the problem is no longer of the form that was opened.
        """
        if versions_of(self.problem.nonlinear.parameters()) != self._versions and not self.update(self.problem):
            raise StaleFitError(
                f"The parameters of {self.problem.nonlinear} took values at which this session cannot answer it.",
                ways_out=["Open the problem again.", "Raise λ in ak.Wasserstein(weight=λ)."],
                expression=str(self.problem.nonlinear),
            )
        points = np.ascontiguousarray(points, dtype=np.float64)
        count = len(points)
        steps = np.zeros((count, self.penalty.size))
        best = _Rows(steps, points.copy(), np.full(count, -np.inf), np.full(count, np.inf))
        solved = np.zeros(count, dtype=bool)
        todo = np.arange(count)
        # Rows that miss the tolerance are solved again by themselves, where no other row spoils their scaling.
        for attempt, effort in enumerate(_ATTEMPTS):
            size = 1 if attempt else block_rows(self.tree, self.penalty, count)
            for first in range(0, len(todo), size):
                chosen = todo[first : first + size]
                solved[chosen] |= self._solve_block(points, chosen, size, effort, best)
                if progress is not None and attempt == 0:
                    progress("cvxpy", first + len(chosen), count)
            todo = np.flatnonzero(best.misses(self.problem.tolerance) if self._certified else ~solved)
            if len(todo) == 0:
                break
        if count and np.isneginf(best.objective).all():
            self._check_domain(points)
        unfinished = best.misses(self.problem.tolerance) if self._certified else ~solved
        displacement = None if self.penalty.displacement is None else best.steps
        return ProxSolution(best.points, best.gap, unfinished, displacement=displacement)

    def _solve_block(
        self, points: Floats, chosen: NDArray[np.int64], size: int, effort: tuple[float, float], best: _Rows
    ) -> bool:
        """Solve at most `size` rows in one block, padded with the first, and keep what is better than before."""
        padding = np.full(size - len(chosen), chosen[0])
        block = Block(self.tree, self.penalty, points[np.concatenate([chosen, padding])], *effort)
        program = self._program(block)
        answer = program.solve(block)
        verdict = answer.status
        if not answer.solved:
            answer = program.solve(replace(block, accuracy=_FALLBACK, doubt=_DOUBT))
        with np.errstate(over="ignore", invalid="ignore"):  # a value beyond float64 bounds nothing
            found = self._certify(block.points, answer)
        # A concave f lies below an affine function, which a cost that outgrows every one of them dominates.
        if self.penalty.has_edge and not np.isfinite(found.upper).all():
            # Far rows are called infeasible when they are not; then the second answer has a bound, if bounds there are.
            if verdict == _NO_DOMAIN and np.isneginf(found.objective).all():
                self._check_domain(block.points)
            if verdict in _NO_MAXIMUM and (self._certified or not answer.solved):
                self._refuse(verdict)
            if answer.status in _NO_MAXIMUM or self._runs_away(block.points, found):
                self._refuse("unbounded")
        kept = slice(0, len(chosen))
        best.keep_better(chosen, _Rows(found.steps[kept], found.points[kept], found.objective[kept], found.upper[kept]))
        return answer.solved

    def _runs_away(self, points: Floats, found: _Rows) -> bool:
        """Whether a row without a bound went far, and would gain by going as far again."""
        size = np.linalg.norm(found.steps, axis=1)
        far = (
            np.isinf(found.upper)
            & np.isfinite(found.objective)
            & (size > _FAR * (1.0 + np.linalg.norm(points, axis=1)))
        )
        _, farther = self._reached(points[far], 2.0 * found.steps[far])
        return bool((farther > found.objective[far]).any())

    def _check_domain(self, points: Floats) -> None:
        """Raise when the solver finds no point in the domain of f from the origin either, where no row is far out."""
        origin = np.zeros((1, points.shape[1]))
        block = Block(self.tree, self.penalty, origin, doubt=_DOUBT)
        if self._program(block).solve(block).status != _NO_DOMAIN:
            return
        reward = self.problem.nonlinear
        failing = dict.fromkeys(str(one) for one in reward.domain if _fails(one, np.concatenate([points, origin])))
        raise NonFiniteError(
            f"No point was found at which {reward} is finite: Clarabel calls the problem infeasible, for the rows and "
            f"for the origin, where {' and '.join(failing)} fail.",
            ways_out=["Flip the sign of an argument, if you meant the other side.", "Rescale the reward."],
            expression=str(reward),
        )

    def _refuse(self, status: str) -> None:
        # Where the certificate is finite, it refutes such a status, and the rows count as unfinished instead.
        reward = str(self.problem.nonlinear)
        ways_out = ["Raise λ in ak.Wasserstein(weight=λ).", "Bound the growth of the reward.", "Rescale the reward."]
        if self.penalty.displacement is not None:
            ways_out.insert(1, "A cost that grows faster, as ak.costs.ElasticNet(gamma) does.")
        raise UnboundedTransportError(
            f"Clarabel calls the transport problem {status}, and no bound refutes it: {reward}.",
            ways_out=ways_out,
            expression=reward,
        )

    def _program(self, block: Block) -> BlockProgram:
        if is_built_by_row(self.tree, self.penalty):
            return BlockProgram(block, fixed=True)
        rows = len(block.points)
        if rows not in self._programs:
            self._programs[rows] = BlockProgram(block)
        return self._programs[rows]

    def _certify(self, points: Floats, answer: Answer) -> _Rows:
        """Bound the objective of each row from above, and take the better of the solver's step and the bound's own."""
        steps = answer.step
        found, objective = self._reached(points, steps)
        if not self._certified:
            return _Rows(steps, found, objective, np.full(len(points), np.inf))
        best = _Rows(steps.copy(), found.copy(), objective.copy(), np.full(len(points), np.inf))
        for rules in (MINORANTS, AT_DUALS) if self.penalty.displacement is None else (AT_DUALS, MINORANTS):
            majorant = self._majorant(found, answer, rules)
            upper, other = self.penalty.bound(points, found, majorant)
            if np.isinf(upper).any() and self._finds_anchor(points[np.isinf(upper)][:1]):
                upper, other = self.penalty.bound(points, found, majorant)
            best.keep_better(np.arange(len(points)), _Rows(other, *self._reached(points, other), upper))
            if not best.misses(self.problem.tolerance).any():
                break
        return best

    def _reached(self, points: Floats, steps: Floats) -> tuple[Floats, Floats]:
        """z and the objective of rows of steps, (n, k) and (n,); −inf outside the domain of f."""
        found = points + self.penalty.moved(steps)
        value = np.asarray(self.problem.nonlinear.value(found), dtype=np.float64)
        return found, np.where(np.isnan(value), -np.inf, value) - self.penalty.price(steps, found - points)

    def _majorant(self, found: Floats, answer: Answer, rules: Mapping[type[Atom], Rule]) -> Majorant:
        """Of the atoms."""
        slopes, constants = np.zeros_like(found), np.zeros(len(found))
        for coefficients, node in self.tree.terms:
            weights = np.broadcast_to(np.abs(coefficients), (len(found), len(coefficients)))
            slope, constant = minorant(node, weights, found, answer.duals, rules=rules)
            slopes, constants = slopes - slope, constants - constant
        return Majorant(slopes, constants)

    def _finds_anchor(self, point: Floats) -> bool:
        """Look once for a majorant well inside the ball where the bound is finite: that of a row at a smaller λ.

        If the objective of one row has a supremum, those of all have, where every move of z is within reach; so that
        the origin may stand for a row that is too far out for the solver.
        """
        penalty = self.penalty
        if not (self._seeks_anchor and isinstance(penalty, DisplacementPenalty) and penalty.has_edge):
            return False
        self._seeks_anchor = False
        for place, share in itertools.product((point, np.zeros_like(point)), _SHARES):
            block = Block(self.tree, penalty.relaxed(share), place)
            answer = self._program(block).solve(block)
            if not answer.solved:
                continue
            found = place + penalty.moved(answer.step)
            anchored = penalty.anchored_at(found, self._majorant(found, answer, AT_DUALS))
            if anchored is not None:
                self.penalty = anchored
                return True
        return False


def _fails(condition: Condition, points: Floats) -> bool:
    """Whether a condition fails at some of the points, (n, k)."""
    with np.errstate(all="ignore"):
        lacking = np.asarray(condition.expression.value(points)) - condition.bound
    return bool((~(lacking > 0.0) if condition.strict else ~(lacking >= 0.0)).any())
