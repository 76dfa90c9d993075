"""`alignkit explain` and `alignkit cite`: what is known of a problem, or of a saved result, without solving."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alignkit.cli.arguments import add_command, is_problem_file, print_json, problem_in
from alignkit.compiler.explain import Explanation
from alignkit.compiler.plan import Plan
from alignkit.errors import AlignkitError
from alignkit.saving.result import read_account

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the commands."""
    explain = add_command(
        commands,
        "explain",
        _explain,
        summary="say how a problem would be solved, or why it cannot be; or how a saved result was",
        description="Print what the compiler sees in a problem: its curvature and dimension, every route with the "
        "reason it is taken or not, every backend's bid, what is promised. Nothing is drawn. A problem without a plan "
        "ends with the changes that would give it one, and exit code 2. Of a saved result the plan and the certificate "
        "are printed.",
        example="alignkit explain bright.py\nalignkit explain bright/result.alignkit",
    )
    cite = add_command(
        commands,
        "cite",
        _cite,
        summary="list the papers that a solution rests on",
        description="List the papers that a solution rests on: of the route, of the rules that proved it, of the "
        "backend's method.",
        example="alignkit cite bright.py --style bibtex >> references.bib",
    )
    cite.add_argument("--style", choices=("text", "bibtex"), default="text", help="the form (%(default)s)")
    for command in (explain, cite):
        command.add_argument("file", type=Path, help="a file of Python that sets `problem`, or a saved result")
        command.add_argument("--json", action="store_true", help="print JSON")


def _explain(options: argparse.Namespace) -> int:
    if not is_problem_file(options.file):
        account = read_account(options.file)
        if options.json:
            print_json({name: account[name] for name in ("explanation", "status", "certificate")})
        else:
            print(account["explanation"], account["status"], account["certificate"], sep="\n\n")
        return 0
    explanation = problem_in(options.file).explain()
    if options.json:
        print_json(_told(explanation))
    else:
        print(explanation)
    return 2 if explanation.plan is None else 0


def _told(explanation: Explanation) -> dict[str, Any]:
    """An explanation for programs."""
    account, plan = explanation.account, explanation.plan
    found = {} if plan is None else _plan(plan)
    if account.error is not None:
        found |= _refusal(account.error)
    routes = [{"name": one.name, "verdict": one.verdict, "reason": one.reason} for one in account.routes]
    return {"tractable": plan is not None, **found, "routes": routes, "explanation": str(explanation)}


def _plan(plan: Plan) -> dict[str, Any]:
    answers = [(offer.title, *row) for offer in plan.offers for row in offer.rows(plan.bid)]
    return {
        "route": plan.route,
        "backend": plan.backend,
        "dimension": plan.dimension,
        "curvature": plan.diagnosis.curvature.name.lower(),
        "guarantee": plan.guarantee,
        "warnings": plan.warnings,
        "answers": [dict(zip(("routes", "backend", "answer", "says"), row, strict=True)) for row in answers],
    }


def _refusal(error: AlignkitError) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": error.message, "ways_out": error.ways_out}


def _cite(options: argparse.Namespace) -> int:
    if is_problem_file(options.file):
        found = problem_in(options.file).cite(options.style)
    else:
        account = read_account(options.file)
        found = account["bibtex" if options.style == "bibtex" else "citations"]
    if options.json:
        print_json({"style": options.style, "citations": found.split("\n\n" if options.style == "bibtex" else "\n")})
    else:
        print(found)
    return 0
