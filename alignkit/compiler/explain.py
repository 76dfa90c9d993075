"""The plan in words: what the compiler saw, the routes it weighed, the bids it compared, what is promised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignkit.base.law import BaseLaw
from alignkit.compiler.account import Account, Fact, RouteRow
from alignkit.compiler.bids import Answers
from alignkit.compiler.closeness import Wasserstein
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.phrases import brief, named, seconds
from alignkit.compiler.routes import Route
from alignkit.compiler.tree import LeftOut, TreeRow, lines_of, tree_rows
from alignkit.compiler.verdicts import Verdict
from alignkit.contracts import Composition
from alignkit.errors import AlignkitError
from alignkit.expressions import Constraint, Curvature, Expression
from alignkit.tilting.engines import ENGINES, choose_engine

if TYPE_CHECKING:
    from alignkit.compiler.plan import Plan

__all__ = ["Explanation", "explain_plan", "explain_refusal", "explain_solved", "with_law_terms"]


class Explanation(str):
    """An account in words: text everywhere, and a table in notebooks.

    Arguments:
        account: what it says.
        plan: what it is of; None where there is no plan.
    """

    account: Account
    plan: Plan | None

    def __new__(cls, account: Account, plan: Plan | None = None) -> Explanation:
        """Put an account into words."""
        text = super().__new__(cls, "\n".join(_lines(account)))
        text.account, text.plan = account, plan
        return text

    def _repr_html_(self) -> str:
        # Imported here, as only notebooks ask for it.
        from alignkit.compiler.notebook import account_html

        return account_html(self.account)


def explain_plan(plan: Plan) -> Explanation:
    """A readable account of a plan."""
    steps = [Fact("then" if first else "reduction", step.becomes) for first, step in enumerate(plan.chosen.reductions)]
    warnings = [Fact("warning", warning) for warning in plan.warnings]
    return Explanation(
        Account(
            problem=_problem(plan.diagnosis, plan.base),
            heading=_heading(plan.diagnosis, tractable=True),
            tree=_tree(plan.diagnosis),
            routes=_routes(plan.verdicts, plan.chosen),
            answers=Answers(plan.offers, plan.bid),
            plan=(*steps, *_engine(plan), *_search(plan), Fact("guarantee", plan.guarantee), *warnings),
        ),
        plan,
    )


def explain_refusal(
    diagnosis: Diagnosis, verdicts: Sequence[Verdict], base: BaseLaw, answers: Answers, error: AlignkitError
) -> Explanation:
    """A readable account of a problem that has no plan, ending with the error `solve` would raise and its ways out.

    Arguments:
        diagnosis, verdicts: what `analyse` gave.
        base: the base law p.
        answers: those of the backends, where any were asked.
        error: why there is no plan.
    """
    return Explanation(
        Account(
            problem=_problem(diagnosis, base),
            heading=_heading(diagnosis, tractable=any(verdict.admits for verdict in verdicts)),
            tree=_tree(diagnosis),
            routes=_routes(verdicts, None),
            answers=answers,
            error=error,
        )
    )


def explain_solved(plan: Plan, declared: Declaration | None) -> Explanation:
    """A readable account of a plan that was carried out, with what was asked of the law itself where that is known."""
    explanation = explain_plan(plan)
    return explanation if declared is None else with_law_terms(explanation, declared.utility, declared.constraints)


def with_law_terms(
    explanation: Explanation, utility: Expression | None, constraints: Sequence[Constraint]
) -> Explanation:
    """The account with what is asked of the law itself, beside the reward of its draws."""
    account = explanation.account
    facts = [Fact("utility", str(utility))] if utility is not None else []
    facts += [Fact("" if place else "subject to", str(one)) for place, one in enumerate(constraints)]
    if not facts:
        return explanation
    dual = Fact("dual", "multipliers of the expectations tilt the law: a smooth convex program in as many unknowns")
    known = account.problem
    after = 1 + next(place for place, fact in enumerate(known) if fact.label == "reward")
    steps = (*account.plan, dual) if account.plan else account.plan
    told = replace(account, problem=(*known[:after], *facts, *known[after:]), plan=steps)
    return Explanation(told, explanation.plan)


def _engine(plan: Plan) -> tuple[Fact, ...]:
    if plan.target is None:
        return ()
    return (Fact("engine", ENGINES[choose_engine(plan.target, "auto")]),)


def _search(plan: Plan) -> tuple[Fact, ...]:
    closeness = plan.closeness
    if not isinstance(closeness, Wasserstein) or closeness.radius is None:
        return ()
    rule = "λ minimises λρ + E_p sup_y r(y) − λ·c(x, y): where the mean cost of T is ρ, on draws of p; at a jump of it"
    return (Fact("radius", f"{rule} a coin for each draw chooses between two maps"),)


def _lines(account: Account) -> list[str]:
    lines = ["Problem", *_facts(account.problem)]
    if account.tree:
        lines += [account.heading, *lines_of(account.tree)]
    lines.append("Routes (with the time that the reduction adds to 10,000 rows)")
    lines += [f"  {route.name:<28} {route.cost:<10} {route.answer}" for route in account.routes]
    lines += account.answers.lines()
    if account.plan:
        lines += ["Plan", *_facts(account.plan)]
    if account.error is not None:
        lines.append(f"{type(account.error).__name__}: {account.error}")
    return lines


def _facts(facts: Sequence[Fact]) -> list[str]:
    return [f"  {fact.label:<11} {fact.text}" for fact in facts]


def _problem(diagnosis: Diagnosis, base: BaseLaw) -> tuple[Fact, ...]:
    composition = diagnosis.composition
    facts = [
        Fact("maximise", diagnosis.closeness.objective),
        Fact("base", f"{base.name}, shape {base.shape}"),
        Fact("reward", str(diagnosis.reward)),
        Fact("seen as", _seen(composition)),
        Fact("curvature", f"{diagnosis.curvature}: {diagnosis.rule}"),
    ]
    if diagnosis.curvature is Curvature.UNKNOWN:
        facts += _parts(diagnosis)
    dropped = composition.rows - composition.dimension
    note = f" ({composition.rows} affine rows, {dropped} dependent at {composition.tolerance:g})" if dropped > 0 else ""
    facts.append(Fact("dimension", f"k = {composition.dimension} of d = {composition.ambient}{note}"))
    facts += [Fact("dropped" if first == 0 else "", note) for first, note in enumerate(composition.notes)]
    lipschitz = "none known" if math.isinf(diagnosis.lipschitz) else f"{diagnosis.lipschitz:.4g}"
    return (*facts, Fact("Lipschitz", f"{lipschitz} (of f)"))


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


def _parts(diagnosis: Diagnosis) -> list[Fact]:
    if not diagnosis.is_difference_of_convex:
        open_terms = named([brief(term) for term in diagnosis.summands.undecided])
        return [Fact("parts", f"no difference of convex functions as far as is proved: {open_terms}")]
    parts = (
        ("convex", diagnosis.convex_part),
        ("concave", diagnosis.concave_part),
        ("affine", diagnosis.summands.affine_part),
    )
    found = [Fact("", f"{name:<8}{part}") for name, part in parts if part is not None]
    return [Fact("parts", "a difference of convex functions:"), *found]


def _heading(diagnosis: Diagnosis, *, tractable: bool) -> str:
    if not diagnosis.violations:
        return "Rules"
    consequence = "which the route it takes does not need" if tractable else "which no route makes up for"
    return f"Rules (✗ where it is not {diagnosis.wanted}, {consequence})"


def _tree(diagnosis: Diagnosis) -> tuple[TreeRow | LeftOut, ...]:
    return () if diagnosis.is_affine else tree_rows(diagnosis.reward, diagnosis.violations)


def _routes(verdicts: Sequence[Verdict], taken: Route | None) -> tuple[RouteRow, ...]:
    return tuple(_route(verdict, taken) for verdict in verdicts)


def _route(verdict: Verdict, taken: Route | None) -> RouteRow:
    route = verdict.route
    if verdict.excluded is not None:
        return RouteRow(route.name, "", "no", verdict.excluded)
    if not route.is_served:
        return RouteRow(route.name, "", "tractable", route.terminal.missing)
    return RouteRow(route.name, seconds(route.cost(verdict.diagnosis)), "taken" if route == taken else "possible")
