"""An account as a table for notebooks: plain HTML in the colours around it, without scripts and without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from alignkit.compiler.account import Account, Fact, RouteRow
from alignkit.compiler.bids import Offer
from alignkit.compiler.tree import LeftOut, TreeRow
from alignkit.contracts import Bid
from alignkit.errors import AlignkitError

__all__ = ["account_html"]

# Notebooks align cells to the right; colours are left to them, so that both of their themes are kept. The class stands
# twice to outweigh their own rules.
_STYLE = (
    ".alignkit-account.alignkit-account :is(td, th) { text-align: left; vertical-align: top; white-space: pre-wrap }"
    ".alignkit-account.alignkit-account .tree { font-family: monospace }"
)
_TREE = ' class="tree"'


def account_html(account: Account) -> str:
    """The sections of an account, one below the other, each folded by a click on its name.

    Returns:
        HTML in which everything that a user or a backend wrote is escaped.
    """
    sections = [_section("Problem", _table(map(_fact, account.problem)))]
    if account.tree:
        heads = ("expression", "curvature", "sign", "as it grows, the line above is")
        sections.append(_section(account.heading, _table(_tree_rows(account.tree), heads)))
    sections.append(_section("Routes", _table(map(_route, account.routes), ("route", "for 10,000 rows", ""))))
    sections += [
        _section(f"Backends for {offer.title}", _offer(offer, account.answers.chosen))
        for offer in account.answers.offers
    ]
    if account.plan:
        sections.append(_section("Plan", _table(map(_fact, account.plan))))
    if account.error is not None:
        sections.append(_section(type(account.error).__name__, _error(account.error)))
    return f'<div class="alignkit-account"><style>{_STYLE}</style>{"".join(sections)}</div>'


def _section(name: str, body: str) -> str:
    return f"<details open><summary><strong>{escape(name)}</strong></summary>{body}</details>"


def _table(rows: Iterable[str], heads: Sequence[str] = ()) -> str:
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    top = f"<thead><tr>{cells}</tr></thead>" if heads else ""
    return f"<table>{top}<tbody>{''.join(rows)}</tbody></table>"


def _row(*cells: str, emphasised: bool = False) -> str:
    return f"<tr>{''.join(_cell(f'<strong>{cell}</strong>' if emphasised and cell else cell) for cell in cells)}</tr>"


def _cell(content: str, attributes: str = "") -> str:
    return f"<td{attributes}>{content}</td>"


def _fact(fact: Fact) -> str:
    return f'<tr><th scope="row">{escape(fact.label)}</th>{_cell(escape(fact.text))}</tr>'


def _tree_rows(rows: Iterable[TreeRow | LeftOut]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, LeftOut):
            yield _spanning(str(row))
            continue
        known = ("as above", "", "") if row.again else (row.curvature, row.sign, row.moves)
        cells = "".join(_cell(escape(one)) for one in known)
        yield "".join(["<tr>", _cell(escape(row.branch + row.text), _TREE), cells, "</tr>"])
        for reason in row.reasons:
            yield _spanning(f"{row.below}✗ {reason}")


def _spanning(text: str) -> str:
    return "".join(["<tr>", _cell(escape(text), f'{_TREE} colspan="4"'), "</tr>"])


def _route(route: RouteRow) -> str:
    return _row(escape(route.name), escape(route.cost), escape(str(route.answer)), emphasised=route.verdict == "taken")


def _offer(offer: Offer, chosen: Bid | None) -> str:
    rows = [
        _row(escape(backend), escape(kind), escape(text), emphasised=kind == "chosen")
        for backend, kind, text in offer.rows(chosen)
    ]
    return _table(rows or [_row(escape(offer.emptiness))])


def _error(error: AlignkitError) -> str:
    where = "" if error.expression is None else f"<p>In: <code>{escape(error.expression)}</code></p>"
    ways = "".join(f"<li>{escape(way)}</li>" for way in error.ways_out)
    return f"<p>{escape(error.message)}</p>{where}{f'<p>Ways out:</p><ul>{ways}</ul>' if ways else ''}"
