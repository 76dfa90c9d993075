"""A report as one HTML file that needs nothing else: no network, no scripts, light and dark."""

from __future__ import annotations

import os
from html import escape
from importlib import resources
from pathlib import Path

from alignkit.errors import ParameterError
from alignkit.report.exhibits import charts_html, draws_html
from alignkit.report.findings import Findings
from alignkit.report.sections import SECTIONS, heading

__all__ = ["checked_path", "report_html"]

#: Nothing may be fetched and nothing may run, whatever is in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_html(findings: Findings) -> str:
    """The whole page.

    Arguments:
        findings: what it tells.

    Returns:
        HTML in which everything that a user or a backend wrote is escaped.
    """
    parts = {anchor: (name, write(findings)) for anchor, (name, write) in SECTIONS.items()}
    shown = {
        "problem": parts.pop("problem"),
        "draws": ("Before and after", draws_html(findings)),
        "diagnostics": ("A closer look", charts_html(findings)),
    } | parts
    body = "".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-name"><h2 id="{anchor}-name">{name}</h2>{content}</section>'
        for anchor, (name, content) in shown.items()
    )
    title = escape(f"{findings.plan.base.name}: alignkit report")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{_stylesheet()}</style></head>'
        f"<body><header>{heading(findings)}</header><main>{body}</main>"
        "<footer>Written by alignkit. The file needs no network, and holds everything that it shows.</footer>"
        "</body></html>\n"
    )


def _stylesheet() -> str:
    return (resources.files("alignkit.report") / "page.css").read_text(encoding="utf-8")


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Where a report can be written, its folder made.

    Arguments:
        path: of the file.

    Raises:
        ParameterError: it is a folder.
        OSError: its folder cannot be made.
    """
    found = Path(path)
    if found.is_dir():
        raise ParameterError(
            f"{str(found)!r} is a folder, and a report is a file.", ways_out=[f"{str(found / 'report.html')!r}."]
        )
    found.parent.mkdir(parents=True, exist_ok=True)
    return found
