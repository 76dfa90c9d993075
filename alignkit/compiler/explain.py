"""The plan in words: what the compiler saw, the route it took, the bids it compared, what is promised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignkit.base.law import BaseLaw
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.contracts import Bid, Refusal

if TYPE_CHECKING:
    from alignkit.compiler.plan import Plan, Verdict

__all__ = ["explain_plan", "explain_refusal"]


def explain_plan(plan: Plan) -> str:
    """A readable account of a plan, several lines."""
    lines = _problem(plan.diagnosis, plan.base)
    lines += _routes(plan.verdicts, plan.route)
    lines.append(f"  reduction   {plan.chosen.reduction}")
    lines += _bids(plan.answers, plan.bid)
    lines.append(f"  guarantee   {plan.guarantee}")
    lines += [f"  warning     {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def explain_refusal(diagnosis: Diagnosis, verdicts: tuple[Verdict, ...], base: BaseLaw, error: Exception) -> str:
    """A readable account of a problem that has no plan, ending with the error `solve` would raise."""
    lines = [*_problem(diagnosis, base), *_routes(verdicts, None)]
    lines += [f"  {type(error).__name__}: {error}"]
    return "\n".join(lines)


def _problem(diagnosis: Diagnosis, base: BaseLaw) -> list[str]:
    composition = diagnosis.composition
    seen = []
    if composition.nonlinear is not None:
        seen.append(
            f"{composition.nonlinear}" if composition.subspace.is_identity else f"f(w) = {composition.nonlinear}"
        )
    norm = math.sqrt(float(composition.linear @ composition.linear))
    if norm > 0:
        seen.append(f"⟨g, x⟩ with ‖g‖ = {norm:.4g}")
    if composition.constant or not seen:
        seen.append(f"{composition.constant:.4g}")
    dropped = composition.rows - composition.dimension
    note = f" ({composition.rows} affine rows, {dropped} dependent at {composition.tolerance:g})" if dropped > 0 else ""
    lipschitz = "none known" if math.isinf(diagnosis.lipschitz) else f"{diagnosis.lipschitz:.4g}"
    return [
        "Problem",
        f"  maximise    {diagnosis.closeness.objective}",
        f"  base        {base.name}, shape {base.shape}",
        f"  reward      {diagnosis.reward}",
        f"  seen as     {' + '.join(seen)}",
        f"  curvature   {diagnosis.curvature}: {diagnosis.rule}",
        f"  dimension   k = {composition.dimension} of d = {composition.ambient}{note}",
        f"  Lipschitz   {lipschitz} (of f)",
    ]


def _routes(verdicts: Sequence[Verdict], taken: str | None) -> list[str]:
    lines = ["Routes"]
    for verdict in verdicts:
        if verdict.route.name == taken:
            answer = "taken"
        elif verdict.excluded is not None:
            answer = f"no: {verdict.excluded}"
        elif verdict.route.capability is None:
            answer = "tractable, but alignkit has no reduction for it yet"
        else:
            answer = "possible"
        lines.append(f"  {verdict.route.name:<28} {answer}")
    return lines


def _bids(answers: Sequence[Bid | Refusal], accepted: Bid | None) -> list[str]:
    if not answers:
        return ["  backend     none needed: the reduction is the solution"]
    lines = ["Backends"]
    for answer in answers:
        if isinstance(answer, Refusal):
            lines.append(f"  {answer.backend:<12} refused: {answer.reason}")
        else:
            mark = "chosen: " if answer is accepted else "bid: "
            promise = f"{answer.guarantee.name.lower()}; about {answer.seconds:.2g} s per 1,000 rows"
            lines.append(f"  {answer.backend:<12} {mark}{answer.method}; {promise}")
    return lines
