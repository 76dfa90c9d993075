"""A problem as the tree of its atoms and the penalty beside them."""

from __future__ import annotations

import numpy as np

from alignkit.contracts import ProxProblem
from alignkit.expressions.splitting import split
from alignkit_cvxpy.costs import COSTS
from alignkit_cvxpy.displaced import displacement_penalty
from alignkit_cvxpy.lowering import LOWERINGS, UNLOWERED
from alignkit_cvxpy.penalty import Penalty, quadratic_penalty
from alignkit_cvxpy.sizing import LARGEST_ENTRIES, entries_of
from alignkit_cvxpy.tree import Tree, Unsupported, build_tree, moves

__all__ = ["prepare"]

#: λ must exceed λ_max(H) by this, relative to λ.
_MARGIN = 1e-10


def prepare(problem: ProxProblem) -> tuple[Tree, Penalty]:
    """A problem as the solver sees it.

    Raises:
        Unsupported: a summand or the cost has no lowering, or the objective is not concave.
    """
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
    entries = entries_of(tree, penalty)
    if entries > LARGEST_ENTRIES:
        raise Unsupported(f"a row has about {entries} conic variables, more than {LARGEST_ENTRIES}")
    return tree, penalty
