"""The proximal solver on cvxpy: what it offers, and how it is opened."""

from __future__ import annotations

from alignkit.citations import Citation
from alignkit.contracts import Bid, Guarantee, ProxProblem, ProxSession, Refusal
from alignkit_cvxpy.minorants import MINORANTS
from alignkit_cvxpy.preparation import prepare
from alignkit_cvxpy.session import CvxpySession
from alignkit_cvxpy.sizing import block_rows, seconds
from alignkit_cvxpy.tree import Unsupported

__all__ = ["CvxpyProxSolver"]

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
            tree, penalty = prepare(problem)
        except Unsupported as obstacle:
            return Refusal(self.name, str(obstacle))
        certified = all(type(atom) in MINORANTS for atom in tree.atoms)
        block = block_rows(tree, penalty, problem.rows)
        predicted = seconds(tree, penalty, problem.rows)
        guarantee = Guarantee.CERTIFIED if certified else Guarantee.HEURISTIC
        return Bid(self.name, f"Clarabel, {block} rows at a time", guarantee, predicted, citations=_PAPERS)

    def open(self, problem: ProxProblem) -> ProxSession:
        """Build the tree of the reward; cvxpy compiles at the first batch.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        try:
            tree, penalty = prepare(problem)
        except Unsupported as obstacle:
            raise ValueError(f"The cvxpy backend refuses this problem: {obstacle}") from obstacle
        return CvxpySession(problem, tree, penalty)
