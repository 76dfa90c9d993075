"""The plan in words: what the compiler saw, the routes it weighed, the bids it compared, what is promised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignkit.base.law import BaseLaw
from alignkit.compiler.bids import Answers
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.phrases import brief, named, seconds
from alignkit.compiler.routes import Route
from alignkit.compiler.tree import tree_lines
from alignkit.compiler.verdicts import Verdict
from alignkit.contracts import Composition
from alignkit.expressions import Curvature

if TYPE_CHECKING:
    from alignkit.compiler.plan import Plan

__all__ = ["explain_plan", "explain_refusal"]


def explain_plan(plan: Plan) -> str:
    """A readable account of a plan."""
    lines = _problem(plan.diagnosis, plan.base)
    lines += _tree(plan.diagnosis, tractable=True)
    lines += _routes(plan.verdicts, plan.chosen)
    lines += Answers(plan.offers, plan.bid).lines()
    lines.append("Plan")
    for first, step in enumerate(plan.chosen.reductions):
        lines.append(f"  {'then' if first else 'reduction':<11} {step.becomes}")
    lines.append(f"  guarantee   {plan.guarantee}")
    lines += [f"  warning     {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def explain_refusal(
    diagnosis: Diagnosis, verdicts: Sequence[Verdict], base: BaseLaw, answers: Answers, error: Exception
) -> str:
    """A readable account of a problem that has no plan, ending with the error `solve` would raise and its ways out.

    Arguments:
        diagnosis, verdicts: what `analyse` gave.
        base: the base law p.
        answers: those of the backends, where any were asked.
        error: why there is no plan.
    """
    lines = _problem(diagnosis, base)
    lines += _tree(diagnosis, tractable=any(verdict.admits for verdict in verdicts))
    lines += _routes(verdicts, None)
    lines += answers.lines()
    lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)


def _problem(diagnosis: Diagnosis, base: BaseLaw) -> list[str]:
    composition = diagnosis.composition
    lipschitz = "none known" if math.isinf(diagnosis.lipschitz) else f"{diagnosis.lipschitz:.4g}"
    lines = [
        "Problem",
        f"  maximise    {diagnosis.closeness.objective}",
        f"  base        {base.name}, shape {base.shape}",
        f"  reward      {diagnosis.reward}",
        f"  seen as     {_seen(composition)}",
        f"  curvature   {diagnosis.curvature}: {diagnosis.rule}",
    ]
    if diagnosis.curvature is Curvature.UNKNOWN:
        lines += _parts(diagnosis)
    dropped = composition.rows - composition.dimension
    note = f" ({composition.rows} affine rows, {dropped} dependent at {composition.tolerance:g})" if dropped > 0 else ""
    lines.append(f"  dimension   k = {composition.dimension} of d = {composition.ambient}{note}")
    lines += [f"  {'dropped' if first == 0 else '':<11} {note}" for first, note in enumerate(composition.notes)]
    lines.append(f"  Lipschitz   {lipschitz} (of f)")
    return lines


def _seen(composition: Composition) -> str:
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
    return " + ".join(seen)


def _parts(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.is_difference_of_convex:
        open_terms = named([brief(term) for term in diagnosis.summands.undecided])
        return [f"  parts       no difference of convex functions as far as is proved: {open_terms}"]
    parts = (
        ("convex", diagnosis.convex_part),
        ("concave", diagnosis.concave_part),
        ("affine", diagnosis.summands.affine_part),
    )
    lines = [f"              {name:<8}{part}" for name, part in parts if part is not None]
    return ["  parts       a difference of convex functions:", *lines]


def _tree(diagnosis: Diagnosis, *, tractable: bool) -> list[str]:
    if diagnosis.is_affine:
        return []
    heading = "Rules"
    if diagnosis.violations:
        consequence = "which the route it takes does not need" if tractable else "which no route makes up for"
        heading += f" (✗ where it is not {diagnosis.wanted}, {consequence})"
    return [heading, *tree_lines(diagnosis.reward, diagnosis.violations)]


def _routes(verdicts: Sequence[Verdict], taken: Route | None) -> list[str]:
    lines = ["Routes (with the time that the reduction adds to 1,000 rows)"]
    for verdict in verdicts:
        cost = ""
        if verdict.excluded is not None:
            answer = f"no: {verdict.excluded}"
        elif not verdict.route.is_served:
            answer = f"tractable, but {verdict.route.terminal.missing}"
        else:
            cost = seconds(verdict.route.cost(verdict.diagnosis))
            answer = "taken" if verdict.route == taken else "possible"
        lines.append(f"  {verdict.route.name:<28} {cost:<10} {answer}")
    return lines
