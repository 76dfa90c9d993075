"""Moments that no law has: proofs from the support of p, evidence from draws, and the errors that state them."""

from __future__ import annotations

import numpy as np

from alignkit.base.empirical import Empirical
from alignkit.contracts import Floats
from alignkit.errors import InfeasibleError
from alignkit.tilting.exponential_family import ExponentialFamily, WeightedDraws
from alignkit.tilting.law_program import LawSolution
from alignkit.tilting.law_request import LawRequest
from alignkit.tilting.separation import Separation, separate_box, separate_points

__all__ = ["infeasible", "out_of_reach", "radius_too_small", "refuse_impossible"]

# Matrices of a support with more entries are not looked at for a proof.
_LARGEST_PROOF = 1 << 22


def refuse_impossible(request: LawRequest) -> None:
    """Raise where the support that is known excludes the moments that are demanded."""
    program, base = request.program, request.target.program.base
    demanded, is_bound = program.demanded, program.is_bound
    if not demanded.size or program.ridge > 0:
        return
    rows = request.rows[program.valued :]
    if isinstance(base, Empirical):
        points = base.data @ rows.T
        if points.size <= _LARGEST_PROOF:
            _raise_if(separate_points(points, demanded, is_bound), request, f"at every data point of {base.name!r}")
        return
    _raise_if(
        separate_box(rows, demanded, is_bound, None), request, "everywhere: the constraints contradict each other"
    )
    if base.data_range is not None and rows.size <= _LARGEST_PROOF:
        lower, upper = base.data_range
        where = f"on all of [{lower:.6g}, {upper:.6g}], the data range of {base.name!r}"
        _raise_if(separate_box(rows, demanded, is_bound, base.data_range), request, where)


def _raise_if(found: Separation | None, request: LawRequest, where: str) -> None:
    if found is not None:
        raise infeasible(request, found.direction, found.wanted - found.least, where, is_proof=True)


def infeasible(
    request: LawRequest, direction: Floats, shortfall: float, where: str, *, is_proof: bool
) -> InfeasibleError:
    """The error that a direction separates what is demanded from what there is, by at least the shortfall.

    Arguments:
        request: the program.
        direction: over its constraints.
        shortfall: by how much the left sides miss the right sides along it, negative.
        where: all points that were looked at, in words.
        is_proof: whether these are the whole support.
    """
    names = request.names[request.program.valued :]
    terms = [
        f"{weight:+.3g}·{name if name.startswith('E(') and name.count('E(') == 1 else f'({name})'}"
        for weight, name in sorted(zip(direction, names, strict=True), key=lambda pair: -abs(pair[0]))
        if abs(weight) > 1e-6
    ]
    shown = " ".join(terms[:3]) + (f" and {len(terms) - 3} more" if len(terms) > 3 else "")
    claim = "This is proved" if is_proof else "This is evidence, not proof"
    error = InfeasibleError(
        f"No law near {request.target.program.base.name!r} meets the constraints. {claim}: of {shown}, the left sides "
        f"exceed the right sides by {-shortfall:.3g} or more {where}.",
        ways_out=[
            "Move the right sides towards what base draws have.",
            "solve(ridge=κ) with κ > 0 relaxes the constraints to a penalty ‖left − right‖²/2κ.",
        ],
    )
    error.direction, error.is_proof = direction, is_proof
    return error


def out_of_reach(request: LawRequest, family: ExponentialFamily, solution: LawSolution) -> InfeasibleError:
    """What the draws, or the divergence of the multipliers, say against the moments."""
    program = request.program
    if isinstance(family, WeightedDraws) and program.demanded.size:
        points = family.statistics[:, 1 + program.valued :]
        found = separate_points(points, program.demanded, program.is_bound)
        if found is not None:
            is_proof = isinstance(request.target.program.base, Empirical)
            where = "at every data point" if is_proof else f"at all of {len(points):,} draws of laws that lead there"
            return infeasible(request, found.direction, found.wanted - found.least, where, is_proof=is_proof)
    lengths = np.abs(solution.multipliers)
    worst = request.names[int(np.argmax(lengths))] if lengths.size else "the reward"
    return InfeasibleError(
        f"No law near {request.target.program.base.name!r} was found with the moments that are asked for: the "
        f"multipliers grow without end, that of {worst} most. This is evidence, not proof.",
        ways_out=[
            "Move the constraints, or the domain of the utility, towards what base draws have.",
            "solve(ridge=κ) with κ > 0 relaxes constraints to a penalty.",
        ],
    )


def radius_too_small(request: LawRequest, solution: LawSolution) -> InfeasibleError:
    """The error that no law within the radius meets the constraints, from the closest that does."""
    return InfeasibleError(
        f"No law within KL(q‖p) ≤ {request.radius:.6g} meets the constraints: the closest that does lies at "
        f"{solution.member.divergence:.6g} nats.",
        ways_out=[
            f"ak.KL(radius=ρ) with ρ > {solution.member.divergence:.4g}.",
            "Move the right sides of the constraints towards what base draws have.",
        ],
    )
