"""The proximal solver on jax: what it offers, and how it is opened. A bid imports no jax unless it has to trace."""

from __future__ import annotations

import sys

from alignkit.citations import ACCELERATED_PROXIMAL_GRADIENT, Citation
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal, UpdatableProxSession
from alignkit_ott.planning import Method, Plan, Unsupported, plan

__all__ = ["OttProxSolver"]

_OTT = Citation(
    key="cuturi_2022",
    title="Optimal transport tools (OTT): a JAX toolbox for all things Wasserstein",
    year=2022,
    authors=("M. Cuturi", "L. Meng-Papaxanthos", "Y. Tian", "C. Bunne", "G. Davis", "O. Teboul"),
    arxiv="2201.12324",
)
_DISPLACEMENT_COSTS = Citation(
    key="klein_2024",
    title="Learning elastic costs to shape Monge displacements",
    year=2024,
    authors=("M. Klein", "A.-A. Pooladian", "P. Ablin", "E. Ndiaye", "J. Niles-Weed", "M. Cuturi"),
    arxiv="2306.11895",
)
_QUASI_NEWTON = Citation(
    key="liu_nocedal_1989",
    title="On the limited memory BFGS method for large scale optimization",
    year=1989,
    authors=("D. C. Liu", "J. Nocedal"),
    venue="Mathematical Programming 45, 503–528",
    kind="article",
    doi="10.1007/BF01589116",
)


class OttProxSolver:
    """Proximal maps by jax in float64, all rows of a chunk in one compiled loop, on any device that jax has.

    Where f is differentiable and proved concave, or f − λ·h is under half the squared distance, every row gets a
    rigorous gap from its gradient; with a kink in f such problems are refused. Elsewhere every row is started many
    times, and the answer has no bound. Costs: half the squared distance, powers above 1 of ℓ_p norms with 1 < p < ∞
    and OTT's costs that bring a Legendre transform, by L-BFGS; for concave f alone, elastic nets and OTT's regularised
    costs, by proximal gradients.

    Example:
        ```python
        session = OttProxSolver().open(ProxProblem(-ak.log_sum_exp(w), weight=1.0, dimension=3, rows=100))
        session.solve(points).gap
        ```
    """

    name = "ott"
    takes_displacements = True

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer a certified or a heuristic solve, or say what excludes the problem."""
        try:
            found = plan(problem)
        except Unsupported as obstacle:
            return Refusal(self.name, str(obstacle))
        method = f"{found.method.value} in jax"
        if found.starts > 1:
            method += f", {found.starts} starts a row"
        guarantee = Guarantee.CERTIFIED if found.is_concave else Guarantee.HEURISTIC
        return Bid(self.name, method, guarantee, _seconds(problem, found), citations=_papers(found))

    def open(self, problem: ProxProblem) -> UpdatableProxSession:
        """Import jax; it compiles at the first batch.

        Raises:
            ValueError: the problem is one that `bid` refuses.
        """
        try:
            found = plan(problem)
        except Unsupported as obstacle:
            raise ValueError(f"The ott backend refuses this problem: {obstacle}") from obstacle
        from alignkit_ott.session import OttProxSession

        return OttProxSession(problem, found)


def _papers(found: Plan) -> tuple[Citation, ...]:
    if found.method is Method.LBFGS:
        return (_OTT, _QUASI_NEWTON)
    return (_OTT, _DISPLACEMENT_COSTS, ACCELERATED_PROXIMAL_GRADIENT)


#: Measured on one core, k = 1 … 256, m = 1 … 784: to import jax, to compile, and of an entry of a start, without and
#: with other local maxima; entries that leave the cache cost more, and steps that shrink at a kink.
_SECONDS_TO_IMPORT = 0.5
_SECONDS_TO_COMPILE = {Method.LBFGS: 1.2, Method.PROXIMAL_GRADIENT: 0.8}
_SECONDS_PER_ENTRY = {Method.LBFGS: 1.5e-6, Method.PROXIMAL_GRADIENT: 5e-7}
_SECONDS_PER_ENTRY_OF_MANY = 3.5e-6
_ENTRIES_IN_CACHE = 200
_SECONDS_AT_KINKS = 1.7e-5


def _seconds(problem: ProxProblem, found: Plan) -> float:
    size = problem.dimension if problem.displacement is None else problem.displacement.size
    fixed = _SECONDS_TO_COMPILE[found.method] + (0.0 if "jax" in sys.modules else _SECONDS_TO_IMPORT)
    of_entry = _SECONDS_PER_ENTRY[found.method] if found.is_concave else _SECONDS_PER_ENTRY_OF_MANY
    of_start = of_entry * (1 + size) * (1.0 + size / _ENTRIES_IN_CACHE) + (
        _SECONDS_AT_KINKS if found.has_kinks else 0.0
    )
    return fixed + problem.rows * found.starts * of_start
