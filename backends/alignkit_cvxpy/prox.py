"""The proximal solver on cvxpy, with a certificate of its own for every row.

For concave f a minorant of −f, built from Fenchel's inequality at the solver's duals, gives f(z) ≤ q(z) − ⟨p, z⟩ − κ
for all z, whose maximum against the cost of moving is closed form. The gap of a row is that bound less the objective
reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.citations import Citation
from alignkit.contracts import Bid, Floats, Guarantee, Progress, ProxProblem, ProxSession, ProxSolution, Refusal
from alignkit.errors import StaleFitError, UnboundedTransportError
from alignkit.expressions.arrays import is_sparse
from alignkit.expressions.atom import Atom
from alignkit.expressions.expression import versions_of
from alignkit.expressions.splitting import split
from alignkit_cvxpy.costs import COSTS, seconds_per_entry
from alignkit_cvxpy.displaced import DisplacementPenalty, displacement_penalty
from alignkit_cvxpy.lowering import LOWERINGS, UNLOWERED
from alignkit_cvxpy.minorants import AT_DUALS, MINORANTS, Rule, minorant
from alignkit_cvxpy.penalty import ROUNDING, Majorant, Penalty, quadratic_penalty
from alignkit_cvxpy.program import Answer, Block, BlockProgram
from alignkit_cvxpy.tree import Tree, Unsupported, build_tree, moves

__all__ = ["CvxpyProxSolver", "CvxpySession"]

#: Conic variables of a block, about: more rows amortise cvxpy's overhead, but it compiles in time and memory that grow
#: with their square (0.04 s at 1,000, 0.4 s at 3,000, 4 s at 10,000).
_BLOCK_ENTRIES = 3000
_BLOCK_ROWS = 128
#: Above this a row is built and solved by itself, without parameters, which takes linear time.
_PARAMETRISED_ENTRIES = 6000
#: Above this a row would take minutes.
_LARGEST_ENTRIES = 200_000
#: Measured on one core: seconds to compile, to call cvxpy once, and of Clarabel for each variable of a row and each
#: multiplication in the factorisation of a row's dense constraints, of which R takes a few times as many.
_SECONDS_TO_COMPILE = 0.06
_SECONDS_PER_CALL = 2e-3
_SECONDS_PER_ENTRY = 7e-6
_SECONDS_PER_PRODUCT = 6e-9
_PRODUCTS_OF_DISPLACEMENTS = 3
#: Of cvxpy for each variable of a row that is built by itself.
_SECONDS_TO_BUILD = 2e-5
#: Clarabel's tolerances in turn, and how much the objective is magnified, for blocks and then for single rows: its own
#: are 1e-8, and the gap of a row can be as large as that of its block. Second-order cones sometimes fail below the
#: fallback.
_ATTEMPTS = ((1e-9, 1.0), (1e-9, 1.0), (1e-9, 10.0), (1e-12, 1.0))
_FALLBACK = 1e-8
_DOUBT = 1e-15
#: What the solver calls a problem without a maximum.
_NO_MAXIMUM = ("unbounded", "infeasible")
#: A step is far above this, relative to where it starts.
_FAR = 1e8
#: Parts of λ at which an anchor is looked for, the one that lies deepest inside the ball first.
_SHARES = tuple(1.0 - 0.5**halvings for halvings in range(1, 16))
#: λ must exceed λ_max(H) by this, relative to λ.
_MARGIN = 1e-10

_PAPERS = (
    Citation(
        key="diamond_boyd_2016",
        title="CVXPY: a Python-embedded modeling language for convex optimization",
        year=2016,
        authors=("S. Diamond", "S. Boyd"),
        venue="Journal of Machine Learning Research 17(83), 1–5",
        kind="article",
    ),
    Citation(
        key="goulart_chen_2024",
        title="Clarabel: an interior-point solver for conic programs with quadratic objectives",
        year=2024,
        authors=("P. J. Goulart", "Y. Chen"),
        arxiv="2405.12762",
    ),
)


class CvxpyProxSolver:
    """Proximal maps of any concave f that is DCP, by Clarabel, with a rigorous gap for every row.

    It takes every transport cost, and under the quadratic ones convex quadratic summands that λ dominates. Rows are
    stacked into blocks, one DPP problem is compiled for each size of block. It runs on the CPU whatever device is asked
    for.

    Example:
        ```python
        session = CvxpyProxSolver().open(ProxProblem(-ak.norm2(B @ w - t), weight=1.0, dimension=4, rows=100))
        solution = session.solve(points)
        ```
    """

    name = "cvxpy"
    takes_displacements = True

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a certified solve, or say which summand is not concave or has no lowering."""
        try:
            tree, penalty = _prepare(problem)
        except Unsupported as obstacle:
            return Refusal(self.name, str(obstacle))
        certified = all(type(atom) in MINORANTS for atom in tree.atoms)
        block = _block_rows(_entries(tree, penalty), problem.rows)
        seconds = _SECONDS_TO_COMPILE + np.ceil(problem.rows / block) * _SECONDS_PER_CALL
        seconds += problem.rows * _seconds_per_row(tree, penalty)
        guarantee = Guarantee.CERTIFIED if certified else Guarantee.HEURISTIC
        return Bid(self.name, f"Clarabel, {block} rows at a time", guarantee, float(seconds), citations=_PAPERS)

    def open(self, problem: ProxProblem) -> ProxSession:
        """Build the tree of the reward; cvxpy compiles at the first batch.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        try:
            tree, penalty = _prepare(problem)
        except Unsupported as obstacle:
            raise ValueError(f"The cvxpy backend refuses this problem: {obstacle}") from obstacle
        return CvxpySession(problem, tree, penalty)


def _prepare(problem: ProxProblem) -> tuple[Tree, Penalty]:
    parts, displacement = split(problem.nonlinear), problem.displacement
    if parts.curved and not parts.has_small_hessian:
        raise Unsupported(f"the quadratic summands have a Hessian of size k = {parts.dimension}, too large to form")
    if displacement is not None and type(displacement.cost) not in COSTS:
        raise Unsupported(f"the cost {type(displacement.cost).__name__} has no lowering to cvxpy")
    if parts.critical_weight >= (problem.weight * (1 - _MARGIN) if displacement is None else np.finfo(np.float64).tiny):
        growing = next(part for part in parts.curved if not part.is_concave)
        rule = (
            f"λ = {problem.weight:.6g} does not exceed the largest curvature, {parts.critical_weight:.6g}"
            if displacement is None
            else "only a quadratic cost dominates that"
        )
        raise Unsupported(f"the summand {growing.atom} is convex, and {rule}")
    tree = build_tree(problem.nonlinear, parts)
    for atom in tree.atoms:
        if type(atom) not in LOWERINGS:
            reason = UNLOWERED.get(type(atom), "is unknown to this backend")
            raise Unsupported(f"{atom} has no lowering to cvxpy: {atom.name} {reason}")
    curves = moves(problem.nonlinear) or any(moves(part.atom.args[0]) for part in parts.curved)
    penalty: Penalty = (
        quadratic_penalty(parts, problem.weight, moves=curves)
        if displacement is None
        else displacement_penalty(parts, problem.weight, displacement, moves=curves)
    )
    entries = _entries(tree, penalty)
    if entries > _LARGEST_ENTRIES:
        raise Unsupported(f"a row has about {entries} conic variables, more than {_LARGEST_ENTRIES}")
    return tree, penalty


def _block_rows(entries: int, rows: int) -> int:
    """How many rows to stack into a block: a power of 2, so that few programs are compiled."""
    largest = min(_BLOCK_ROWS, max(1, _BLOCK_ENTRIES // entries))
    wanted = min(largest, max(rows, 1))
    return 1 << (wanted - 1).bit_length() if wanted < largest else 1 << (largest.bit_length() - 1)


def _entries(tree: Tree, penalty: Penalty) -> int:
    """How many conic variables a row takes, about: its step, its links, and what their atoms and the cost add."""
    displaced = 0 if penalty.displacement is None else 2 * penalty.size
    return tree.dimension + 3 * tree.width + displaced


def _seconds_per_row(tree: Tree, penalty: Penalty) -> float:
    """What Clarabel takes for a row, and cvxpy where a row is built by itself."""
    seconds = (tree.dimension + 3 * tree.width) * _SECONDS_PER_ENTRY
    matrices = [link.matrix for link in tree.links] + [factor.matrix for factor in penalty.factors]
    products = sum(_products(matrix) for matrix in matrices if matrix is not None)
    if penalty.displacement is not None:
        seconds += penalty.size * seconds_per_entry(penalty.displacement.cost)
        if penalty.displacement.rows is not None:
            products += _PRODUCTS_OF_DISPLACEMENTS * _products(penalty.displacement.rows)
    entries = _entries(tree, penalty)
    if entries > _PARAMETRISED_ENTRIES:
        seconds += entries * _SECONDS_TO_BUILD
    return seconds + products * _SECONDS_PER_PRODUCT


def _products(matrix: Any) -> float:
    """Multiplications that eliminating the rows of a matrix takes, about."""
    filled = matrix.nnz if is_sparse(matrix) else int(np.count_nonzero(matrix))
    rows, columns = sorted(matrix.shape)
    return float(filled * min(rows, filled / max(1, columns)))


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
            tree, penalty = _prepare(problem)
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
            size = 1 if attempt else _block_rows(_entries(self.tree, self.penalty), count)
            for first in range(0, len(todo), size):
                chosen = todo[first : first + size]
                solved[chosen] |= self._solve_block(points, chosen, size, effort, best)
                if progress is not None and attempt == 0:
                    progress("cvxpy", first + len(chosen), count)
            todo = np.flatnonzero(best.misses(self.problem.tolerance) if self._certified else ~solved)
            if len(todo) == 0:
                break
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
        found = self._certify(block.points, answer)
        if not np.isfinite(found.upper).all():
            # Far rows are called infeasible when they are not; then the second answer has a bound, if bounds there are.
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
        if _entries(self.tree, self.penalty) > _PARAMETRISED_ENTRIES:
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
        for rules in (MINORANTS,) if self.penalty.displacement is None else (AT_DUALS, MINORANTS):
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
        """Look once for a majorant well inside the ball where the bound is finite: that of the row at a smaller λ."""
        penalty = self.penalty
        if not (self._seeks_anchor and isinstance(penalty, DisplacementPenalty) and penalty.has_edge):
            return False
        self._seeks_anchor = False
        for share in _SHARES:
            block = Block(self.tree, penalty.relaxed(share), point)
            answer = self._program(block).solve(block)
            if not answer.solved:
                continue
            found = point + penalty.moved(answer.step)
            anchored = penalty.anchored_at(found, self._majorant(found, answer, AT_DUALS))
            if anchored is not None:
                self.penalty = anchored
                return True
        return False
