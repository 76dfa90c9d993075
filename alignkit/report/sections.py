"""The parts of a report, each as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape

from alignkit.certificates import KLCertificate
from alignkit.citations import Citation
from alignkit.compiler.explain import explain_solved
from alignkit.compiler.formula import plan_latex, problem_formula
from alignkit.compiler.notebook import account_html
from alignkit.errors import Status
from alignkit.report.findings import Findings
from alignkit.report.mathml import mathml
from alignkit.report.numerals import typeset

__all__ = ["SECTIONS", "heading"]


def heading(findings: Findings) -> str:
    """What it is about and what came out, at one glance."""
    plan, certificate = findings.plan, findings.certificate
    is_kl = isinstance(certificate, KLCertificate)
    reward = plan.diagnosis.reward if findings.declared is None else findings.declared.reward
    gain = _number(certificate.reward_after.value - certificate.reward_before.value)
    after = _tile("Reward", str(certificate.reward_after), f"before: {certificate.reward_before}; gained: {gain}")
    is_solved = findings.status is Status.SOLVED
    mark = "✓" if is_solved else "!"
    budget = "its price is" if plan.closeness.radius is None else "there is a budget of"
    return (
        f'<p class="over">alignkit report</p><h1>{escape(plan.base.name)}, '
        f"{'tilted' if is_kl else 'moved'} towards a reward</h1>"
        f"<p>The reward is <code>{escape(str(reward))}</code>; {budget} closeness to the base law in the sense of "
        f"{'Kullback and Leibler' if is_kl else 'Wasserstein'}.</p>"
        f'<p class="status{" solved" if is_solved else ""}">{mark} {escape(str(findings.status))}</p>'
        f'<dl class="tiles">{after}{"".join(_tiles(findings))}</dl>'
    )


def _tiles(findings: Findings) -> Iterator[str]:
    certificate = findings.certificate
    known = certificate.weight
    if known is None and findings.plan.closeness.weight is not None:
        known = findings.plan.closeness.present_weight
    weight = "" if known is None else f"λ = {_number(known)}"
    if isinstance(certificate, KLCertificate):
        yield _tile("Distance KL(q‖p)", f"{certificate.kl} nats", weight)
        cost = f"{certificate.nfe_per_sample:g} evaluations of the network a draw" if certificate.nfe_per_sample else ""
        yield _tile("Proposals kept", f"{100 * certificate.acceptance:.3g} %", cost)
    else:
        yield _tile("Mean cost of a move", str(certificate.transport_cost), weight)
        yield _tile("Largest relative gap", _number(certificate.gap_max), f"{certificate.rows_unfinished} unfinished")


def _tile(name: str, value: str, note: str) -> str:
    small = f"<small>{escape(typeset(note))}</small>" if note else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(typeset(value))}{small}</dd></div>"


def _problem(findings: Findings) -> str:
    plan, declared = findings.plan, findings.declared
    reward = plan.diagnosis.reward if declared is None else declared.reward
    formula = problem_formula(reward, plan.base, plan.closeness, () if declared is None else declared.constraints)
    parts = [_formula(formula.objective, "The problem")]
    if formula.conditions:
        parts.append("<p>subject to</p>")
        parts += [_formula(condition, "Condition") for condition in formula.conditions]
    parts.append("<p>where</p>")
    parts += [_formula(one, "Given") for one in formula.given]
    parts.append("<h3>What it was reduced to</h3>")
    parts.append(_formula(plan_latex(plan, declared), "The reduced problem"))
    return "".join(parts)


def _formula(text: str, label: str) -> str:
    # What scrolls has to be within reach of the keyboard.
    return f'<div class="formula" tabindex="0" role="group" aria-label="{label}">{mathml(text)}</div>'


def _certificate(findings: Findings) -> str:
    return _table(findings.certificate.rows)


def _plan(findings: Findings) -> str:
    return account_html(explain_solved(findings.plan, findings.declared).account)


def _environment(findings: Findings) -> str:
    return _table(findings.environment)


def _citations(findings: Findings) -> str:
    papers = findings.plan.citations
    if not papers:
        return "<p>This solution rests on no publication.</p>"
    listed = "".join(f"<li>{_paper(paper)}</li>" for paper in papers)
    bibtex = escape("\n\n".join(paper.bibtex for paper in papers))
    return (
        f'<ol class="papers">{listed}</ol><details><summary>BibTeX</summary>'
        f'<pre tabindex="0" aria-label="BibTeX">{bibtex}</pre></details>'
    )


def _paper(paper: Citation) -> str:
    text = escape(str(paper))
    if paper.arxiv is not None:
        return f'{text} · <a href="https://arxiv.org/abs/{escape(paper.arxiv)}">arXiv</a>'
    return text if paper.doi is None else f'{text} · <a href="https://doi.org/{escape(paper.doi)}">DOI</a>'


def _table(rows: Mapping[str, str]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(typeset(text))}</td></tr>' for name, text in rows.items()
    )
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>'


def _number(value: float) -> str:
    return f"{value:.3g}"


#: From the anchor of a section to its name and what is in it, in order, around the draws and the diagnostics.
SECTIONS: dict[str, tuple[str, Callable[[Findings], str]]] = {
    "problem": ("The problem", _problem),
    "certificate": ("What was achieved", _certificate),
    "plan": ("How it was solved", _plan),
    "environment": ("Made with", _environment),
    "citations": ("What it rests on", _citations),
}
